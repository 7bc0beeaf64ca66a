//! What messages call an instance and who is on it, and which requests have been settled.

use phasegate_clock::Timestamp;
use phasegate_database::args;
use phasegate_id::{ApprovalId, EventId, InstanceId, ParticipantId, TenantId};

use super::hear_postgres::{Heard, News, Piece};
use super::{CONSUMER, Error, Store};
use crate::domain::Process;

impl Store {
    /// Keeps the names and people of an instance. True where they were not kept before; keeping them twice changes nothing.
    pub(crate) async fn instance_remember(
        &self,
        tenant: TenantId,
        instance: InstanceId,
        names: (String, String),
        people: Vec<(ParticipantId, bool)>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        if let Some(hearing) = &self.hearing {
            let news = News::Started { names, people };
            let heard = hearing.hear(Piece { tenant, instance, event: None, now, news }).await?;
            return Ok(heard == Heard::Written { is_new: true });
        }
        let (name, process_name) = names;
        self.database
            .transaction(move |tx| {
                Box::pin(async move {
                    let kept = tx
                        .execute(
                            "insert into instance (tenant_id, instance_id, name, process_name)
                             values ($1, $2, $3, $4) on conflict do nothing",
                            args![tenant.as_str(), instance.as_str(), name, process_name],
                        )
                        .await?;
                    for (person, informed) in people {
                        tx.execute(
                            "insert into instance_person (tenant_id, instance_id, participant_id, informed)
                             values ($1, $2, $3, $4) on conflict do nothing",
                            args![tenant.as_str(), instance.as_str(), person.as_str(), informed],
                        )
                        .await?;
                    }
                    Ok(kept == 1)
                })
            })
            .await
    }

    /// Finds the names and people of an instance.
    pub(crate) async fn instance_find(
        &self,
        tenant: &TenantId,
        instance: &InstanceId,
    ) -> Result<Option<Process>, Error> {
        let rows = self
            .database
            .fetch_all(
                "select i.name, i.process_name, p.participant_id, p.informed from instance i
                   left join instance_person p on p.tenant_id = i.tenant_id and p.instance_id = i.instance_id
                  where i.tenant_id = $1 and i.instance_id = $2 order by p.participant_id",
                args![tenant.as_str(), instance.as_str()],
            )
            .await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let mut process = Process {
            instance_name: first.get("name")?,
            definition_name: first.get("process_name")?,
            informed: Vec::new(),
            people: std::collections::BTreeSet::new(),
        };
        for row in &rows {
            // None where the instance has nobody.
            let Some(person) = row.get::<Option<String>>("participant_id")? else { continue };
            let person = ParticipantId::trusted(person);
            if row.get("informed")? {
                process.informed.push(person.clone());
            }
            process.people.insert(person);
        }
        Ok(Some(process))
    }

    /// Notes that a request has come to its end. What still waits to ask for it is not sent.
    pub(crate) async fn approval_settle(
        &self,
        tenant: TenantId,
        instance: InstanceId,
        event: EventId,
        approval: ApprovalId,
        now: Timestamp,
    ) -> Result<(), Error> {
        if let Some(hearing) = &self.hearing {
            let news = News::Settled(approval);
            hearing.hear(Piece { tenant, instance, event: Some(event), now, news }).await?;
            return Ok(());
        }
        self.database
            .transaction(move |tx| {
                Box::pin(async move {
                    tx.linger();
                    if phasegate_outbox::inbox_receive(tx, &tenant, CONSUMER, &event, now).await? {
                        tx.execute(
                            "insert into settled_approval (tenant_id, approval_id, settled_at)
                             values ($1, $2, $3) on conflict do nothing",
                            args![tenant.as_str(), approval.as_str(), now],
                        )
                        .await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

//! What messages call an instance and who is on it, and which requests have been settled.

use phasegate_clock::Timestamp;
use phasegate_database::args;
use phasegate_id::{ApprovalId, EventId, InstanceId, ParticipantId, TenantId};

use super::{CONSUMER, Error, Store};
use crate::domain::Process;

impl Store {
    /// Keeps the names and people of an instance. Keeping them twice changes nothing.
    pub(crate) async fn instance_remember(
        &self,
        tenant: TenantId,
        instance: InstanceId,
        (name, process_name): (String, String),
        people: Vec<(ParticipantId, bool)>,
    ) -> Result<(), Error> {
        self.database
            .transaction(move |tx| {
                Box::pin(async move {
                    tx.execute(
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
                    Ok(())
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
        let row = self
            .database
            .fetch_optional(
                "select name, process_name from instance where tenant_id = $1 and instance_id = $2",
                args![tenant.as_str(), instance.as_str()],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        let mut process = Process {
            instance_name: row.get("name")?,
            definition_name: row.get("process_name")?,
            informed: Vec::new(),
            people: std::collections::BTreeSet::new(),
        };
        let rows = self
            .database
            .fetch_all(
                "select participant_id, informed from instance_person
                  where tenant_id = $1 and instance_id = $2 order by participant_id",
                args![tenant.as_str(), instance.as_str()],
            )
            .await?;
        for row in rows {
            let person = ParticipantId::trusted(row.get::<String>("participant_id")?);
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
        event: EventId,
        approval: ApprovalId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.database
            .transaction(move |tx| {
                Box::pin(async move {
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

//! Numbers for those who watch the installation: of all tenants together, from small indexes.

use std::collections::BTreeMap;

use phasegate_clock::Timestamp;
use phasegate_database::args;
use phasegate_id::InstanceId;

use super::{Error, Store};

/// What there is just now.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Instances under way, by definition, status and health.
    pub(crate) instances: BTreeMap<(String, String, String), u32>,
    /// Tasks that can be handed out, by queue, with the time since when the oldest can.
    pub(crate) ready: BTreeMap<String, (u32, Timestamp)>,
    /// Leases that are out, by queue and worker.
    pub(crate) leased: BTreeMap<String, BTreeMap<String, u32>>,
}

impl Store {
    /// Counts in one statement. Work that could be handed out before `missed`, and whose queue nobody has asked for since,
    /// has no worker.
    pub(crate) async fn counts(&self, now: Timestamp, missed: Timestamp) -> Result<Counts, Error> {
        let rows = self
            .db
            .across_tenants()
            .fetch_all(
                "select 'instance' as what, name, status as detail, health, count(*) as number,
                        cast(null as bigint) as since
                   from (select process_id as name, status,
                                case when health = 'blocked' then health
                                     when overdue_at <= $1 then 'overdue'
                                     when exists (
                                         select 1 from work
                                          where work.tenant_id = instance.tenant_id
                                            and work.instance_id = instance.instance_id
                                            and work.ready_at <= $2
                                            and not exists (
                                                select 1 from queue_poll
                                                 where queue_poll.tenant_id = work.tenant_id
                                                   and queue_poll.queue = work.queue
                                                   and queue_poll.polled_at > $2)) then 'no_worker'
                                     else health
                                end as health
                           from instance where ended_at is null) as under_way
                  group by name, status, health
                 union all
                 select 'ready', queue, '', '', count(*), min(ready_at) from work where ready_at <= $1 group by queue
                 union all
                 select 'leased', queue, worker, '', count(*), null from lease
                  where ends_at is not null group by queue, worker",
                args![now, missed],
            )
            .await
            .map_err(Error::doing("count"))?;
        let mut counts = Counts::default();
        for row in rows {
            let (what, name): (String, String) = (row.get("what")?, row.get("name")?);
            let (detail, number): (String, u32) = (row.get("detail")?, row.get("number")?);
            match what.as_str() {
                "instance" => {
                    counts.instances.insert((name, detail, row.get("health")?), number);
                }
                "ready" => {
                    let since: Option<Timestamp> = row.get("since")?;
                    counts.ready.insert(name, (number, since.unwrap_or(now)));
                }
                _ => {
                    counts.leased.entry(name).or_default().insert(detail, number);
                }
            }
        }
        Ok(counts)
    }

    /// The instance behind another one, in the order of their keys, whoever's it is.
    pub(crate) async fn instance_after(
        &self,
        tenant: &str,
        instance_id: &str,
    ) -> Result<Option<(String, InstanceId)>, Error> {
        let row = self
            .db
            .across_tenants()
            .fetch_optional(
                "select tenant_id, instance_id from instance where (tenant_id, instance_id) > ($1, $2)
                  order by tenant_id, instance_id limit 1",
                args![tenant, instance_id],
            )
            .await
            .map_err(Error::doing("look for an instance"))?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((row.get("tenant_id")?, InstanceId::trusted(row.get::<String>("instance_id")?))))
    }
}

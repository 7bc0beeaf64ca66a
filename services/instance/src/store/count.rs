//! Numbers for those who watch the installation: of all tenants together, from small indexes.

use std::collections::BTreeMap;

use phasegate_clock::Timestamp;
use phasegate_database::args;
use phasegate_id::InstanceId;

use super::{Error, Store};

/// What there is just now.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Instances under way, by definition and status.
    pub(crate) instances: BTreeMap<(String, String), u32>,
    /// Tasks that can be handed out, by queue, with the time since when the oldest can.
    pub(crate) ready: BTreeMap<String, (u32, Timestamp)>,
    /// Leases that are out, by queue and worker.
    pub(crate) leased: BTreeMap<String, BTreeMap<String, u32>>,
}

impl Store {
    /// Counts in one statement.
    pub(crate) async fn counts(&self, now: Timestamp) -> Result<Counts, Error> {
        let rows = self
            .db
            .fetch_all(
                "select 'instance' as what, process_id as name, status as detail, count(*) as number,
                        cast(null as bigint) as since
                   from instance where ended_at is null group by process_id, status
                 union all
                 select 'ready', queue, '', count(*), min(ready_at) from work where ready_at <= $1 group by queue
                 union all
                 select 'leased', queue, worker, count(*), null from lease
                  where ends_at is not null group by queue, worker",
                args![now],
            )
            .await
            .map_err(Error::doing("count"))?;
        let mut counts = Counts::default();
        for row in rows {
            let (what, name): (String, String) = (row.get("what")?, row.get("name")?);
            let (detail, number): (String, u32) = (row.get("detail")?, row.get("number")?);
            match what.as_str() {
                "instance" => {
                    counts.instances.insert((name, detail), number);
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

    /// The instance behind another one, in the order of their keys.
    pub(crate) async fn instance_after(
        &self,
        tenant: &str,
        instance_id: &str,
    ) -> Result<Option<(String, InstanceId)>, Error> {
        let row = self
            .db
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

//! What still waits in the databases, read from outside, and not by way of any service.

use std::collections::BTreeMap;

use anyhow::Context as _;

use crate::machine::Postgres;

/// Schemas with an outbox.
const SENDERS: [&str; 5] = ["instance", "approval", "artifact", "participant", "notification"];

/// What still waits in the databases.
#[derive(Debug, Default, Clone)]
pub struct Waiting {
    /// Events that somebody has not confirmed, by service.
    pub events: BTreeMap<&'static str, u64>,
    /// Events that were set aside, or failed and are tried again, with their errors.
    pub failed: Vec<String>,
    /// Messages that are due.
    pub mail_due: u64,
    /// Messages that are not sent, due or not.
    pub mail: u64,
}

impl Waiting {
    /// Reads everything at once, so that nothing moves from what is still to be read to what has been read.
    pub async fn read(postgres: &Postgres) -> anyhow::Result<Self> {
        let mut counts: Vec<String> = SENDERS
            .iter()
            .map(|service| {
                format!(
                    "select '{service}', '', count(*) from phasegate_{service}.outbox
                      where receivers_left <> 0"
                )
            })
            .collect();
        counts.extend(SENDERS.iter().map(|service| {
            format!(
                "select 'failed', '{service}: ' || consumer || ' ' || tries || ' times: ' || last_error, 1
                   from phasegate_{service}.dead_letter"
            )
        }));
        let mail = "from phasegate_notification.notification where status = 'queued'";
        let due = "next_attempt_at < extract(epoch from now()) * 1000000";
        counts.push(format!("select 'mail', '', count(*) {mail}"));
        counts.push(format!("select 'mail due', '', count(*) {mail} and {due}"));
        let sql = format!(
            "select what || '|' || count || '|' || said from ({}) as counts (what, said, count)",
            counts.join(" union all ")
        );
        let mut waiting = Self::default();
        for row in postgres.query(&sql).await? {
            let mut columns = row.splitn(3, '|');
            let mut column = || columns.next().context("three columns");
            let (what, count, said) = (column()?, column()?.parse()?, column()?.to_owned());
            match (what, SENDERS.into_iter().find(|service| *service == what)) {
                (_, Some(service)) if count > 0 => drop(waiting.events.insert(service, count)),
                ("failed", _) => waiting.failed.push(said),
                ("mail", _) => waiting.mail = count,
                ("mail due", _) => waiting.mail_due = count,
                _ => {}
            }
        }
        Ok(waiting)
    }

    /// Nothing that could be done is left to do.
    pub fn is_over(&self) -> bool {
        self.events.is_empty() && self.mail_due == 0
    }
}

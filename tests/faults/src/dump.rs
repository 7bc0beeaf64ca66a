//! What the databases hold, read once from outside, and not by way of any service.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;

use crate::machine::Postgres;

/// Schemas with an outbox.
const SENDERS: [&str; 5] = ["instance", "approval", "artifact", "participant", "notification"];

/// What still waits in the databases.
#[derive(Debug, Default, Clone)]
pub(crate) struct Waiting {
    /// Events that somebody has not confirmed, by service.
    pub(crate) events: BTreeMap<&'static str, u64>,
    /// Events that were set aside, or failed and are tried again, with their errors.
    pub(crate) failed: Vec<String>,
    /// Messages that are due.
    pub(crate) mail_due: u64,
    /// Messages that are not sent, due or not.
    pub(crate) mail: u64,
}

impl Waiting {
    pub(crate) async fn read(postgres: &Postgres) -> anyhow::Result<Self> {
        let mut waiting = Self::default();
        for service in SENDERS {
            let sql = format!(
                "select count(*) from phasegate_{service}.outbox where sent_at is null or receivers_left <> 0"
            );
            let count = number(&postgres.query(&sql).await?)?;
            if count > 0 {
                waiting.events.insert(service, count);
            }
            let sql = format!(
                "select '{service}: ' || consumer || ' ' || tries || ' times: ' || last_error from phasegate_{service}.dead_letter"
            );
            waiting.failed.extend(postgres.query(&sql).await?);
        }
        let sql = "select count(*) from phasegate_notification.notification where status = 'queued'";
        waiting.mail = number(&postgres.query(sql).await?)?;
        let due = "and next_attempt_at < extract(epoch from now()) * 1000000";
        waiting.mail_due = number(&postgres.query(&format!("{sql} {due}")).await?)?;
        Ok(waiting)
    }

    /// Nothing that could be done is left to do.
    pub(crate) fn is_over(&self) -> bool {
        self.events.is_empty() && self.mail_due == 0
    }
}

/// Messages that the service believes to be sent and the mail server has never seen, and those given up.
pub(crate) async fn lost_mail(
    postgres: &Postgres,
    taken: &BTreeMap<String, Vec<String>>,
) -> anyhow::Result<(u64, Vec<String>)> {
    let rows =
        postgres.query("select status || '|' || message_id from phasegate_notification.notification").await?;
    let taken: BTreeSet<&str> = taken.keys().map(|id| bare(id)).collect();
    let mut faults = Vec::new();
    let mut sent = 0;
    for row in &rows {
        let (status, id) = row.split_once('|').context("two columns")?;
        match status {
            "sent" if taken.contains(bare(id)) => sent += 1,
            "sent" => faults.push(format!("mail {id} is said to be sent, and never came")),
            "failed" => faults.push(format!("mail {id} was given up")),
            _ => {}
        }
    }
    Ok((sent, faults))
}

fn bare(id: &str) -> &str {
    id.trim_matches(['<', '>'])
}

fn number(rows: &[String]) -> anyhow::Result<u64> {
    Ok(rows.first().context("a row")?.parse()?)
}

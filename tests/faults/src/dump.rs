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
    /// Reads everything at once, so that nothing moves from what is still to be read to what has been read.
    pub(crate) async fn read(postgres: &Postgres) -> anyhow::Result<Self> {
        let mut counts: Vec<String> = SENDERS
            .iter()
            .map(|service| {
                format!(
                    "select '{service}', '', count(*) from phasegate_{service}.outbox
                      where sent_at is null or receivers_left <> 0"
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
    pub(crate) fn is_over(&self) -> bool {
        self.events.is_empty() && self.mail_due == 0
    }
}

/// Messages that the service believes to be sent and the mail server has never seen, those given up, and those that were
/// not the same when they came again.
pub(crate) async fn lost_mail(
    postgres: &Postgres,
    taken: &BTreeMap<String, Vec<String>>,
) -> anyhow::Result<(u64, Vec<String>)> {
    let rows =
        postgres.query("select status || '|' || message_id from phasegate_notification.notification").await?;
    let mut faults: Vec<String> = taken
        .iter()
        .filter(|(_, texts)| texts.iter().any(|text| Some(text) != texts.first()))
        .map(|(id, texts)| format!("mail {id} came again with another text: {texts:?}"))
        .collect();
    let taken: BTreeSet<&str> = taken.keys().map(|id| bare(id)).collect();
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

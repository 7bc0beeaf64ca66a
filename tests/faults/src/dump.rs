//! What the databases hold of mail, read once from outside, and not by way of any service.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use phasegate_load::machine::Postgres;

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

//! `phasegate audit`: the record of an instance.

use std::collections::BTreeMap;

use clap::Subcommand;
use phasegate_proto::instance::v1::{AuditEntry, ListAuditEntriesRequest, VerifyAuditChainRequest};
use prost_types::value::Kind;

use super::failure::Failure;
use super::output::Ink;
use super::session::Session;
use super::table::{Table, plain, styled};
use super::{Page, moment};
use crate::cli::output::Style;

/// What can be done with the record.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// List the record of an instance, oldest first
    #[command(
        before_help = "Examples:\n  phasegate audit list proc-inst-123\n  phasegate audit list proc-inst-123 --type approval --type phase_transition -o jsonl"
    )]
    List {
        /// Instance
        instance_id: String,
        /// Of this kind only, such as approval or artifact; may be repeated
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Prove that no entry of the record was changed or taken out
    #[command(before_help = "Example:\n  phasegate audit verify proc-inst-123")]
    Verify {
        /// Instance
        instance_id: String,
    },
}

impl Verb {
    /// The instance that it is about.
    pub(super) fn instance_id(&self) -> &str {
        match self {
            Verb::List { instance_id, .. } | Verb::Verify { instance_id } => instance_id,
        }
    }
}

/// Does it.
pub(super) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Failure> {
    match verb {
        Verb::List { instance_id, types, page } => {
            let request = ListAuditEntriesRequest {
                instance_id,
                page_size: page.limit,
                page_token: page.page_token,
                types,
                since: None,
                until: None,
            };
            list(request, session).await
        }
        Verb::Verify { instance_id } => verify(instance_id, session).await,
    }
}

async fn list(request: ListAuditEntriesRequest, session: &mut Session<'_>) -> Result<(), Failure> {
    let answer = session
        .call(request, async |client, request| client.events().list_audit_entries(request).await)
        .await?;
    if session.is_for_programs() {
        let name = "phasegate.instance.v1.AuditEntry";
        return session.output.items(&answer.entries, name, &answer.next_page_token);
    }
    let text = table(&answer.entries, session.output.ink);
    session.output.lines(&text)?;
    session.output.more(&answer.next_page_token);
    Ok(())
}

async fn verify(instance_id: String, session: &mut Session<'_>) -> Result<(), Failure> {
    let request = VerifyAuditChainRequest { instance_id };
    let answer = session
        .call(request, async |client, request| client.events().verify_audit_chain(request).await)
        .await?;
    if session.is_for_programs() {
        session.output.message(&answer, "phasegate.instance.v1.VerifyAuditChainResponse")?;
    } else if answer.intact {
        let text = format!("Intact: {} entries, head {}", answer.entries, answer.head_hash);
        session.output.lines(&text)?;
        session.output.note("Keep the head elsewhere: a record that is rewritten later has another one.");
    }
    if answer.intact {
        return Ok(());
    }
    let first = &answer.first_bad_entry_id;
    Err(Failure::Local(format!("the record is broken at entry {first}: {}", answer.message)))
}

/// The record for people.
fn table(entries: &[AuditEntry], ink: Ink) -> String {
    let mut table = Table::new(&["#", "TIME", "TYPE", "ACTION", "SUBJECT", "BY", "HASH"]);
    for entry in entries {
        table.row(vec![
            plain(entry.sequence.to_string()),
            plain(moment::full(entry.timestamp.as_ref())),
            plain(&entry.r#type),
            plain(&entry.action),
            plain(subject(entry)),
            plain(by(entry)),
            styled(Style::Faint, entry.hash.chars().take(10).collect::<String>()),
        ]);
    }
    table.render(ink)
}

/// What an entry is about, as far as its details name it.
fn subject(entry: &AuditEntry) -> String {
    let Some(details) = &entry.details else { return String::new() };
    let text = |fields: &BTreeMap<String, prost_types::Value>, name: &str| {
        let Kind::StringValue(text) = fields.get(name)?.kind.as_ref()? else { return None };
        (!text.is_empty()).then(|| text.clone())
    };
    let nested = || {
        let Kind::StructValue(subject) = details.fields.get("subject")?.kind.as_ref()? else { return None };
        text(&subject.fields, "id")
    };
    ["task", "gate", "phase", "key"]
        .iter()
        .find_map(|name| text(&details.fields, name))
        .or_else(nested)
        .or_else(|| ["approval", "participant"].iter().find_map(|name| text(&details.fields, name)))
        .unwrap_or_default()
}

fn by(entry: &AuditEntry) -> String {
    let Some(actor) = &entry.actor else { return String::new() };
    let who = if actor.name.is_empty() { &actor.id } else { &actor.name };
    if actor.on_behalf_of.is_empty() { who.clone() } else { format!("{who} for {}", actor.on_behalf_of) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use phasegate_clock::Timestamp;
    use phasegate_proto::actor::v1::Actor;

    #[test]
    fn entries_say_who_did_what() {
        let at: Timestamp = "2025-11-13T10:00:07Z".parse().unwrap();
        let task = prost_types::Value { kind: Some(Kind::StringValue("sso_setup".to_owned())) };
        let entries = [
            AuditEntry {
                sequence: 1,
                timestamp: Some(at.to_proto()),
                r#type: "approval".to_owned(),
                action: "approved".to_owned(),
                actor: Some(Actor {
                    id: "dev".to_owned(),
                    on_behalf_of: "customer_ciso".to_owned(),
                    ..Actor::default()
                }),
                details: Some(prost_types::Struct { fields: [("task".to_owned(), task)].into() }),
                hash: "0123456789abcdef".to_owned(),
                ..AuditEntry::default()
            },
            AuditEntry { sequence: 12, action: "completed".to_owned(), ..AuditEntry::default() },
        ];
        let expected = "\
#   TIME                 TYPE      ACTION     SUBJECT    BY                     HASH
1   2025-11-13 10:00:07  approval  approved   sso_setup  dev for customer_ciso  0123456789
12                                 completed
";
        assert_eq!(table(&entries, Ink(false)), expected);
    }
}

//! Entries of the history as messages: for the feed and for the audit log.

use std::collections::BTreeMap;

use phasegate_clock::Timestamp;
use phasegate_principal::{Principal, Scope};
use phasegate_proto::actor::v1::Actor;
use phasegate_proto::instance::v1 as proto;
use prost_types::Struct;
use serde_json::{Map, Value, json};

use super::convert::count;
use crate::app::{AuditPage, Entry, StoredEntry, actor_to_proto, json_object, json_to_struct};
use crate::domain::{self, ActorKind, Change, Fact, Person, Personal};

/// Members whose own keys are ids and names that somebody chose.
const FREE_KEYS: [&str; 7] = ["context", "facts", "changed", "artifacts", "output", "participants", "labels"];

/// Who reads the record, and so what of the words and names beside it is shown: what the methods that guard them would
/// show the same caller. A person from outside sees neither addresses nor what is said among those inside; who may read
/// the audit log sees all of it.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a right of its own")]
pub(super) struct Reader {
    addresses: bool,
    names: bool,
    internal_comments: bool,
    comments: bool,
    answers: bool,
}

impl Reader {
    pub(super) fn of(principal: &Principal) -> Self {
        let is_inside = principal.participation.is_none();
        let may = |scope| !is_inside || principal.has(Scope::AuditRead) || principal.has(scope);
        Self {
            addresses: is_inside && may(Scope::ParticipantsRead),
            names: may(Scope::ParticipantsRead),
            internal_comments: is_inside && may(Scope::CommentsRead),
            comments: may(Scope::CommentsRead),
            answers: may(Scope::ApprovalsRead),
        }
    }

    /// Whether the words beside an entry are shown.
    fn sees_text(self, change: &Change) -> bool {
        let Change::Heard(fact) = change else { return true };
        match fact {
            Fact::CommentCreated { internal, .. } => {
                if *internal {
                    self.internal_comments
                } else {
                    self.comments
                }
            }
            Fact::ApprovalResponded { .. } => self.answers,
            Fact::ApprovalRequested { .. }
            | Fact::ApprovalSettled { .. }
            | Fact::ApprovalReminded { .. }
            | Fact::ApprovalEscalated { .. }
            | Fact::ArtifactStored { .. }
            | Fact::LinkCreated { .. }
            | Fact::LinkRevoked { .. }
            | Fact::LinkOpened { .. }
            | Fact::LinkAsked { .. }
            | Fact::NotificationSettled { .. } => true,
        }
    }
}

/// The entries of a page for the feed.
pub(super) fn events(page: &AuditPage, reader: Reader) -> Vec<proto::Event> {
    page.entries.iter().map(|(entry, stored)| event(page, entry, stored, reader)).collect()
}

/// The entries of a page for the audit log.
pub(super) fn audit_entries(page: &AuditPage, reader: Reader) -> Vec<proto::AuditEntry> {
    page.entries.iter().map(|(entry, stored)| audit_entry(page, entry, stored, reader)).collect()
}

fn event(page: &AuditPage, entry: &Entry, stored: &StoredEntry, reader: Reader) -> proto::Event {
    let instance_id = stored.instance.as_str();
    let record = domain::record(instance_id, &stored.event);
    proto::Event {
        id: entry.event_id.clone(),
        r#type: record.watch_type.to_owned(),
        instance_id: instance_id.to_owned(),
        process_id: page.process_id.clone(),
        subject: record.subject,
        actor: Some(actor(page, stored, reader)),
        occurred_at: Some(entry.occurred_at.to_proto()),
        sequence: count(entry.sequence),
        data: Some(details(page, entry, stored, reader)),
    }
}

fn audit_entry(page: &AuditPage, entry: &Entry, stored: &StoredEntry, reader: Reader) -> proto::AuditEntry {
    let instance_id = stored.instance.as_str();
    let record = domain::record(instance_id, &stored.event);
    proto::AuditEntry {
        id: entry.event_id.clone(),
        timestamp: Some(Timestamp::to_proto(entry.occurred_at)),
        r#type: record.audit_type.to_owned(),
        actor: Some(actor(page, stored, reader)),
        action: record.action.to_owned(),
        details: Some(details(page, entry, stored, reader)),
        instance_id: instance_id.to_owned(),
        sequence: count(entry.sequence),
        hash: hex::encode(entry.hash),
        previous_hash: hex::encode(entry.previous_hash),
    }
}

/// Who did it, with the name where there is one.
fn actor(page: &AuditPage, stored: &StoredEntry, reader: Reader) -> Actor {
    let mut actor = actor_to_proto(&stored.event.actor);
    if stored.event.actor.kind == ActorKind::Participant
        && let Some(person) = page.people.get(&actor.id)
    {
        if reader.names {
            actor.name.clone_from(&person.name);
        }
        if reader.addresses {
            actor.email.clone_from(&person.email);
        }
    }
    actor
}

/// What the entry says, with what is personal about it merged in.
fn details(page: &AuditPage, entry: &Entry, stored: &StoredEntry, reader: Reader) -> Struct {
    // An event always has a JSON form: it was stored as one.
    let mut details = json_object(serde_json::to_value(&stored.event.change).unwrap_or_default());
    details.remove("event");
    let mut details = camel_object(details, true);
    if let Some(personal) = page.personal.get(&entry.sequence) {
        merge(&mut details, &stored.event.change, personal, reader);
    }
    json_to_struct(&details)
}

fn merge(details: &mut Map<String, Value>, change: &Change, personal: &Personal, reader: Reader) {
    if !personal.people.is_empty() && reader.names {
        let people: BTreeMap<_, _> = personal
            .people
            .iter()
            .map(|(id, person)| (id.to_string(), shown_person(person, reader)))
            .collect();
        details.insert("people".to_owned(), json!(people));
    }
    if !personal.text.is_empty() && reader.sees_text(change) {
        details.insert(text_name(change).to_owned(), Value::String(personal.text.clone()));
    }
    if reader.answers
        && let Some(Value::Array(remarks)) = details.get_mut("remarks")
    {
        for (remark, text) in remarks.iter_mut().zip(&personal.remarks) {
            if let Value::Object(remark) = remark {
                remark.insert("text".to_owned(), Value::String(text.clone()));
            }
        }
    }
}

fn shown_person(person: &Person, reader: Reader) -> Value {
    if reader.addresses {
        json!({ "name": person.name, "email": person.email })
    } else {
        json!({ "name": person.name })
    }
}

/// What the words beside an entry are.
fn text_name(change: &Change) -> &'static str {
    let Change::Heard(fact) = change else { return "text" };
    match fact {
        Fact::ApprovalResponded { .. } => "comments",
        Fact::CommentCreated { .. } => "body",
        Fact::NotificationSettled { .. } => "error",
        Fact::ApprovalRequested { .. }
        | Fact::ApprovalSettled { .. }
        | Fact::ApprovalReminded { .. }
        | Fact::ApprovalEscalated { .. }
        | Fact::ArtifactStored { .. }
        | Fact::LinkCreated { .. }
        | Fact::LinkRevoked { .. }
        | Fact::LinkOpened { .. }
        | Fact::LinkAsked { .. } => "text",
    }
}

/// Member names as JSON has them outside. Keys that somebody chose stay as they are.
fn camel_object(object: Map<String, Value>, is_ours: bool) -> Map<String, Value> {
    let renamed = object.into_iter().map(|(key, value)| {
        let is_free = FREE_KEYS.contains(&key.as_str());
        let key = if is_ours { camel(&key) } else { key };
        (key, if is_free { value } else { camel_value(value) })
    });
    renamed.collect()
}

fn camel_value(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(camel_object(object, true)),
        Value::Array(values) => Value::Array(values.into_iter().map(camel_value).collect()),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}

fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut camel = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut letters = part.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{camel_object, camel_value};
    use crate::app::json_object;

    #[test]
    fn our_names_become_camel_case_and_those_of_others_stay() {
        let details = json_object(json!({
            "definition_digest": "x",
            "artifacts": {"sso_config": 1},
            "context": {"some_key": {"deep_key": 1}},
            "request": {"waiting_on": ["customer_it_admin"], "artifacts": {"a_b": 1}},
            "remarks": [{"made_at": "t"}],
        }));
        let expected = json!({
            "definitionDigest": "x",
            "artifacts": {"sso_config": 1},
            "context": {"some_key": {"deep_key": 1}},
            "request": {"waitingOn": ["customer_it_admin"], "artifacts": {"a_b": 1}},
            "remarks": [{"madeAt": "t"}],
        });
        assert_eq!(json!(camel_object(details, true)), expected);
        assert_eq!(camel_value(json!("a_b")), json!("a_b"));
    }
}

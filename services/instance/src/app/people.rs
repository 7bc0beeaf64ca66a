//! The people of an instance: who they are is settled when it starts, and wrong addresses are found then and not when
//! the first mail does not arrive.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_id::ParticipantId;
use phasegate_process::{Definition, GateKind, RaidRole};
use phasegate_rpc_error::Violation;

use crate::domain::{Person, Personal, Raid};

/// Longest address, in characters.
const EMAIL_MAX: usize = 254;
/// Longest part before the @.
const LOCAL_MAX: usize = 64;
/// Longest name of a person.
const NAME_MAX: usize = 200;

/// A customer's person, as a caller names it.
#[derive(Debug, Clone)]
pub(crate) struct ExternalPerson {
    pub(crate) participant_id: String,
    pub(crate) email: String,
    pub(crate) name: String,
}

/// The people of an instance, checked.
#[derive(Debug, Clone, Default)]
pub(super) struct People {
    pub(super) responsibilities: BTreeMap<ParticipantId, Raid>,
    pub(super) personal: Personal,
}

/// Puts the people of the definition and those of the request together, and notes everything that is wrong.
pub(super) fn people(
    definition: &Definition,
    externals: &[ExternalPerson],
    faults: &mut Vec<Violation>,
) -> People {
    let mut people = People::default();
    for (id, human) in &definition.humans {
        let id = ParticipantId::trusted(id.as_str());
        people.responsibilities.insert(id.clone(), raid(human.raid_role));
        let email = human.email.clone().unwrap_or_default();
        people.personal.people.insert(id, Person { name: human.name.clone(), email, external: false });
    }
    let mut names = BTreeSet::new();
    for (position, external) in externals.iter().enumerate() {
        named(position, external, &mut people, &mut names, faults);
    }
    for approvers in approver_groups(definition) {
        addressed(approvers, &people, faults);
        distinct(approvers, &people, faults);
    }
    // A person who approves in several places is named once.
    let mut seen = BTreeSet::new();
    faults.retain(|fault| seen.insert((fault.code.clone(), fault.field.clone(), fault.message.clone())));
    people
}

fn raid(role: RaidRole) -> Raid {
    match role {
        RaidRole::Responsible => Raid::Responsible,
        RaidRole::Approver => Raid::Approver,
        RaidRole::Informed => Raid::Informed,
        RaidRole::Delegator => Raid::Delegator,
    }
}

/// Takes one person of the request in.
fn named(
    position: usize,
    external: &ExternalPerson,
    people: &mut People,
    names: &mut BTreeSet<ParticipantId>,
    faults: &mut Vec<Violation>,
) {
    let field = |name: &str| format!("external_participants[{position}].{name}");
    let mut fault = |field: String, code: &str, message: String| {
        faults.push(Violation { field, code: code.to_owned(), message });
    };
    let known = ParticipantId::parse(&external.participant_id)
        .ok()
        .filter(|id| people.responsibilities.contains_key(id));
    let Some(id) = known else {
        let message = format!("{:?} is not a human of the definition", shortened(&external.participant_id));
        return fault(field("participant_id"), "PARTICIPANT_UNKNOWN", message);
    };
    if !names.insert(id.clone()) {
        return fault(field("participant_id"), "PARTICIPANT_DUPLICATE", format!("{id} is named twice"));
    }
    let email = external.email.trim();
    if !is_email(email) {
        let message = "must be an address such as jane.doe@example.com, in ASCII".to_owned();
        fault(field("email"), "EMAIL_INVALID", message);
    }
    let name = external.name.trim();
    if name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
        fault(field("name"), "TEXT_INVALID", format!("must be one line of at most {NAME_MAX} characters"));
    }
    if let Some(person) = people.personal.people.get_mut(&id) {
        person.external = true;
        email.clone_into(&mut person.email);
        if !name.is_empty() {
            name.clone_into(&mut person.name);
        }
    }
}

/// Those who are asked together, for each request that the definition makes.
fn approver_groups(definition: &Definition) -> Vec<&[String]> {
    let tasks = definition.phases.iter().flat_map(|phase| &phase.tasks);
    let tasks = tasks.map(|task| task.required_approvals.as_slice());
    let phases = definition.phases.iter().map(|phase| phase.required_approvals.as_slice());
    let gates = definition.gates.iter().filter_map(|gate| match &gate.kind {
        GateKind::Approval(approvers) => Some(approvers.as_slice()),
        GateKind::Condition(_) | GateKind::Manual => None,
    });
    tasks.chain(phases).chain(gates).collect()
}

fn addressed(approvers: &[String], people: &People, faults: &mut Vec<Violation>) {
    for approver in approvers {
        let has_address =
            people.personal.people.get(approver.as_str()).is_some_and(|person| !person.email.is_empty());
        if !has_address {
            faults.push(Violation {
                field: "external_participants".to_owned(),
                code: "PARTICIPANT_MISSING".to_owned(),
                message: format!("{approver} is asked to approve and has no address; name {approver} here"),
            });
        }
    }
}

/// Two who must agree with each other are two persons, which two names for one mailbox are not.
fn distinct(approvers: &[String], people: &People, faults: &mut Vec<Violation>) {
    let mut by_address: BTreeMap<String, &str> = BTreeMap::new();
    for approver in approvers {
        let Some(person) = people.personal.people.get(approver.as_str()) else { continue };
        if person.email.is_empty() {
            continue;
        }
        if let Some(other) = by_address.insert(person.email.to_ascii_lowercase(), approver)
            && other != approver
        {
            let mut both = [other, approver.as_str()];
            both.sort_unstable();
            faults.push(Violation {
                field: "external_participants".to_owned(),
                code: "PARTICIPANTS_NOT_DISTINCT".to_owned(),
                message: format!("{} and {} approve together and have the same address", both[0], both[1]),
            });
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Whether a text is an address as we take them: a dot-atom, an @ and a domain name, all ASCII. Quoted parts, comments,
/// lists, groups and numbers in brackets are not taken: they are ways to reach somebody else than it seems.
pub(super) fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    text.len() <= EMAIL_MAX && local.len() <= LOCAL_MAX && is_dot_atom(local) && is_domain(domain)
}

fn is_dot_atom(text: &str) -> bool {
    text.split('.').all(|atom| {
        !atom.is_empty()
            && atom.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte))
    })
}

fn is_domain(text: &str) -> bool {
    let labels: Vec<&str> = text.split('.').collect();
    let is_label = |label: &&str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // The last label is never a number: so no address of a machine is taken for a name.
    let last_is_name = labels.last().is_some_and(|last| last.bytes().any(|byte| byte.is_ascii_alphabetic()));
    labels.len() >= 2 && labels.iter().all(is_label) && last_is_name
}

#[cfg(test)]
mod tests {
    use super::is_email;

    #[test]
    fn addresses_are_plain() {
        for good in [
            "jane@example.com",
            "jane.doe+sso@it.example.co.uk",
            "o'brien@example.com",
            "a@xn--bcher-kva.example",
            "1@2.3d",
        ] {
            assert!(is_email(good), "{good}");
        }
        for bad in [
            "",
            "jane",
            "@example.com",
            "jane@",
            "jane@localhost",
            "jane@@example.com",
            "a@b@example.com",
            "\"jane doe\"@example.com",
            "\"e@attacker.com\"@victim.com",
            "jane@example.com, eve@example.com",
            "jane@example.com\r\nBcc: eve@example.com",
            "jane <jane@example.com>",
            "jane(comment)@example.com",
            "group:jane@example.com;",
            "jane@[127.0.0.1]",
            "jane@127.0.0.1",
            "jane.@example.com",
            ".jane@example.com",
            "ja..ne@example.com",
            "jane@-example.com",
            "jane@example-.com",
            "jane@exa_mple.com",
            "jane@.example.com",
            "jane@example.com.",
            "jane＠example.com",
            "jané@example.com",
            "jane@bücher.example",
        ] {
            assert!(!is_email(bad), "{bad}");
        }
        assert!(!is_email(&format!("{}@example.com", "a".repeat(65))));
        assert!(!is_email(&format!("a@{}.com", "a.".repeat(130))));
    }
}

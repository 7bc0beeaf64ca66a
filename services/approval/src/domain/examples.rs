//! Requests and people for the tests of this crate.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, BoundaryId, InstanceId, ParticipantId, PhaseId, TaskId};

use super::{
    Actor, ActorKind, Answer, Answered, Approval, Approver, Assurance, Channel, ContentDigest, Decision,
    InstanceCondition, OnTimeout, Request, ReviewedArtifact, Standing, Subject, SubjectKind, Timing, Verdict,
};

/// When everything begins.
pub const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// So many hours.
pub const fn hours(count: u64) -> Duration {
    Duration::from_secs(count * 3600)
}

/// A person.
pub fn person(id: &str) -> ParticipantId {
    ParticipantId::trusted(id)
}

/// The operator of a test.
pub fn operator() -> Actor {
    Actor { kind: ActorKind::Operator, id: "dev".to_owned(), channel: Channel::Api, on_behalf_of: None }
}

/// A person who came through a magic link.
pub fn visitor(id: &str) -> Actor {
    Actor { kind: ActorKind::Participant, id: id.to_owned(), channel: Channel::Portal, on_behalf_of: None }
}

/// Approvers by their answers: a approve, r reject, c changes, - none; A R C _ are those of stand-ins.
pub fn approvers(answers: &str) -> Vec<Approver> {
    let one = |(index, letter): (usize, char)| {
        let id = person(&format!("person-{index}"));
        let answered = |decision| {
            Standing::Answered(Answered {
                decision,
                comment: "because".to_owned(),
                remarks: Vec::new(),
                assurance: Assurance::Link,
                by: visitor(id.as_str()),
                at: START,
            })
        };
        let standing = match letter.to_ascii_lowercase() {
            'a' => answered(Decision::Approve),
            'r' => answered(Decision::Reject),
            'c' => answered(Decision::RequestChanges),
            '-' | '_' => Standing::Pending,
            other => panic!("no such answer: {other}"),
        };
        Approver { id: id.clone(), standing, escalated: letter.is_ascii_uppercase() || letter == '_' }
    };
    answers.chars().enumerate().map(one).collect()
}

/// A request of a task's work to these people, reviewing version 1 of `design`; 48 h, escalated to `boss` after 24,
/// reminded after 12 and 36.
pub fn request(people: &[&str]) -> Request {
    let instance = InstanceId::trusted("proc-inst-1");
    Request {
        id: ApprovalId::derive(&instance, "task", "configure_idp", 1),
        instance,
        process: "sso-deployment".to_owned(),
        subject: Subject { kind: SubjectKind::Task, id: "configure_idp".to_owned() },
        task: Some(TaskId::trusted("configure_idp")),
        phase: Some(PhaseId::trusted("configuration")),
        gate: None,
        round: 1,
        key: None,
        boundary: BoundaryId::trusted("bnd-1"),
        title: "Review the configuration".to_owned(),
        description: "Is the identity provider set up as agreed?".to_owned(),
        artifacts: vec![artifact("design", 1)],
        approvers: people.iter().map(|id| person(id)).collect(),
        produced_by: vec!["sso_agent".to_owned(), "author".to_owned()],
        requested_by: Actor::system("instance"),
        timing: timing(OnTimeout::Escalate),
        supersedes: None,
    }
}

/// 48 h, escalated to `boss` after 24 h, and then to `director`; reminded after 12 h and 36 h.
pub fn timing(on_timeout: OnTimeout) -> Timing {
    Timing {
        timeout: Some(hours(48)),
        escalate_after: Some(hours(24)),
        escalate_to: vec![person("boss"), person("director")],
        reminders: vec![hours(12), hours(36)],
        on_timeout,
    }
}

/// A version of an artifact, first seen.
pub fn artifact(key: &str, version: u32) -> ReviewedArtifact {
    let digest = format!("sha256:{version:064x}");
    ReviewedArtifact { key: ArtifactKey::trusted(key), version, digest, previous_version: 0 }
}

/// The request of [`request`], put to people at [`START`].
pub fn approval(people: &[&str]) -> Approval {
    Approval::asked(request(people), START)
}

/// An answer to what the request shows, by the person through the own link.
pub fn answer(approval: &Approval, who: &str, decision: Decision) -> Answer {
    Answer {
        approver: person(who),
        verdict: Verdict::new(decision, "because".to_owned(), Vec::new()).expect("there are words"),
        seen: ContentDigest::claimed(approval.digest.as_str()),
        by: visitor(who),
        assurance: Assurance::Link,
        instance: InstanceCondition::Running,
    }
}

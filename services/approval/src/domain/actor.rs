//! Who did something, and how sure we are of it.

use phasegate_id::ParticipantId;
use serde::{Deserialize, Serialize};

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Kind of caller.
    pub kind: ActorKind,
    /// Agent id, participant id, operator subject or service name.
    pub id: String,
    /// Door by which it came in.
    pub channel: Channel,
    /// The person for whom it was done, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<ParticipantId>,
}

/// Kinds of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// A program that works on tasks.
    Agent,
    /// A person of the instance.
    Participant,
    /// A person who runs the installation.
    Operator,
    /// A program with a key.
    Service,
    /// The engine itself.
    System,
}

/// Doors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// gRPC or REST.
    Api,
    /// The pages that a magic link opens.
    Portal,
    /// The engine.
    Engine,
}

/// How sure we are who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assurance {
    /// The holder of a magic link.
    Link,
    /// A caller of the API that speaks for the person.
    Api,
}

impl Actor {
    /// One of the services, on its own account.
    pub fn system(service: &str) -> Self {
        Self { kind: ActorKind::System, id: service.to_owned(), channel: Channel::Engine, on_behalf_of: None }
    }

    /// Whether this actor is the person, or acted for it.
    pub fn stands_for(&self, person: &ParticipantId) -> bool {
        let is_person = self.kind == ActorKind::Participant && self.id == person.as_str();
        is_person || self.on_behalf_of.as_ref() == Some(person)
    }

    /// Whether both are the same caller, whichever door each took.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.kind == other.kind && self.id == other.id
    }
}

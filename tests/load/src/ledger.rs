//! What the clients were told: every change that they asked for, with its answer, and what went wrong on the way.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Starts an instance.
    Start,
    /// Stores a version of an artifact.
    Store,
    /// Hands work in.
    Complete,
    /// Reports a failed attempt.
    Fail,
    /// Gives work back.
    Release,
    /// Asks people for a decision.
    Request,
    /// Answers for a person.
    Decide,
    /// Sets facts.
    Facts,
    /// Changes the context.
    Context,
    /// Writes a comment.
    Comment,
    /// Makes a link.
    Link,
    /// Puts an instance on hold.
    Pause,
    /// Takes an instance up again.
    Resume,
    /// Takes a task up again.
    Retry,
    /// Ends an instance before its time.
    Cancel,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Start,
        Self::Store,
        Self::Complete,
        Self::Fail,
        Self::Release,
        Self::Request,
        Self::Decide,
        Self::Facts,
        Self::Context,
        Self::Comment,
        Self::Link,
        Self::Pause,
        Self::Resume,
        Self::Retry,
        Self::Cancel,
    ];

    /// Whether the answer tells by its status that something is new.
    pub(crate) const fn creates(self) -> bool {
        matches!(self, Self::Start | Self::Store | Self::Request | Self::Comment | Self::Link)
    }

    /// Refusals that an honest client may meet, because another client or the course of things was first.
    pub fn may_be_refused(self, reason: &str) -> bool {
        let over = reason == "INSTANCE_TERMINAL";
        match self {
            Self::Start | Self::Comment => false,
            Self::Complete | Self::Fail | Self::Release => reason == "LEASE_LOST",
            Self::Store => over || matches!(reason, "LEASE_LOST"),
            Self::Request => over || matches!(reason, "LEASE_LOST" | "INVALID_STATE" | "ARTIFACT_UNKNOWN"),
            Self::Decide => {
                over || matches!(
                    reason,
                    "APPROVAL_ALREADY_DECIDED"
                        | "APPROVAL_CONTENT_CHANGED"
                        | "APPROVAL_SUPERSEDED"
                        | "APPROVAL_WITHDRAWN"
                )
            }
            Self::Facts | Self::Context | Self::Link | Self::Pause | Self::Resume | Self::Cancel => over,
            Self::Retry => over || reason == "INVALID_STATE",
        }
    }
}

/// One change that a client asked for, and what it was told in the end.
#[derive(Debug, Clone)]
pub struct Told {
    /// What it was.
    pub kind: Kind,
    /// Instance; empty for a start.
    pub instance: String,
    /// Text that occurs in this change and in no other.
    pub mark: String,
    /// How it was asked for.
    pub call: Call,
    /// The first answer; none where it was refused.
    pub answer: Option<Value>,
    /// It once got no answer.
    pub in_doubt: bool,
}

/// A call that can be repeated.
#[derive(Debug, Clone)]
pub struct Call {
    /// Method.
    pub method: reqwest::Method,
    /// Path and query.
    pub path: String,
    /// Body; null where it has none.
    pub body: Value,
    /// The same at every repeat; empty where repeats are no matter.
    pub request_id: String,
}

/// What became of the calls of one kind.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Calls that were done.
    pub acknowledged: u64,
    /// Calls that were refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Calls that a kill left without an answer.
    pub killed: u64,
    /// Calls whose answer the client did not wait for.
    pub abandoned: u64,
    /// Repeats that found the effect done already.
    pub found_done: u64,
    /// Repeats that were compared with the first answer.
    pub compared: u64,
}

/// What all clients of a run were told.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Every change that was asked for and answered.
    pub told: Vec<Told>,
    /// What became of them.
    pub tallies: BTreeMap<Kind, Tally>,
    /// Changes without an answer, by the life of the server that they were sent to.
    pub unanswered: BTreeMap<u64, u64>,
    /// Answers of the kind "not now".
    pub put_off: BTreeMap<String, u64>,
    /// Positions of audit logs that somebody has read: instance, entries, hash of the last.
    pub heads: BTreeSet<(String, u64, String)>,
    /// What must not have happened.
    pub faults: Vec<String>,
}

impl Call {
    /// A call that only reads.
    pub fn read(path: &str) -> Self {
        let method = reqwest::Method::GET;
        Self { method, path: path.to_owned(), body: Value::Null, request_id: String::new() }
    }
}

impl Ledger {
    /// What became of the calls of one kind.
    pub fn tally(&mut self, kind: Kind) -> &mut Tally {
        self.tallies.entry(kind).or_default()
    }

    /// Changes that were done.
    pub fn acknowledged(&self) -> u64 {
        self.tallies.values().map(|tally| tally.acknowledged).sum()
    }

    /// Changes that were refused.
    pub fn refused(&self) -> u64 {
        self.tallies.values().flat_map(|tally| tally.refused.values()).sum()
    }
}

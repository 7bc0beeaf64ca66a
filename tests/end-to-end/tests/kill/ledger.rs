//! What the clients were told: every change that they asked for, with its answer, and what went wrong on the way.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
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
}

impl Kind {
    pub(crate) const ALL: [Self; 14] = [
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
    ];

    /// Refusals that an honest client may meet, because another client or the course of things was first.
    pub(crate) fn may_be_refused(self, reason: &str) -> bool {
        let over = reason == "INSTANCE_TERMINAL";
        match self {
            Self::Start | Self::Comment => false,
            Self::Fail | Self::Release => reason == "LEASE_LOST",
            // Whoever lost the lease before it stored is told the one or the other.
            Self::Complete => matches!(reason, "LEASE_LOST" | "ARTIFACTS_MISSING"),
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
            Self::Facts | Self::Context | Self::Link | Self::Pause | Self::Resume => over,
            Self::Retry => over || reason == "INVALID_STATE",
        }
    }
}

/// One change that a client asked for, and what it was told in the end.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) kind: Kind,
    /// Instance; empty for a start.
    pub(crate) instance: String,
    /// Text that occurs in this change and in no other.
    pub(crate) mark: String,
    pub(crate) call: Call,
    /// The first answer; none where it was refused.
    pub(crate) answer: Option<Value>,
    /// It once got no answer.
    pub(crate) in_doubt: bool,
}

/// A call that can be repeated.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: reqwest::Method,
    pub(crate) path: String,
    pub(crate) body: Value,
    pub(crate) request_id: String,
}

/// What became of the calls of one kind.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) acknowledged: u64,
    pub(crate) refused: BTreeMap<String, u64>,
    /// Calls that a kill left without an answer.
    pub(crate) killed: u64,
    /// Calls whose answer the client did not wait for.
    pub(crate) abandoned: u64,
    /// Repeats that found the effect done already.
    pub(crate) found_done: u64,
    /// Repeats that were compared with the first answer.
    pub(crate) compared: u64,
}

/// What all clients of a run were told.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) told: Vec<Told>,
    pub(crate) tallies: BTreeMap<Kind, Tally>,
    /// Changes without an answer, by the life of the server that they were sent to.
    pub(crate) unanswered: BTreeMap<u64, u64>,
    /// Answers of the kind "not now".
    pub(crate) put_off: BTreeMap<String, u64>,
    /// Positions of audit logs that somebody has read: instance, entries, hash of the last.
    pub(crate) heads: BTreeSet<(String, u64, String)>,
    /// What must not have happened.
    pub(crate) faults: Vec<String>,
}

impl Ledger {
    pub(crate) fn tally(&mut self, kind: Kind) -> &mut Tally {
        self.tallies.entry(kind).or_default()
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.tallies.values().map(|tally| tally.acknowledged).sum()
    }

    pub(crate) fn refused(&self) -> u64 {
        self.tallies.values().flat_map(|tally| tally.refused.values()).sum()
    }
}

//! Faults that the tests plant between the services, to show that the simulation would find them. Each is a mistake that
//! somebody could make in a store, a relay, a receiver or a reconciler; those that one could make in the engine are planted
//! there, behind a feature.

/// A fault, chosen by name when a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// The relay asks for "everything behind the last one", and misses what commits late.
    OutboxByPosition,
    /// A receiver confirms an event before its effect is durable.
    AckBeforeCommit,
    /// A receiver does not look whether it has taken an event before.
    NoInbox,
    /// The inbox is written in a transaction of its own, before the effect.
    InboxApart,
    /// A worker's call counts for whatever lease is out now.
    NoFence,
    /// Timers of requests fire before they are due.
    EarlyTimer,
    /// Leases are ended before their time is over.
    EarlyExpiry,
    /// One of several approvers is not asked.
    ApproverIgnored,
    /// Events leave before the change that they tell of is durable.
    PublishBeforeCommit,
    /// A repeated request is done again.
    RequestRunsAgain,
    /// A writer does not look whether somebody else was faster.
    VersionIgnored,
    /// What cannot be taken yet is dropped after a few tries, and nobody is told.
    SetAsideSilently,
    /// A decision counts for whatever is shown now.
    StaleDigest,
    /// What was sent is believed to have arrived.
    NeverResent,
    /// One receiver's confirmation counts for all.
    ConfirmedForAll,
    /// A copy trusts what it remembers when it refuses.
    CacheTrusted,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::OutboxByPosition,
        Self::AckBeforeCommit,
        Self::NoInbox,
        Self::InboxApart,
        Self::NoFence,
        Self::EarlyTimer,
        Self::EarlyExpiry,
        Self::ApproverIgnored,
        Self::PublishBeforeCommit,
        Self::RequestRunsAgain,
        Self::VersionIgnored,
        Self::SetAsideSilently,
        Self::StaleDigest,
        Self::NeverResent,
        Self::ConfirmedForAll,
        Self::CacheTrusted,
    ];

    /// The fault of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
    }
}

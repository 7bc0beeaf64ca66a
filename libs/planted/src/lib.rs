//! Mistakes that somebody could make in what all services stand on, planted to show that the fault run would find them.
//! Only builds with the feature `planted-bugs` can be made to make one; in every other build [`is`] is a constant, and
//! nothing of this is left. Those that one could make in the engine are planted there.

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The relay asks for "everything behind the last one", and misses what commits late or failed.
    OutboxByPosition,
    /// What was sent is believed to have arrived.
    NeverResent,
    /// One receiver's confirmation counts for all.
    ConfirmedForAll,
    /// A receiver confirms an event before its effect is durable.
    AckBeforeCommit,
    /// What cannot be taken at once is dropped, and nobody is told.
    SetAsideSilently,
    /// A receiver does not look whether it has taken an event before.
    NoInbox,
    /// A repeated request is done again.
    RequestRunsAgain,
    /// A change is acknowledged before it is durable.
    AnswerBeforeCommit,
    /// A worker's call counts for whatever lease is out now.
    NoFence,
    /// Leases are ended before their time is over.
    EarlyTimer,
    /// A decision counts for whatever is shown now.
    StaleDigest,
    /// A watcher that comes back goes on one event too late.
    WatchSkips,
    /// Mail counts as sent before the mail server has taken it.
    MailBelieved,
    /// A state in memory is believed: what is written on it does not look whether it is still the newest one.
    CacheBelieved,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::OutboxByPosition,
        Self::NeverResent,
        Self::ConfirmedForAll,
        Self::AckBeforeCommit,
        Self::SetAsideSilently,
        Self::NoInbox,
        Self::RequestRunsAgain,
        Self::AnswerBeforeCommit,
        Self::NoFence,
        Self::EarlyTimer,
        Self::StaleDigest,
        Self::WatchSkips,
        Self::MailBelieved,
        Self::CacheBelieved,
    ];

    /// The mistake of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
    }
}

/// Whether this process makes a mistake.
#[cfg(not(feature = "planted-bugs"))]
pub const fn is(_bug: Bug) -> bool {
    false
}

/// Whether this process makes a mistake.
#[cfg(feature = "planted-bugs")]
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(&bug)
}

/// From now on this process makes a mistake. The first one stays.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Bug) {
    PLANTED.get_or_init(|| bug);
}

#[cfg(feature = "planted-bugs")]
static PLANTED: std::sync::OnceLock<Bug> = std::sync::OnceLock::new();

#[cfg(test)]
mod tests {
    use super::Bug;

    #[test]
    fn a_mistake_is_chosen_by_name_and_none_is_made_unasked() {
        assert_eq!(Bug::named("NoInbox"), Some(Bug::NoInbox));
        assert_eq!(Bug::named("nothing"), None);
        assert!(Bug::ALL.into_iter().all(|bug| !super::is(bug)));
    }
}

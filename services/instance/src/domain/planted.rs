//! Faults that the tests plant in the engine, to show that they would find them. Only builds with the feature
//! `planted-bugs` can switch one on; in every other build [`is`] is a constant, and nothing of this is left.

/// A fault at one decision point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A request leaves out its last approver.
    ApproverIgnored,
    /// A task begins without waiting for tasks of earlier phases, or its own.
    DependencyIgnored,
    /// One retry too many.
    RetryBudget,
    /// A lease that has ended may still hand work in.
    StaleFencing,
    /// A condition gate opens although its expression is false.
    FalseConditionOpens,
    /// Work is handed out while the instance is paused.
    PauseLeaks,
    /// A phase ends although an exit condition is false.
    ExitConditionSkipped,
    /// What was decided about a phase outlives the work that it was decided about.
    LateApprovalKept,
    /// What was approved is not compared with what is there when it takes effect.
    ContentUnchecked,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::ApproverIgnored,
        Self::DependencyIgnored,
        Self::RetryBudget,
        Self::StaleFencing,
        Self::FalseConditionOpens,
        Self::PauseLeaks,
        Self::ExitConditionSkipped,
        Self::LateApprovalKept,
        Self::ContentUnchecked,
    ];
}

/// Whether a fault is planted on this thread.
#[cfg(not(feature = "planted-bugs"))]
pub(super) const fn is(_bug: Bug) -> bool {
    false
}

/// Whether any fault is planted on this thread.
#[cfg(not(feature = "planted-bugs"))]
pub(super) const fn any() -> bool {
    false
}

/// Whether any fault is planted on this thread.
#[cfg(feature = "planted-bugs")]
pub(super) fn any() -> bool {
    switch::PLANTED.get().is_some()
}

/// Whether a fault is planted on this thread.
#[cfg(feature = "planted-bugs")]
pub(super) fn is(bug: Bug) -> bool {
    switch::PLANTED.get() == Some(bug)
}

/// Plants a fault on this thread, or takes the planted one out again.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    switch::PLANTED.set(bug);
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        /// The fault that is planted on this thread.
        pub(super) static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }
}

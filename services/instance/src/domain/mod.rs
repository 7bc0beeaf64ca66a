//! The engine: what may happen in one run of a definition, what follows from it, and who must hear of it. Pure: no
//! clock, no chance, no I/O; all three are inputs.
//!
//! # In use
//!
//! ```text
//! let before = instance (or Instance::unstarted() for Action::Start)
//! let keys   = content_keys(&definition, &before, &command.action)    // ask artifact, fill command.current
//! let events = decide(&definition, &before, &command, now)?           // Err: nothing happens. Ok(empty): already so
//! let after  = events.iter().fold(before.clone(), evolve)             // the row; after.version == last sequence
//! let calls  = react(&definition, &before, &after, &events)           // the outbox, in the same transaction
//! ready_work(&definition, &before / &after), leases(&before / &after) // the queue and the leases: write the difference
//! record(&event)                                                      // type, action and subject for feed and audit
//! ```
//!
//! What is personal in a command ([`Personal`]) belongs to the first of its events. Heartbeats are no commands: they
//! move the end of a lease, which the engine does not keep.
//!
//! # Words
//!
//! A *boundary* is the end of a phase: the requests for its last tasks, for the phase itself and for the approval gates
//! before the next phase. They take effect in that order. A *round* is one review of one subject; a new round of an
//! earlier subject makes the later ones of the same boundary out of date. The *current phase* is the first one that is
//! not behind; only it can be anything but pending.
//!
//! # Invariants
//!
//! 1. Phases before the current one are completed or skipped, later ones are pending.
//! 2. A completed phase has nothing but completed and skipped tasks, and its approval.
//! 3. An open approval gate has its approval, or was forced; the gates of a phase that was entered are open.
//! 4. A task runs exactly while it has a lease. Its fencing token never falls.
//! 5. A ready or running task has its dependencies done, and attempts left.
//! 6. A completed task whose work must be approved has its approval, of its own round.
//! 7. Nothing is ready, running or open in an instance that has ended.
//!
//! [`check`] says them again in code; every test and every debug build runs it after each decision.

mod advance;
mod approach;
mod approval;
mod blocker;
mod boundary;
mod command;
mod condition;
mod copy_on_write;
mod decide;
mod estimate;
mod event;
mod evolve;
mod fact;
mod failure;
mod hand_in;
mod instance;
mod invariant;
mod lease;
mod need;
mod operator;
mod personal;
pub mod planted;
mod react;
mod record;
mod rejection;
mod reopen;
mod request;
mod round;
mod start;
mod status;
mod steer;
mod task;
#[cfg(test)]
mod tests;
mod work;

pub use approval::content_keys;
pub use blocker::blockers;
pub use command::{Action, Actor, ActorKind, Channel, Command, CurrentVersion, ShownLease, Start};
pub use decide::decide;
pub use estimate::Expected;
pub use event::{Change, Event, RoundCause, Started, StartedTask};
pub use evolve::evolve;
pub use fact::{Assurance, Decision, Fact, RemarkMade, RequestView};
pub use failure::attempts_max;
pub use instance::{
    Artifact, Block, BlockCause, Gate, GateStatus, Instance, Phase, PhaseStatus, Raid, Status,
};
pub use invariant::{Broken, check};
pub use lease::{leases, ready_work};
pub use need::{Need, NeedTiming, need_timing};
pub use personal::{Person, Personal};
pub use react::{Effect, react};
pub use record::{AUDIT_TYPES, Record, record};
pub use rejection::{Blocker, BlockerKind, Rejection};
pub use request::{Approval, ApprovalStatus, Subject};
pub use status::{
    Health, Overview, PendingApproval, PhaseLine, Surroundings, overview, phase_under_way, timeline,
};
pub use task::{Delivery, Failure, HeldLease, Lease, RETRY_AFTER_MAX, ReadyWork, Remark, Task, TaskStatus};

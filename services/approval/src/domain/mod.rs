//! What an approval is and what may happen to it: pure functions over what was asked and what was answered.
//!
//! | word | meaning |
//! | --- | --- |
//! | request | what people are asked to decide, bound to its content by a digest |
//! | approver | a person whose answer the request waits for |
//! | answer | approve, reject or request changes; the first one of a person stands |
//! | stand-in | an approver whom an escalation added: approves in place of those who are silent |
//! | settled | the request has an outcome; nothing changes it any more |
//!
//! What always holds ([`invariant::check`] says it in code):
//!
//! - I1. A settled request stays as it is.
//! - I2. Approvers are distinct persons, and none is left pending once the request is settled.
//! - I3. A pending request is one whose answers do not decide it yet.
//! - I4. The digest is that of the content; an answer that stands was given to that content.
//! - I5. A settled request has no timer.
//! - I6. No answer is from somebody who asked for the request or produced what it is about.
//!
//! Time is an input: a deadline that has passed is told by [`Command::Elapse`].

mod actor;
mod approval;
mod command;
mod decide;
mod digest;
mod event;
mod evolve;
#[cfg(test)]
pub mod examples;
pub mod invariant;
mod policy;
mod react;
mod timing;

pub use actor::{Actor, ActorKind, Assurance, Channel};
pub use approval::{
    Answered, Approval, Approver, Outcome, Request, ReviewedArtifact, SettledBy, Settlement, Standing, State,
    Subject, SubjectKind,
};
pub use command::{
    Answer, Command, CurrentArtifact, Decision, InstanceCondition, Remark, Verdict, Wish, WordsMissing,
};
pub use decide::{Rejection, Renewed, decide, request};
pub use digest::{ContentDigest, content, substance};
pub use event::Event;
pub use evolve::{evolve, fold};
pub use policy::{Tally, tally};
pub use react::{Effect, react};
pub use timing::{OnTimeout, Timing, due_next};

/// Approvers that one request may begin with.
pub const APPROVERS_MAX: usize = 20;

//! Who must hear of what has happened.

use phasegate_id::ParticipantId;

use super::event::Event;

/// What should follow outside of this service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The approvers are to be told what they are asked; requests of one transaction go out together.
    TellApprovers,
    /// Watchers and the record are to hear of an answer.
    TellAnswer {
        /// Whose.
        approver: ParticipantId,
    },
    /// The engine is to take the outcome.
    TellOutcome,
    /// Those who are silent are to be reminded.
    Remind {
        /// Who.
        people: Vec<ParticipantId>,
    },
    /// Somebody further is to be asked, or operators where nobody is named.
    Escalate {
        /// Who was added.
        added: Option<ParticipantId>,
        /// It was the deadline that did it.
        overdue: bool,
    },
}

/// What follows `event`: nothing happens to a request that nobody hears of.
pub fn react(event: &Event) -> Effect {
    match event {
        Event::Requested { .. } | Event::AskedAgain { .. } => Effect::TellApprovers,
        Event::Responded { approver, .. } => Effect::TellAnswer { approver: approver.clone() },
        Event::Settled { .. }
        | Event::TimedOut { .. }
        | Event::Withdrawn { .. }
        | Event::Superseded { .. } => Effect::TellOutcome,
        Event::Reminded { people, .. } => Effect::Remind { people: people.clone() },
        Event::Escalated { added, overdue, .. } => {
            Effect::Escalate { added: added.clone(), overdue: *overdue }
        }
    }
}

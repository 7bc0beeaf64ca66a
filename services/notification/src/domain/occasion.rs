//! What happened, and who has to hear of it.

use std::collections::BTreeSet;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, LinkId, ParticipantId};

use super::Template;

/// A request for a decision, as far as a message tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Its id.
    pub(crate) id: ApprovalId,
    /// Its title.
    pub(crate) title: String,
    /// What the person should know.
    pub(crate) description: String,
    /// Name of who asked; empty where the engine did.
    pub(crate) asked_by: String,
    /// Round of review, from 1.
    pub(crate) round: u32,
    /// Deadline, if any.
    pub(crate) expires_at: Option<Timestamp>,
    /// Who has not answered.
    pub(crate) pending: BTreeSet<ParticipantId>,
}

/// An answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Yes.
    Approved,
    /// No.
    Rejected,
    /// Not yet.
    ChangesRequested,
}

/// A move of a phase that is worth a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PhaseMove {
    /// Its tasks run.
    Began,
    /// Done.
    Completed,
    /// It does not move.
    Blocked,
    /// Passed over.
    Skipped,
}

/// How an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Well.
    Completed,
    /// By an operator.
    Cancelled,
    /// By a failure.
    Failed,
}

/// Something that happened and that somebody has to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// Requests of one boundary were put to people.
    Requested(Vec<Request>),
    /// People have not answered yet.
    Reminded {
        /// What.
        request: Request,
        /// Who.
        people: Vec<ParticipantId>,
    },
    /// Further people are asked, because others have not answered.
    Escalated {
        /// What.
        request: Request,
        /// Who was added.
        people: Vec<ParticipantId>,
        /// The deadline has passed.
        overdue: bool,
    },
    /// A person answered.
    Answered {
        /// What.
        request: Request,
        /// Who.
        person: ParticipantId,
        /// How.
        answer: Answer,
        /// What the person wrote.
        comment: String,
        /// When.
        at: Timestamp,
    },
    /// A phase moved.
    PhaseChanged {
        /// Its name.
        name: String,
        /// How.
        moved: PhaseMove,
        /// Position, from 1.
        position: u32,
        /// Number of phases.
        phases: u32,
    },
    /// Work went up.
    TaskEscalated {
        /// Name of the task.
        name: String,
        /// Whom it went up to.
        escalated_to: String,
        /// Who is told.
        people: Vec<ParticipantId>,
        /// What happened.
        message: String,
    },
    /// The instance ended.
    Ended {
        /// How.
        outcome: Outcome,
        /// Why.
        reason: String,
    },
    /// A person asked for a fresh link, and has one.
    FreshLinkAsked {
        /// Who.
        person: ParticipantId,
        /// The link.
        link: LinkId,
    },
}

impl Occasion {
    /// The kind of message that it makes.
    pub(crate) fn template(&self) -> Template {
        match self {
            Occasion::Requested(_) => Template::ApprovalRequested,
            Occasion::Reminded { .. } => Template::ApprovalReminder,
            Occasion::Escalated { .. } => Template::ApprovalEscalated,
            Occasion::Answered { .. } => Template::ApprovalDecided,
            Occasion::PhaseChanged { .. } => Template::PhaseChanged,
            Occasion::TaskEscalated { .. } => Template::TaskEscalated,
            Occasion::Ended { .. } => Template::InstanceEnded,
            Occasion::FreshLinkAsked { .. } => Template::LinkNew,
        }
    }

    /// The requests that it is about for one person, in order.
    pub(crate) fn requests_for(&self, person: &ParticipantId) -> Vec<&Request> {
        match self {
            Occasion::Requested(requests) => {
                requests.iter().filter(|request| request.pending.contains(person)).collect()
            }
            Occasion::Reminded { request, .. }
            | Occasion::Escalated { request, .. }
            | Occasion::Answered { request, .. } => vec![request],
            Occasion::PhaseChanged { .. }
            | Occasion::TaskEscalated { .. }
            | Occasion::Ended { .. }
            | Occasion::FreshLinkAsked { .. } => Vec::new(),
        }
    }

    /// The link that is there already; for the others one is made with the message.
    pub(crate) fn link(&self) -> Option<&LinkId> {
        if let Occasion::FreshLinkAsked { link, .. } = self { Some(link) } else { None }
    }
}

/// Says who has to hear of it, each once. `informed` are the people of the instance whose role it is to be told.
pub(crate) fn addressees(occasion: &Occasion, informed: &[ParticipantId]) -> BTreeSet<ParticipantId> {
    match occasion {
        Occasion::Requested(requests) => {
            requests.iter().flat_map(|request| request.pending.iter().cloned()).collect()
        }
        Occasion::Reminded { people, .. }
        | Occasion::Escalated { people, .. }
        | Occasion::TaskEscalated { people, .. } => people.iter().cloned().collect(),
        Occasion::Answered { person, .. } | Occasion::FreshLinkAsked { person, .. } => {
            BTreeSet::from([person.clone()])
        }
        Occasion::PhaseChanged { .. } | Occasion::Ended { .. } => informed.iter().cloned().collect(),
    }
}

/// A person, as the participant service knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Person {
    /// Id in the definition.
    pub(crate) id: ParticipantId,
    /// Name; the id where there is none.
    pub(crate) name: String,
    /// Address; empty where there is none.
    pub(crate) email: String,
    /// Wants mail.
    pub(crate) wants_mail: bool,
}

/// What messages call an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Name of the instance.
    pub(crate) instance_name: String,
    /// Name of the definition.
    pub(crate) definition_name: String,
    /// People whose role it is to be told.
    pub(crate) informed: Vec<ParticipantId>,
    /// Everybody on the instance.
    pub(crate) people: BTreeSet<ParticipantId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(id: &str) -> ParticipantId {
        ParticipantId::trusted(id)
    }

    fn request(id: &str, pending: &[&str]) -> Request {
        Request {
            id: ApprovalId::trusted(id),
            title: id.to_owned(),
            description: String::new(),
            asked_by: String::new(),
            round: 1,
            expires_at: None,
            pending: pending.iter().map(|id| person(id)).collect(),
        }
    }

    #[test]
    fn a_person_hears_of_all_requests_of_a_boundary_at_once() {
        let occasion = Occasion::Requested(vec![
            request("task", &["it_admin"]),
            request("phase", &["it_admin", "ciso"]),
            request("gate", &["ciso"]),
        ]);
        assert_eq!(addressees(&occasion, &[]), BTreeSet::from([person("ciso"), person("it_admin")]));
        let ids = |of: &str| -> Vec<String> {
            occasion.requests_for(&person(of)).iter().map(|request| request.id.to_string()).collect()
        };
        assert_eq!(ids("it_admin"), ["task", "phase"]);
        assert_eq!(ids("ciso"), ["phase", "gate"]);
        assert!(ids("somebody").is_empty());
    }

    #[test]
    fn the_informed_hear_of_phases_and_the_end_and_of_nothing_else() {
        let informed = [person("pm"), person("pm"), person("boss")];
        let moved = Occasion::PhaseChanged {
            name: "Configuration".to_owned(),
            moved: PhaseMove::Began,
            position: 2,
            phases: 4,
        };
        let ended = Occasion::Ended { outcome: Outcome::Completed, reason: String::new() };
        for occasion in [moved, ended] {
            assert_eq!(addressees(&occasion, &informed), BTreeSet::from([person("boss"), person("pm")]));
        }
        let asked = Occasion::Requested(vec![request("task", &["it_admin"])]);
        assert_eq!(addressees(&asked, &informed), BTreeSet::from([person("it_admin")]));
    }

    #[test]
    fn every_template_has_a_name_of_its_own() {
        for template in Template::ALL {
            assert_eq!(Template::parse(template.as_str()), Some(template));
        }
        assert_eq!(Template::parse("nonsense"), None);
    }
}

//! Who has to hear of an event, without the store and the mail server: pure, for whoever runs the service in a simulation.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ParticipantId};
use phasegate_proto::internal::event::v1::event::Payload;

use super::occasion::occasion;
use crate::domain::addressees;

/// The messages of one occasion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Messages {
    /// Their kind.
    pub template: &'static str,
    /// The requests that each person is told of.
    pub people: BTreeMap<ParticipantId, BTreeSet<ApprovalId>>,
}

/// The messages that follow from an event. `informed` are the people whose role it is to be told.
pub fn messages(payload: &Payload, at: Timestamp, informed: &[ParticipantId]) -> Option<Messages> {
    let occasion = occasion(payload, at)?;
    let requests = |person: &ParticipantId| {
        occasion.requests_for(person).into_iter().map(|request| request.id.clone()).collect()
    };
    let people = addressees(&occasion, informed);
    let people = people.into_iter().map(|person| (person.clone(), requests(&person))).collect();
    Some(Messages { template: occasion.template().as_str(), people })
}

//! A commit as the rows that one statement of PostgreSQL writes.

use std::collections::BTreeMap;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ParticipantId};
use phasegate_outbox::Outgoing;
use phasegate_planted::{self as planted, Bug};

use super::commit::{Change, Commit, InstanceChange, Receipt, Repeat};
use super::{Error, Person, row};
use crate::domain::{Approval, due_next, substance};

/// No time, and no number.
pub(super) const NONE: i64 = -1;

/// A commit as it is written.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) commit: Commit,
    /// Requests, each once.
    pub(super) requests: Vec<RequestRow>,
    pub(super) events: Vec<EventRow>,
    pub(super) approvers: Vec<ApproverRow>,
    pub(super) people: Vec<PersonRow>,
    pub(super) responses: Vec<ResponseRow>,
    /// What the others are told.
    pub(super) outgoing: Vec<Outgoing>,
}

#[derive(Debug)]
pub(super) struct RequestRow {
    pub(super) id: String,
    /// Events before these; 0 for a new request.
    pub(super) before: i64,
    pub(super) version: i64,
    pub(super) subject_kind: String,
    pub(super) subject: String,
    pub(super) status: String,
    pub(super) requested_at: i64,
    pub(super) decided_at: i64,
    pub(super) substance: String,
    pub(super) state: Vec<u8>,
    /// When time changes something about it next.
    pub(super) due_at: i64,
}

#[derive(Debug)]
pub(super) struct EventRow {
    pub(super) request: String,
    pub(super) version: i64,
    pub(super) at: i64,
    pub(super) payload: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct ApproverRow {
    pub(super) request: String,
    pub(super) person: String,
    pub(super) standing: String,
}

#[derive(Debug)]
pub(super) struct PersonRow {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) email: String,
}

#[derive(Debug)]
pub(super) struct ResponseRow {
    /// Which of the new answers it is, from 1.
    pub(super) place: i64,
    pub(super) request: String,
    pub(super) person: String,
    pub(super) payload: Vec<u8>,
}

// === impl Piece ===

impl Piece {
    /// Makes the rows. Changes of one request that follow each other become one.
    pub(super) fn new(mut commit: Commit, outgoing: Vec<Outgoing>) -> Result<Self, Error> {
        let mut events = Vec::new();
        let mut last: BTreeMap<ApprovalId, (i64, i64, Approval)> = BTreeMap::new();
        for change in std::mem::take(&mut commit.changes) {
            let Change { version: before, events: new, after } = change;
            let id = after.request.id.clone();
            let mut version = before;
            for event in &new {
                version += 1;
                let payload = row::to_json("approval_event", event)?;
                events.push(EventRow {
                    request: id.to_string(),
                    version,
                    at: event.at().as_micros(),
                    payload,
                });
            }
            match last.get_mut(&id) {
                None => {
                    last.insert(id, (before, version, after));
                }
                Some(first) if first.1 == before => (first.1, first.2) = (version, after),
                Some(_) => return Err(Error::Stale),
            }
        }
        let mut requests = Vec::with_capacity(last.len());
        let mut approvers = Vec::new();
        for (before, version, after) in last.values() {
            requests.push(RequestRow::new(*before, *version, after)?);
            approvers.extend(after.approvers.iter().map(|one| ApproverRow {
                request: after.request.id.to_string(),
                person: one.id.to_string(),
                standing: one.standing.as_str().to_owned(),
            }));
        }
        // Each once, as it was learned last.
        let people: BTreeMap<_, _> = std::mem::take(&mut commit.people).into_iter().collect();
        let person = |(id, known): (ParticipantId, Person)| PersonRow {
            id: id.to_string(),
            name: known.name,
            email: known.email,
        };
        let responses = (1..).zip(&commit.responses).map(|(place, response)| ResponseRow {
            place,
            request: response.approval.to_string(),
            person: response.approver.to_string(),
            payload: response.payload.clone(),
        });
        let responses = responses.collect();
        let people = people.into_iter().map(person).collect();
        Ok(Self { commit, requests, events, approvers, people, responses, outgoing })
    }

    /// Whether the row of the instance is written.
    pub(super) fn touches(&self) -> bool {
        !self.requests.is_empty() || !self.people.is_empty() || self.commit.touches_instance()
    }

    /// 0 for no pause, 1 for one, 2 for its end; and the version of the instance at it.
    pub(super) fn pause(&self) -> (i64, i64) {
        match self.commit.instance_change {
            Some(InstanceChange::Paused { paused, version }) => (if paused { 1 } else { 2 }, version),
            Some(InstanceChange::Ended) | None => (0, 0),
        }
    }

    /// The event to note.
    pub(super) fn receipt(&self) -> Option<&Receipt> {
        self.commit.receipt.as_ref().filter(|_| !planted::is(Bug::NoInbox))
    }

    /// The answer to keep.
    pub(super) fn repeat(&self) -> Option<&Repeat> {
        self.commit.repeat.as_ref().filter(|_| !planted::is(Bug::RequestRunsAgain))
    }
}

impl RequestRow {
    fn new(before: i64, version: i64, after: &Approval) -> Result<Self, Error> {
        let request = &after.request;
        Ok(Self {
            id: request.id.to_string(),
            before,
            version,
            subject_kind: request.subject.kind.as_str().to_owned(),
            subject: request.subject.id.clone(),
            status: after.state.as_str().to_owned(),
            requested_at: after.requested_at.as_micros(),
            decided_at: time(after.settlement().map(|end| end.at)),
            substance: substance(request).as_str().to_owned(),
            state: row::to_json("approval", after)?,
            due_at: time(due_next(after)),
        })
    }
}

fn time(time: Option<Timestamp>) -> i64 {
    time.map_or(NONE, Timestamp::as_micros)
}

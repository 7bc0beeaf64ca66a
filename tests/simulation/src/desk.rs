//! The approval service around its real rules and its real plans of what to write: loading and committing are here, as
//! `services/approval/src/store` does them. An agent's own request is a thin copy of `app/request.rs`, whose code asks
//! three other services on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use phasegate_approval::app::plan::{self, Found, Taken};
use phasegate_approval::app::{Envelope, Error, message};
use phasegate_approval::domain::{
    Actor, Approval, Command, CurrentArtifact, InstanceCondition, Request, SubjectKind, due_next,
};
use phasegate_approval::store::{Commit, InstanceChange, InstanceState, Person, Record};
use phasegate_bus::HandleError;
use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, InstanceId, ParticipantId, TenantId};
use phasegate_proto::internal::event::v1 as bus;

use crate::bug::Bug;
use crate::engine::{Prepared, variant};
use crate::kept::{Answer, Conflict, Kept, Once, Receipt};
use crate::world::{TENANT, World};

/// The tables of the service.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(crate) kept: Kept,
    pub(crate) requests: BTreeMap<ApprovalId, Stored>,
    instances: BTreeMap<InstanceId, Known>,
    people: BTreeMap<InstanceId, BTreeMap<ParticipantId, Person>>,
    moot: BTreeSet<ApprovalId>,
    pub(crate) timers: BTreeMap<ApprovalId, Timer>,
}

/// One request with its history, each event as JSON.
#[derive(Debug)]
pub(crate) struct Stored {
    version: i64,
    pub(crate) approval: Approval,
    pub(crate) history: Vec<Vec<u8>>,
}

/// What is known of an instance.
#[derive(Debug, Default)]
struct Known {
    revision: i64,
    paused: bool,
    paused_version: i64,
    ended: bool,
}

/// When time changes something about a request.
#[derive(Debug)]
pub(crate) struct Timer {
    pub(crate) due_at: Timestamp,
    pub(crate) paused: bool,
}

/// All that one transaction writes.
#[derive(Debug)]
pub(crate) struct Write {
    commit: Commit,
    pub(crate) receipt: Receipt,
    pub(crate) answer: Answer,
    /// An answer came too late, and what is written tells so: it is to be tried on that.
    pub(crate) lapsed: bool,
    /// Given up when it is written later than this.
    pub(crate) sure_until: Option<Timestamp>,
}

/// Who asks for what in a call.
pub(crate) struct Wish<'a> {
    pub(crate) once: &'a Once,
    pub(crate) actor: Actor,
}

impl Desk {
    /// A request with what is known around it.
    pub(crate) fn load(&self, id: &ApprovalId) -> Option<Record> {
        let stored = self.requests.get(id)?;
        let instance = &stored.approval.request.instance;
        let state = self.state(instance);
        Some(Record {
            tenant: TenantId::trusted(TENANT),
            version: stored.version,
            approval: stored.approval.clone(),
            people: self.people.get(instance).cloned().unwrap_or_default(),
            instance: state.condition,
            revision: state.revision,
        })
    }

    /// What is known of an instance.
    pub(crate) fn state(&self, instance: &InstanceId) -> InstanceState {
        let Some(known) = self.instances.get(instance) else { return InstanceState::UNHEARD };
        InstanceState { revision: known.revision, condition: known.condition(), response_sequence: 0 }
    }

    /// The requests of an instance that wait, oldest first.
    pub(crate) fn pending(&self, instance: &InstanceId) -> Vec<Record> {
        let waiting = self.requests.values().filter(|stored| stored.approval.is_pending());
        let mut waiting: Vec<&Approval> = waiting
            .map(|stored| &stored.approval)
            .filter(|approval| approval.request.instance == *instance)
            .collect();
        waiting.sort_by_key(|approval| (approval.requested_at, approval.request.id.clone()));
        waiting.iter().filter_map(|approval| self.load(&approval.request.id)).collect()
    }

    fn found(&self, request: &Request) -> Found {
        let first = self.load(&request.id);
        let is_moot = self.moot.contains(&request.id);
        let before = if first.is_none() && !is_moot { self.round_before(request) } else { None };
        Found { first, is_moot, before }
    }

    /// The request of the round before.
    pub(crate) fn round_before(&self, request: &Request) -> Option<Record> {
        if request.subject.kind == SubjectKind::AdHoc || request.round < 2 {
            return None;
        }
        let (kind, id) = (request.subject.kind.as_str(), request.subject.id.as_str());
        self.load(&ApprovalId::derive(&request.instance, kind, id, request.round - 1))
    }

    /// Writes it all, or nothing and says why.
    pub(crate) fn commit(
        &mut self,
        write: Write,
        now: Timestamp,
        bug: Option<Bug>,
    ) -> Result<Vec<ApprovalId>, Conflict> {
        let looks = !matches!(bug, Some(Bug::NoInbox | Bug::InboxApart));
        self.kept.check(&write.receipt, looks)?;
        if write.sure_until.is_some_and(|until| now > until) {
            return Err(Conflict::Lease);
        }
        let commit = write.commit;
        let state = self.state(&commit.instance);
        let touches = commit.touches_instance();
        let checks = bug != Some(Bug::VersionIgnored);
        if checks && touches && commit.at_revision.is_some_and(|seen| seen != state.revision) {
            return Err(Conflict::Stale);
        }
        for change in &commit.changes {
            let known = self.requests.get(&change.after.request.id).map_or(0, |stored| stored.version);
            if checks && known != change.version {
                return Err(Conflict::Stale);
            }
        }
        self.kept.write(write.receipt, now);
        self.moot.extend(commit.moot.into_iter().map(|(id, _)| id));
        if !touches {
            return Ok(Vec::new());
        }
        let known = self.instances.entry(commit.instance.clone()).or_default();
        known.revision += 1;
        match commit.instance_change {
            // An older pause may arrive after a newer resumption.
            Some(InstanceChange::Paused { paused, version }) if version > known.paused_version => {
                known.paused = paused;
                known.paused_version = version;
                for (id, timer) in &mut self.timers {
                    let stored = self.requests.get(id);
                    if stored.is_some_and(|stored| stored.approval.request.instance == commit.instance) {
                        timer.paused = paused;
                    }
                }
            }
            Some(InstanceChange::Ended) => known.ended = true,
            Some(InstanceChange::Paused { .. }) | None => {}
        }
        let paused = known.condition() == InstanceCondition::Paused;
        self.people.entry(commit.instance.clone()).or_default().extend(commit.people);
        let mut changed = Vec::new();
        for change in commit.changes {
            let id = change.after.request.id.clone();
            match due_next(&change.after) {
                Some(due_at) => drop(self.timers.insert(id.clone(), Timer { due_at, paused })),
                None => drop(self.timers.remove(&id)),
            }
            let stored = self.requests.entry(id.clone()).or_insert_with(|| Stored {
                version: 0,
                approval: change.after.clone(),
                history: Vec::new(),
            });
            let written = change.events.iter().map(|event| serde_json::to_vec(event).unwrap_or_default());
            stored.history.extend(written);
            stored.version = change.version + i64::try_from(change.events.len()).unwrap_or(i64::MAX);
            stored.approval = change.after;
            changed.push(id);
        }
        Ok(changed)
    }
}

impl Known {
    fn condition(&self) -> InstanceCondition {
        match (self.ended, self.paused) {
            (true, _) => InstanceCondition::Ended,
            (false, true) => InstanceCondition::Paused,
            (false, false) => InstanceCondition::Running,
        }
    }
}

impl World {
    /// Says what an event leads to.
    pub(crate) fn desk_hear(&mut self, event: &bus::Event) -> Prepared<Write> {
        let Some(taken) = event.payload.as_ref().and_then(plan::taken) else {
            return Prepared::Answered(Answer::Done(String::new()));
        };
        let envelope = match Envelope::read(event) {
            Ok(envelope) => envelope,
            Err(HandleError::Poison(why) | HandleError::Transient(why)) => return Prepared::Poison(why),
        };
        let commit = match &taken {
            Taken::Needed(needed) => self.desk_needed(&envelope, needed),
            Taken::Moot(_) | Taken::Refresh(_) | Taken::Paused { .. } | Taken::Ended(_) => {
                let mut wanted = envelope.wanted(taken.instance_change());
                let (ids, reason) = taken.called_off();
                let unknown = ids.into_iter().map(ApprovalId::trusted);
                let unknown = unknown.filter(|id| !self.desk.requests.contains_key(id));
                wanted.moot.extend(unknown.map(|id| (id, reason.clone())));
                let state = self.desk.state(&envelope.instance);
                let waiting = self.desk.pending(&envelope.instance);
                plan::pending(&wanted, state, &waiting, &|record| taken.command(record), self.now)
            }
        };
        match commit {
            Ok(commit) => {
                let done = Answer::Done(String::new());
                Prepared::Write(Box::new(self.desk_lay_out(commit, None, done)))
            }
            Err(Error::PersonUnknown(_)) => Prepared::NotYet,
            Err(error) => Prepared::Poison(error.to_string()),
        }
    }

    fn desk_needed(&self, envelope: &Envelope, needed: &bus::ApprovalsNeeded) -> Result<Commit, Error> {
        let keys = needed.needs.iter().flat_map(|need| &need.artifact_keys).map(ArtifactKey::trusted);
        let current = self.desk_current(&envelope.instance, keys);
        let requests = plan::requests(&envelope.instance, needed, &current);
        let people = self.desk_people(&envelope.instance, &requests)?;
        let state = self.desk.state(&envelope.instance);
        let found = requests.into_iter().map(|request| {
            let found = self.desk.found(&request);
            (request, found)
        });
        let found: Vec<_> = found.collect();
        let boundary = phasegate_id::BoundaryId::trusted(needed.boundary_id.clone());
        plan::needed(envelope, &boundary, &found, &people, state, self.now)
    }

    /// Names of those who are asked, and of those who may be added.
    pub(crate) fn desk_people(
        &self,
        instance: &InstanceId,
        requests: &[Request],
    ) -> Result<BTreeMap<ParticipantId, Person>, Error> {
        let known = self.people.people(instance);
        let asked = requests.iter().flat_map(|request| &request.approvers);
        if let Some(missing) = asked.clone().find(|one| !known.contains_key(*one)) {
            return Err(Error::PersonUnknown(missing.to_string()));
        }
        let targets = requests.iter().flat_map(|request| &request.timing.escalate_to);
        let wanted: BTreeSet<_> = asked.chain(targets).collect();
        let found = known.iter().filter(|(id, _)| wanted.contains(id));
        let person = |email: &String| Person { name: String::new(), email: email.clone() };
        Ok(found.map(|(id, email)| (id.clone(), person(email))).collect())
    }

    /// The newest version of each key that exists.
    pub(crate) fn desk_current(
        &self,
        instance: &InstanceId,
        keys: impl IntoIterator<Item = ArtifactKey>,
    ) -> BTreeMap<ArtifactKey, CurrentArtifact> {
        let found = keys.into_iter().filter_map(|key| {
            let current = self.shelf.current(instance, &key)?;
            Some((key, CurrentArtifact { version: current.version, digest: current.digest }))
        });
        found.collect()
    }

    /// Gives a command to a request on behalf of a caller.
    pub(crate) fn desk_step(
        &mut self,
        record: &Record,
        command: &Command,
        wish: Option<&Wish<'_>>,
    ) -> Prepared<Write> {
        let system = Actor::system("approval");
        let actor = message::bare_actor(wish.map_or(&system, |wish| &wish.actor));
        let now = if self.bug == Some(Bug::EarlyTimer) && matches!(command, Command::Elapse) {
            self.now + crate::world::EARLY
        } else {
            self.now
        };
        match plan::step(record, &actor, command, None, now) {
            Ok(step) => {
                let (id, state) = (&step.after.approval.request.id, step.after.approval.state.as_str());
                let done = format!("{id} {state} {}", step.after.version);
                let done = Answer::Done(if step.repeated { "unchanged".to_owned() } else { done });
                let instance = record.approval.request.instance.clone();
                let empty = || Commit::new(record.tenant.clone(), instance, now);
                match (step.commit, wish) {
                    (None, None) => Prepared::Answered(done),
                    (commit, wish) => {
                        let once = wish.map(|wish| wish.once).filter(|_| !step.lapsed);
                        let mut write = self.desk_lay_out(commit.unwrap_or_else(empty), once, done);
                        write.lapsed = step.lapsed;
                        Prepared::Write(Box::new(write))
                    }
                }
            }
            Err(error) => Prepared::Answered(refused(&error)),
        }
    }

    /// Gives what is to be written its ids and positions.
    pub(crate) fn desk_lay_out(&mut self, mut commit: Commit, once: Option<&Once>, answer: Answer) -> Write {
        let mut outbox = std::mem::take(&mut commit.outbox);
        for event in &mut outbox {
            event.event_id = self.next_id("evt");
        }
        let receipt = Receipt {
            inbox: commit.receipt.as_ref().map(|receipt| receipt.event_id.clone()),
            answer: once.cloned().map(|once| (once, answer.clone())),
            outbox: self.desk.kept.place(outbox),
        };
        Write { commit, receipt, answer, lapsed: false, sure_until: None }
    }

    /// Writes it, and has the witness look.
    pub(crate) fn desk_commit(&mut self, write: Write) -> Result<Answer, Conflict> {
        let answer = write.answer.clone();
        let changed = self.desk.commit(write, self.now, self.bug)?;
        for id in changed {
            self.witness_request(&id);
        }
        Ok(answer)
    }
}

impl Write {
    /// The events that leave with it.
    pub(crate) fn outbox(&self) -> &[(u64, Arc<bus::Event>)] {
        &self.receipt.outbox
    }
}

/// The name of a refusal.
#[expect(clippy::wildcard_enum_match_arm, reason = "one of many kinds holds another")]
pub(crate) fn refused(error: &Error) -> Answer {
    Answer::Refused(match error {
        Error::Rejected { rejection, .. } => variant(rejection),
        other => variant(other),
    })
}

//! Calls of the approval service: an agent or an operator asks, a person decides, somebody takes a request back. The steps
//! are those of `services/approval/src/app/{request,decide}.rs`.

use phasegate_approval::app::{message, plan};
use phasegate_approval::domain::{
    Actor, ActorKind, Answer as Vote, Assurance, Channel, Command, ContentDigest, Decision as Choice, Event,
    InstanceCondition, Outcome, Rejection, Request, State, Subject, SubjectKind, Timing, Verdict, content,
    decide, substance,
};
use phasegate_approval::store::{Commit, Record};
use phasegate_id::{ApprovalId, ArtifactKey, BoundaryId, InstanceId, ParticipantId, TaskId, TenantId};
use phasegate_instance::domain::{Status, TaskStatus};

use crate::bug::Bug;
use crate::desk::{Wish, Write, refused};
use crate::engine::{Prepared, variant};
use crate::kept::{Answer, Once};
use crate::shelf::SURE;
use crate::world::{TENANT, World};

/// What somebody asks.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) instance: InstanceId,
    /// The agent's task, with its lease.
    pub(crate) task: Option<(TaskId, u64)>,
    pub(crate) approvers: Vec<ParticipantId>,
    pub(crate) key: Option<String>,
    pub(crate) artifacts: Vec<ArtifactKey>,
    pub(crate) title: String,
}

/// What somebody decides.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    pub(crate) approval: ApprovalId,
    pub(crate) person: ParticipantId,
    pub(crate) choice: Choice,
    pub(crate) seen: ContentDigest,
    pub(crate) by: Actor,
    pub(crate) comment: String,
}

fn refuse<T>(why: &str) -> Prepared<T> {
    Prepared::Answered(Answer::Refused(why.to_owned()))
}

impl World {
    fn desk_answered(&self, once: &Once) -> Option<Answer> {
        if self.bug == Some(Bug::RequestRunsAgain) {
            return None;
        }
        match self.desk.kept.answer(once) {
            Ok(answer) => answer,
            Err(refused) => Some(refused),
        }
    }

    /// Somebody asks for a decision.
    pub(crate) fn desk_ask(&mut self, ask: &Ask, once: &Once) -> Prepared<Write> {
        let Some(row) = self.engine.rows.get(&ask.instance) else { return refuse("InstanceNotFound") };
        if let Some(answer) = self.desk_answered(once) {
            return Prepared::Answered(answer);
        }
        let state = std::sync::Arc::clone(&row.state);
        if state.status.is_terminal() {
            return refuse("InstanceTerminal");
        }
        let mut request = self.request_of(ask);
        if let Some((id, _)) = &ask.task {
            let status = state.tasks.get(id).map(|task| task.status);
            match status {
                Some(
                    TaskStatus::Completed | TaskStatus::Skipped | TaskStatus::Failed | TaskStatus::Cancelled,
                )
                | None => return refuse("TaskClosed"),
                Some(_) => {}
            }
        }
        let people = match self.desk_people(&ask.instance, std::slice::from_ref(&request)) {
            Ok(people) => people,
            Err(error) => return Prepared::Answered(refused(&error)),
        };
        let mut sure_until = None;
        if let Some((task, fencing)) = &ask.task {
            if self.lease_hold(&ask.instance, task, *fencing).is_none() {
                return refuse("LeaseLost");
            }
            sure_until = Some(self.now + SURE);
        }
        let known = self.desk.state(&ask.instance);
        if known.condition == InstanceCondition::Ended {
            return refuse("InstanceTerminal");
        }
        let actor = request.requested_by.clone();
        let found = match self.find_asked(&mut request) {
            Ok(found) => found,
            Err(why) => return refuse(why),
        };
        let (record, commit) = if let Some(record) = found {
            let instance = ask.instance.clone();
            (record, Commit::new(TenantId::trusted(TENANT), instance, self.now))
        } else {
            let before = self.desk.round_before(&request);
            let tenant = TenantId::trusted(TENANT);
            let actor = message::bare_actor(&actor);
            match plan::open(&tenant, &request, before.as_ref(), &people, known, &actor, self.now) {
                Ok(opened) => opened,
                Err(error) => return Prepared::Answered(refused(&error)),
            }
        };
        let answer = Answer::Done(format!("asked {}", record.approval.request.id));
        let once = (self.bug != Some(Bug::RequestRunsAgain)).then_some(once);
        let mut write = self.desk_lay_out(commit, once, answer);
        write.sure_until = sure_until;
        Prepared::Write(Box::new(write))
    }

    fn request_of(&mut self, ask: &Ask) -> Request {
        let row = self.engine.rows.get(&ask.instance);
        let task =
            ask.task.as_ref().and_then(|(id, _)| row?.state.tasks.get(id).map(|task| (id.clone(), task)));
        let written = ask.task.as_ref().and_then(|(id, _)| {
            let mut tasks = row?.script.definition().phases.iter().flat_map(|phase| &phase.tasks);
            tasks.find(|written| written.id == id.as_str())
        });
        let covers = written.is_some_and(|written| {
            let asked = |id: &String| ask.approvers.iter().any(|one| one.as_str() == id);
            !written.required_approvals.is_empty() && written.required_approvals.iter().all(asked)
        });
        let of_round = task.as_ref().filter(|(_, task)| {
            let status = task.status;
            covers && matches!(status, TaskStatus::Ready | TaskStatus::Running | TaskStatus::AwaitingApproval)
        });
        let (round, agent) =
            task.as_ref().map_or((1, String::new()), |(_, task)| (task.round, task.assignee.clone()));
        let phase = task.as_ref().map(|(_, task)| task.phase.clone());
        let named = of_round.map(|(id, task)| {
            let subject = Subject { kind: SubjectKind::Task, id: id.to_string() };
            (ApprovalId::derive(&ask.instance, "task", id.as_str(), task.round), subject)
        });
        let current = self.desk_current(&ask.instance, ask.artifacts.iter().cloned());
        let artifacts =
            current.into_iter().map(|(key, newest)| phasegate_approval::domain::ReviewedArtifact {
                key,
                version: newest.version,
                digest: newest.digest,
                previous_version: 0,
            });
        let artifacts = artifacts.collect();
        let (id, subject) = named.unwrap_or_else(|| self.ad_hoc(ask.key.as_deref()));
        let (kind, who) =
            if agent.is_empty() { (ActorKind::Operator, "dev") } else { (ActorKind::Agent, agent.as_str()) };
        let requested_by = Actor { kind, id: who.to_owned(), channel: Channel::Api, on_behalf_of: None };
        Request {
            id,
            instance: ask.instance.clone(),
            process: String::new(),
            subject,
            task: ask.task.as_ref().map(|(id, _)| id.clone()),
            phase,
            gate: None,
            round,
            key: ask.key.clone(),
            boundary: BoundaryId::trusted(self.next_id("bnd")),
            title: ask.title.clone(),
            description: String::new(),
            artifacts,
            approvers: ask.approvers.clone(),
            produced_by: Some(agent).filter(|agent| !agent.is_empty()).into_iter().collect(),
            requested_by,
            timing: Timing::default(),
            supersedes: None,
        }
    }

    fn ad_hoc(&mut self, key: Option<&str>) -> (ApprovalId, Subject) {
        let subject = Subject { kind: SubjectKind::AdHoc, id: key.unwrap_or_default().to_owned() };
        (ApprovalId::trusted(self.next_id("apr")), subject)
    }

    /// The request that asks the same already. Refuses what was rejected and has not changed since.
    fn find_asked(&mut self, request: &mut Request) -> Result<Option<Record>, &'static str> {
        if request.subject.kind == SubjectKind::Task
            && let Some(first) = self.desk.load(&request.id)
        {
            match first.approval.settlement().map(|end| end.outcome) {
                None | Some(Outcome::Approved) => return Ok(Some(first)),
                Some(
                    Outcome::Rejected
                    | Outcome::ChangesRequested
                    | Outcome::Expired
                    | Outcome::Withdrawn
                    | Outcome::Superseded,
                ) => (request.id, request.subject) = self.ad_hoc(request.key.as_deref()),
            }
        }
        let (asked, digest) = (substance(request), content(request));
        let of_instance =
            || self.desk.requests.values().filter(|one| one.approval.request.instance == request.instance);
        let is_rejected = |state: &State| match state {
            State::Settled(settlement) => settlement.outcome == Outcome::Rejected,
            State::Pending => false,
        };
        if of_instance()
            .any(|one| is_rejected(&one.approval.state) && substance(&one.approval.request) == asked)
        {
            return Err("ContentRejected");
        }
        let twin = of_instance().find(|one| {
            let known = &one.approval.request;
            one.approval.is_pending()
                && known.subject.kind == request.subject.kind
                && (&known.task, &known.key) == (&request.task, &request.key)
                && one.approval.digest == digest
        });
        Ok(twin.and_then(|twin| self.desk.load(&twin.approval.request.id)))
    }

    /// A person decides.
    pub(crate) fn desk_decide(&mut self, decision: &Decision, once: &Once) -> Prepared<Write> {
        let Some(record) = self.desk.load(&decision.approval) else { return refuse("NotFound") };
        if let Some(answer) = self.desk_answered(once) {
            return Prepared::Answered(answer);
        }
        let Ok(verdict) = Verdict::new(decision.choice, decision.comment.clone(), Vec::new()) else {
            return refuse("WordsMissing");
        };
        let mut vote = Vote {
            approver: decision.person.clone(),
            verdict,
            seen: decision.seen.clone(),
            by: decision.by.clone(),
            assurance: Assurance::Link,
            instance: record.instance,
        };
        // Refused early is what the rules refuse whatever the other services say.
        let matters = match decide(&record.approval, &Command::Answer(vote.clone()), self.now) {
            Ok(events) => events.iter().any(|event| matches!(event, Event::Responded { .. })),
            Err(Rejection::ContentChanged { .. }) => true,
            Err(rejection) => return Prepared::Answered(Answer::Refused(variant(&rejection))),
        };
        if matters {
            vote.instance = self.prepare_vote(&record);
        }
        let Some(record) = self.desk.load(&decision.approval) else { return refuse("NotFound") };
        vote.instance = vote.instance.worse(record.instance);
        if self.bug == Some(Bug::StaleDigest) {
            vote.seen = record.approval.digest.clone();
        }
        let wish = Wish { once, actor: decision.by.clone() };
        self.stepped(&record, &Command::Answer(vote), &wish)
    }

    /// Asks again where what is asked has changed, and tells how the instance stands.
    fn prepare_vote(&mut self, record: &Record) -> InstanceCondition {
        let request = &record.approval.request;
        let keys = request.artifacts.iter().map(|bound| bound.key.clone());
        let current = self.desk_current(&request.instance, keys);
        let is_newer = request
            .artifacts
            .iter()
            .any(|bound| current.get(&bound.key).is_some_and(|newest| newest.version > bound.version));
        if is_newer
            && let Prepared::Write(write) = self.desk_step(record, &Command::Refresh { current }, None)
        {
            self.cover.note("a request is asked again before an answer");
            let _ = self.desk_commit(*write);
        }
        match self.engine.rows.get(&request.instance).map(|row| row.state.status) {
            Some(Status::Completed | Status::Cancelled | Status::Failed) => InstanceCondition::Ended,
            Some(Status::Paused) => InstanceCondition::Paused.worse(record.instance),
            Some(Status::Running | Status::Unstarted) | None => record.instance,
        }
    }

    /// Somebody takes a request back.
    pub(crate) fn desk_withdraw(&mut self, approval: &ApprovalId, once: &Once) -> Prepared<Write> {
        let Some(record) = self.desk.load(approval) else { return refuse("NotFound") };
        if let Some(answer) = self.desk_answered(once) {
            return Prepared::Answered(answer);
        }
        let by = Actor {
            kind: ActorKind::Operator,
            id: "dev".to_owned(),
            channel: Channel::Api,
            on_behalf_of: None,
        };
        let command = Command::Withdraw { by: by.clone(), reason: once.id.clone() };
        self.stepped(&record, &command, &Wish { once, actor: by })
    }

    fn stepped(&mut self, record: &Record, command: &Command, wish: &Wish<'_>) -> Prepared<Write> {
        let mut prepared = self.desk_step(record, command, Some(wish));
        if let Prepared::Write(write) = &mut prepared
            && self.bug == Some(Bug::RequestRunsAgain)
        {
            write.receipt.answer = None;
        }
        prepared
    }
}

//! Everything that keeps the current phase from ending and the next one from beginning, each with who can move it.

use phasegate_id::{PhaseId, TaskId};
use phasegate_process as process;
use phasegate_process::{Definition, GateKind, RaidRole};

use super::condition::{Verdict, look, phase_before};
use super::failure::OPERATOR;
use super::instance::{GateStatus, Instance, Status};
use super::rejection::{Blocker, BlockerKind};
use super::request::{Approval, ApprovalStatus};
use super::task::{Task, TaskStatus};
use super::work::{current_phase, gates_before, written_task};

/// Lists what is in the way of moving on from the current phase; nothing once the instance has ended.
pub fn blockers(definition: &Definition, instance: &Instance) -> Vec<Blocker> {
    let mut found = Vec::new();
    if instance.status.is_terminal() {
        return found;
    }
    let Some(position) = current_phase(definition, instance) else { return found };
    let Some(phase) = definition.phases.get(position) else { return found };
    let list = List { definition, instance };
    if instance.status == Status::Paused {
        found.push(list.paused(phase));
    }
    let is_entered = instance.phases.get(phase.id.as_str()).is_some_and(|state| state.started_at.is_some());
    if !is_entered {
        list.entry(phase, position, &mut found);
        return found;
    }
    found.extend(phase.tasks.iter().filter_map(|written| list.task(phase, written)));
    list.exit(phase, &mut found);
    if let Some(next) = definition.phases.get(position + 1) {
        list.entry(next, position + 1, &mut found);
    }
    found
}

struct List<'a> {
    definition: &'a Definition,
    instance: &'a Instance,
}

impl List<'_> {
    /// Those who may unlock, skip and force.
    fn steering(&self) -> Vec<String> {
        let delegators = self
            .definition
            .humans
            .iter()
            .filter(|(_, human)| human.raid_role == RaidRole::Delegator)
            .map(|(id, _)| id.clone());
        std::iter::once(OPERATOR.to_owned()).chain(delegators).collect()
    }

    fn paused(&self, phase: &process::Phase) -> Blocker {
        Blocker {
            kind: BlockerKind::Paused,
            subject: phase.id.clone(),
            task: None,
            phase: PhaseId::trusted(&phase.id),
            message: format!("the instance is paused: {}", self.instance.status_reason),
            blocked_by: Vec::new(),
            unblocked_by: self.steering(),
            since: self.instance.paused_at,
        }
    }

    fn task(&self, phase: &process::Phase, written: &process::Task) -> Option<Blocker> {
        let task = self.instance.tasks.get(written.id.as_str())?;
        let name = &written.name;
        let by_worker = || vec![task.assignee.clone()];
        let (kind, message, blocked_by, unblocked_by) = match task.status {
            TaskStatus::Completed | TaskStatus::Skipped | TaskStatus::Cancelled => return None,
            TaskStatus::Pending => return Some(self.waiting(phase, written, task)),
            TaskStatus::Ready => {
                let message = match &task.last_failure {
                    Some(failure) if task.attempt > 0 => {
                        format!(
                            "{name} waits for its next attempt; the last one failed with {}",
                            failure.kind
                        )
                    }
                    Some(_) | None => format!("{name} waits for {}", task.assignee),
                };
                (BlockerKind::Task, message, Vec::new(), by_worker())
            }
            TaskStatus::Running => {
                let message = format!("{name} is being worked on by {}", task.assignee);
                (BlockerKind::Task, message, Vec::new(), by_worker())
            }
            TaskStatus::AwaitingApproval => {
                let approval = task.approval.as_ref().and_then(|id| self.instance.approvals.get(id));
                let waiting = waiting_on(approval, &written.required_approvals);
                let message = format!("{name} waits for the approval of {}", waiting.join(", "));
                let by = task.approval.iter().map(ToString::to_string).collect();
                (BlockerKind::Approval, message, by, waiting)
            }
            TaskStatus::Blocked => {
                let message = format!("the approval of {name} was rejected, withdrawn or ran out of time");
                let by = task.approval.iter().map(ToString::to_string).collect();
                (BlockerKind::Rejected, message, by, self.steering())
            }
            TaskStatus::Escalated => {
                let to = task.escalated_to.last().map_or(OPERATOR, String::as_str);
                let mut unblocked_by = self.steering();
                if !unblocked_by.iter().any(|one| one == to) {
                    unblocked_by.insert(0, to.to_owned());
                }
                (BlockerKind::Escalated, format!("{name} has gone up to {to}"), Vec::new(), unblocked_by)
            }
            TaskStatus::Failed => {
                let kind = task.last_failure.as_ref().map_or("a failure", |failure| failure.kind.as_str());
                (
                    BlockerKind::Failed,
                    format!("{name} failed for good with {kind}"),
                    Vec::new(),
                    self.steering(),
                )
            }
        };
        Some(Blocker {
            kind,
            subject: written.id.clone(),
            task: Some(TaskId::trusted(&written.id)),
            phase: PhaseId::trusted(&phase.id),
            message,
            blocked_by,
            unblocked_by,
            since: task.since,
        })
    }

    fn waiting(&self, phase: &process::Phase, written: &process::Task, task: &Task) -> Blocker {
        let undone: Vec<&process::Task> = written
            .dependencies
            .iter()
            .filter(|id| self.instance.tasks.get(id.as_str()).is_some_and(|task| !task.status.is_done()))
            .filter_map(|id| written_task(self.definition, id))
            .collect();
        let names: Vec<&str> = undone.iter().map(|task| task.name.as_str()).collect();
        let mut unblocked_by: Vec<String> = undone
            .iter()
            .filter_map(|task| self.instance.tasks.get(task.id.as_str()).map(|state| state.assignee.clone()))
            .collect();
        unblocked_by.dedup();
        Blocker {
            kind: BlockerKind::Dependency,
            subject: written.id.clone(),
            task: Some(TaskId::trusted(&written.id)),
            phase: PhaseId::trusted(&phase.id),
            message: format!("{} comes after {}", written.name, names.join(", ")),
            blocked_by: undone.iter().map(|task| task.id.clone()).collect(),
            unblocked_by,
            since: task.since,
        }
    }

    fn exit(&self, phase: &process::Phase, found: &mut Vec<Blocker>) {
        let Some(state) = self.instance.phases.get(phase.id.as_str()) else { return };
        let approval = state.approval.as_ref().and_then(|id| self.instance.approvals.get(id));
        let what = format!("phase {}", phase.name);
        if !phase.required_approvals.is_empty() {
            let asked = state.approval.as_ref().map(ToString::to_string);
            found.extend(self.decision(phase, &phase.id, &what, approval, asked, &phase.required_approvals));
        }
        self.conditions(phase, Some(phase), phase.exit_conditions.iter(), "end", found);
    }

    fn entry(&self, phase: &process::Phase, position: usize, found: &mut Vec<Blocker>) {
        let looking_back = phase_before(self.definition, position);
        for gate in gates_before(self.definition, phase) {
            let Some(state) = self.instance.gates.get(gate.id.as_str()) else { continue };
            if state.status == GateStatus::Open {
                continue;
            }
            match &gate.kind {
                GateKind::Approval(approvers) => {
                    let approval = state.approval.as_ref().and_then(|id| self.instance.approvals.get(id));
                    let asked = state.approval.as_ref().map(ToString::to_string);
                    let what = format!("gate {}", gate.name);
                    found.extend(self.decision(phase, &gate.id, &what, approval, asked, approvers));
                }
                GateKind::Condition(condition) => {
                    let verdict = look(self.instance, looking_back, std::iter::once(condition));
                    if let Some(message) = explain(&verdict) {
                        let message = format!("gate {} is closed: {message}", gate.name);
                        let by = vec![condition.source().to_owned()];
                        found.push(self.held(
                            BlockerKind::Gate,
                            phase,
                            &gate.id,
                            message,
                            by,
                            self.steering(),
                        ));
                    }
                }
                GateKind::Manual => {
                    let message = format!("gate {} waits for an operator or delegator", gate.name);
                    found.push(self.held(
                        BlockerKind::Gate,
                        phase,
                        &gate.id,
                        message,
                        Vec::new(),
                        self.steering(),
                    ));
                }
            }
        }
        self.conditions(phase, looking_back, phase.entry_conditions.iter(), "begin", found);
    }

    fn decision(
        &self,
        phase: &process::Phase,
        subject: &str,
        what: &str,
        approval: Option<&Approval>,
        asked: Option<String>,
        approvers: &[String],
    ) -> Option<Blocker> {
        let status = approval.map_or(ApprovalStatus::Needed, |approval| approval.status);
        let by: Vec<String> = asked.into_iter().collect();
        match status {
            ApprovalStatus::Approved => None,
            ApprovalStatus::Needed | ApprovalStatus::Pending | ApprovalStatus::Superseded => {
                let waiting = waiting_on(approval, approvers);
                let message = if approval.is_some() {
                    format!("{what} waits for the approval of {}", waiting.join(", "))
                } else {
                    format!("{what} needs the approval of {}, who are not asked yet", waiting.join(", "))
                };
                Some(self.held(BlockerKind::Approval, phase, subject, message, by, waiting))
            }
            ApprovalStatus::ChangesRequested => {
                let message = format!("reviewers asked for changes on {what}");
                Some(self.held(BlockerKind::Rejected, phase, subject, message, by, self.steering()))
            }
            ApprovalStatus::Rejected | ApprovalStatus::Expired | ApprovalStatus::Withdrawn => {
                let message = super::approval::refusal(what, status);
                Some(self.held(BlockerKind::Rejected, phase, subject, message, by, self.steering()))
            }
        }
    }

    fn conditions<'c>(
        &self,
        phase: &process::Phase,
        looking_back: Option<&process::Phase>,
        conditions: impl Iterator<Item = &'c process::Condition>,
        verb: &str,
        found: &mut Vec<Blocker>,
    ) {
        for condition in conditions {
            let verdict = look(self.instance, looking_back, std::iter::once(condition));
            if let Some(message) = explain(&verdict) {
                let source = condition.source();
                let message = format!("phase {} cannot {verb}: {message}", phase.name);
                let by = vec![source.to_owned()];
                found.push(self.held(BlockerKind::Condition, phase, source, message, by, self.steering()));
            }
        }
    }

    fn held(
        &self,
        kind: BlockerKind,
        phase: &process::Phase,
        subject: &str,
        message: String,
        blocked_by: Vec<String>,
        unblocked_by: Vec<String>,
    ) -> Blocker {
        Blocker {
            kind,
            subject: subject.to_owned(),
            task: None,
            phase: PhaseId::trusted(&phase.id),
            message,
            blocked_by,
            unblocked_by,
            since: self.instance.phases.get(phase.id.as_str()).and_then(|state| state.since),
        }
    }
}

fn explain(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Holds => None,
        Verdict::Fails(expression) => Some(format!("`{expression}` is false")),
        Verdict::Broken(expression, message) => {
            Some(format!("`{expression}` cannot be evaluated: {message}"))
        }
    }
}

fn waiting_on(approval: Option<&Approval>, approvers: &[String]) -> Vec<String> {
    approval.map_or_else(
        || approvers.to_vec(),
        |approval| approval.waiting_on.iter().map(ToString::to_string).collect(),
    )
}

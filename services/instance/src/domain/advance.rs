//! What follows by itself. After every command the state is driven to where nothing follows any more: decisions take
//! effect, tasks become ready, requests are made, gates open, phases end and begin. Each step looks at the state alone,
//! so it does not matter what woke it, and a pause only puts it off.

use phasegate_id::{GateId, PhaseId, TaskId};
use phasegate_process as process;
use phasegate_process::{GateKind, TaskFailure};

use super::approval::{Standing, ask, refusal, standing};
use super::command::Actor;
use super::condition::{Verdict, look, phase_before};
use super::event::{Change, RoundCause};
use super::instance::{Block, BlockCause, Gate, GateStatus, PhaseStatus, Status, Subject, Task, TaskStatus};
use super::planted::{self, Bug};
use super::round::{
    begin, begin_gates, begin_later, concerning, phase_after, remarks_at, return_task, reviewed_tasks,
};
use super::work::{Work, current_phase, gates_before, written_task};

/// Most steps after one command: far above what the largest definition can take, so that an endless loop would end.
const STEPS_MAX: usize = 20_000;

/// Drives the state to where nothing follows any more.
pub(super) fn advance(work: &mut Work<'_>) {
    for _ in 0..STEPS_MAX {
        if work.instance.status != Status::Running {
            return;
        }
        let before = work.events.len();
        step(work);
        if work.events.len() == before {
            return;
        }
    }
}

fn step(work: &mut Work<'_>) {
    if let Some((task, reason)) = fatal(work) {
        work.follow(Change::InstanceFailed { task, reason });
        return;
    }
    let Some(position) = current_phase(work.definition, &work.instance) else {
        work.follow(Change::InstanceCompleted {});
        return;
    };
    let Some(phase) = work.definition.phases.get(position) else { return };
    let is_entered =
        work.instance.phases.get(phase.id.as_str()).is_some_and(|state| state.started_at.is_some());
    if is_entered { run(work, phase) } else { approach(work, phase, position) }
}

/// The failure that ends the whole instance, where there is one.
fn fatal(work: &Work<'_>) -> Option<(TaskId, String)> {
    let failed = work.instance.tasks.iter().filter(|(_, task)| task.status == TaskStatus::Failed);
    for (id, task) in failed {
        let written = written_task(work.definition, id.as_str())?;
        if written.error_handling.task_failure == TaskFailure::FailProcess {
            let message = task.last_failure.as_ref().map_or("", |failure| failure.message.as_str());
            return Some((id.clone(), format!("task {id} failed for good: {message}")));
        }
    }
    None
}

// === A phase that is under way ===

fn run(work: &mut Work<'_>, phase: &process::Phase) {
    let before = work.events.len();
    for written in &phase.tasks {
        settle_task(work, phase, written);
    }
    if work.events.len() > before {
        return;
    }
    let mut block = stuck_task(work, phase);
    if block.is_none() && all_tasks(work, phase, TaskStatus::is_handed_in) {
        block = review(work, phase);
        if work.events.len() > before {
            return;
        }
    }
    show(work, phase, block);
}

/// Lets a task begin, and lets what people decided about it take effect.
fn settle_task(work: &mut Work<'_>, phase: &process::Phase, written: &process::Task) {
    let Some(task) = work.instance.tasks.get(written.id.as_str()) else { return };
    let id = TaskId::trusted(&written.id);
    if task.status == TaskStatus::Pending && dependencies_done(work, written) {
        work.follow(Change::TaskReady { task: id });
        return;
    }
    if task.status != TaskStatus::AwaitingApproval {
        return;
    }
    let round = task.round;
    let approval = task.approval.clone();
    let phase_id = PhaseId::trusted(&phase.id);
    match (standing(work, approval.as_ref()), approval) {
        (Standing::Unasked, _) | (_, None) => {
            ask(work, Subject::Task(id), round, &written.required_approvals);
        }
        (Standing::Open, _) => {}
        (Standing::Approved, approval) => work.follow(Change::TaskCompleted { task: id, approval }),
        (Standing::OutOfDate, _) => {
            begin(work, Subject::Task(id), RoundCause::ContentChanged);
            begin_later(work, &phase_id, RoundCause::EarlierRound);
        }
        (Standing::Superseded, _) => {
            begin(work, Subject::Task(id), RoundCause::Superseded);
            begin_later(work, &phase_id, RoundCause::EarlierRound);
        }
        (Standing::ChangesRequested, Some(approval)) => send_back(work, phase, written, &approval),
        (Standing::Refused(status), Some(approval)) => {
            let message = refusal(&format!("task {id}"), status);
            work.follow(Change::TaskBlocked { task: id, approval, message });
        }
    }
}

fn dependencies_done(work: &Work<'_>, written: &process::Task) -> bool {
    planted::is(Bug::DependencyIgnored)
        || written.dependencies.iter().all(|dependency| {
            work.instance.tasks.get(dependency.as_str()).is_some_and(|task| task.status.is_done())
        })
}

/// Sends a task back to whoever does it, or up, once it has gone back often enough.
fn send_back(
    work: &mut Work<'_>,
    phase: &process::Phase,
    written: &process::Task,
    approval: &phasegate_id::ApprovalId,
) {
    let id = TaskId::trusted(&written.id);
    let phase_id = PhaseId::trusted(&phase.id);
    let mut remarks =
        work.instance.approvals.get(approval).map(|approval| approval.remarks.clone()).unwrap_or_default();
    remarks.extend(remarks_at(work, &phase_id));
    let changes = work.instance.tasks.get(&id).map_or(0, |task| task.changes);
    // Neither can fail: the task was found a moment ago.
    let _ = if changes + 1 < written.max_rounds {
        return_task(work, &Actor::engine(), &id, RoundCause::ChangesRequested, remarks)
    } else {
        let message = format!("reviewers asked for changes in {} rounds", changes + 1);
        super::failure::escalate(work, &id, message, remarks)
    };
}

/// What is held by one of its tasks.
fn stuck_task(work: &Work<'_>, phase: &process::Phase) -> Option<Block> {
    phase.tasks.iter().find_map(|written| {
        let task = work.instance.tasks.get(written.id.as_str())?;
        let (cause, message) = match task.status {
            TaskStatus::Failed => (BlockCause::Failed, failure_message(written, task)),
            TaskStatus::Blocked => (BlockCause::Rejected, rejection_message(work, written, task)),
            TaskStatus::Pending
            | TaskStatus::Ready
            | TaskStatus::Running
            | TaskStatus::AwaitingApproval
            | TaskStatus::Completed
            | TaskStatus::Escalated
            | TaskStatus::Skipped
            | TaskStatus::Cancelled => return None,
        };
        Some(Block { cause, subject: written.id.clone(), message })
    })
}

fn failure_message(written: &process::Task, task: &Task) -> String {
    let kind = task.last_failure.as_ref().map_or("an unknown failure", |failure| failure.kind.as_str());
    format!("task {} failed for good with {kind}", written.id)
}

fn rejection_message(work: &Work<'_>, written: &process::Task, task: &Task) -> String {
    let approval = task.approval.as_ref().and_then(|id| work.instance.approvals.get(id));
    let status = approval.map_or(super::instance::ApprovalStatus::Rejected, |approval| approval.status);
    refusal(&format!("task {}", written.id), status)
}

fn all_tasks(work: &Work<'_>, phase: &process::Phase, is: fn(TaskStatus) -> bool) -> bool {
    phase
        .tasks
        .iter()
        .all(|task| work.instance.tasks.get(task.id.as_str()).is_some_and(|state| is(state.status)))
}

/// The boundary: asks for what is not asked yet, and ends the phase once everything is met. Says what blocks it.
fn review(work: &mut Work<'_>, phase: &process::Phase) -> Option<Block> {
    let early = phase.exit_conditions.iter().filter(|condition| !condition.reads_approvals());
    match look(&work.instance, Some(phase), early) {
        Verdict::Broken(expression, message) => return Some(broken(expression, message)),
        Verdict::Fails(_) => {}
        Verdict::Holds => ask_boundary(work, phase),
    }
    if !all_tasks(work, phase, TaskStatus::is_done) {
        return None;
    }
    let id = PhaseId::trusted(&phase.id);
    let state = work.instance.phases.get(&id)?;
    let approval = state.approval.clone();
    match standing(work, approval.as_ref()) {
        Standing::Unasked if !phase.required_approvals.is_empty() => None,
        Standing::Open => None,
        Standing::Unasked | Standing::Approved => leave(work, phase),
        Standing::OutOfDate => {
            begin(work, Subject::Phase(id.clone()), RoundCause::ContentChanged);
            begin_gates(work, &id, RoundCause::EarlierRound);
            None
        }
        Standing::Superseded => {
            begin(work, Subject::Phase(id.clone()), RoundCause::Superseded);
            begin_gates(work, &id, RoundCause::EarlierRound);
            None
        }
        Standing::ChangesRequested => rework_phase(work, phase),
        Standing::Refused(status) => Some(Block {
            cause: BlockCause::Rejected,
            subject: phase.id.clone(),
            message: refusal(&format!("phase {id}"), status),
        }),
    }
}

fn broken(expression: String, message: String) -> Block {
    let message = format!("the condition `{expression}` cannot be evaluated: {message}");
    Block { cause: BlockCause::Condition, subject: expression, message }
}

/// Asks for the phase and for the approval gates after it, together.
fn ask_boundary(work: &mut Work<'_>, phase: &process::Phase) {
    let id = PhaseId::trusted(&phase.id);
    let Some(state) = work.instance.phases.get(&id) else { return };
    if state.approval.is_none() && !phase.required_approvals.is_empty() {
        let round = state.round;
        ask(work, Subject::Phase(id.clone()), round, &phase.required_approvals);
    }
    let Some(next) = phase_after(work, &id) else { return };
    for gate in gates_before(work.definition, next) {
        let GateKind::Approval(approvers) = &gate.kind else { continue };
        let Some(state) = work.instance.gates.get(gate.id.as_str()) else { continue };
        if state.approval.is_none() && state.status == GateStatus::Pending {
            let round = state.round;
            ask(work, Subject::Gate(GateId::trusted(&gate.id)), round, approvers);
        }
    }
}

/// Ends a phase whose approval is there, if its exit conditions hold.
fn leave(work: &mut Work<'_>, phase: &process::Phase) -> Option<Block> {
    match look(&work.instance, Some(phase), phase.exit_conditions.iter()) {
        Verdict::Broken(expression, message) => return Some(broken(expression, message)),
        Verdict::Fails(_) if !planted::is(Bug::ExitConditionSkipped) => return None,
        Verdict::Fails(_) | Verdict::Holds => {}
    }
    work.follow(Change::PhaseCompleted { phase: PhaseId::trusted(&phase.id) });
    None
}

/// Sends the reviewed tasks of a phase back, as long as that has not happened too often.
fn rework_phase(work: &mut Work<'_>, phase: &process::Phase) -> Option<Block> {
    let id = PhaseId::trusted(&phase.id);
    let state = work.instance.phases.get(&id)?;
    let approval = work.instance.approvals.get(state.approval.as_ref()?)?;
    let changes = state.changes;
    let tasks = reviewed_tasks(work, phase, approval);
    if changes + 1 >= phase.max_rounds || tasks.is_empty() {
        return Some(exhausted(&phase.id, &format!("phase {id}"), changes + 1, tasks.is_empty()));
    }
    let remarks = remarks_at(work, &id);
    begin(work, Subject::Phase(id.clone()), RoundCause::ChangesRequested);
    begin_gates(work, &id, RoundCause::EarlierRound);
    for task in &tasks {
        let own = concerning(work, phase, task, &tasks, &remarks);
        let _ = return_task(work, &Actor::engine(), task, RoundCause::LaterReview, own);
    }
    None
}

fn exhausted(subject: &str, what: &str, rounds: u32, nothing_to_do: bool) -> Block {
    let message = if nothing_to_do {
        format!("reviewers asked for changes on {what}, and no task of it can be taken up again")
    } else {
        format!("reviewers asked for changes on {what} in {rounds} rounds")
    };
    Block { cause: BlockCause::Rounds, subject: subject.to_owned(), message }
}

/// Shows where a phase that is under way stands.
fn show(work: &mut Work<'_>, phase: &process::Phase, block: Option<Block>) {
    let Some(state) = work.instance.phases.get(phase.id.as_str()) else { return };
    let id = PhaseId::trusted(&phase.id);
    if let Some(block) = block {
        if state.block.as_ref() != Some(&block) {
            work.follow(Change::PhaseBlocked { phase: id, block });
        }
        return;
    }
    let is_awaiting = |task: &process::Task| {
        let state = work.instance.tasks.get(task.id.as_str());
        state.is_some_and(|state| state.status == TaskStatus::AwaitingApproval)
    };
    let people_decide = all_tasks(work, phase, TaskStatus::is_handed_in)
        && (state.approval.is_some() || phase.tasks.iter().any(is_awaiting));
    if people_decide && state.status != PhaseStatus::AwaitingApproval {
        work.follow(Change::PhaseAwaitingApproval { phase: id });
    } else if !people_decide && state.status != PhaseStatus::Active {
        work.follow(Change::PhaseActivated { phase: id });
    }
}

// === A phase that is next ===

fn approach(work: &mut Work<'_>, phase: &process::Phase, position: usize) {
    let before = work.events.len();
    let mut block = None;
    for gate in gates_before(work.definition, phase) {
        let obstacle = try_gate(work, gate, position);
        block = block.or(obstacle);
    }
    if work.events.len() > before {
        return;
    }
    let is_open = |gate: &process::Gate| {
        work.instance.gates.get(gate.id.as_str()).is_some_and(|state| state.status == GateStatus::Open)
    };
    if gates_before(work.definition, phase).all(is_open) {
        let looking_back = phase_before(work.definition, position);
        match look(&work.instance, looking_back, phase.entry_conditions.iter()) {
            Verdict::Holds => {
                work.follow(Change::PhaseEntered { phase: PhaseId::trusted(&phase.id) });
                return;
            }
            Verdict::Fails(_) => {}
            Verdict::Broken(expression, message) => block = Some(broken(expression, message)),
        }
    }
    show_next(work, phase, block);
}

/// Opens a gate if it may open, and says what blocks it for good.
fn try_gate(work: &mut Work<'_>, gate: &process::Gate, position: usize) -> Option<Block> {
    let state = work.instance.gates.get(gate.id.as_str())?.clone();
    if state.status == GateStatus::Open {
        return None;
    }
    match &gate.kind {
        GateKind::Manual => None,
        GateKind::Condition(condition) => {
            let looking_back = phase_before(work.definition, position);
            match look(&work.instance, looking_back, std::iter::once(condition)) {
                Verdict::Broken(expression, message) => return Some(broken(expression, message)),
                Verdict::Fails(_) if !planted::is(Bug::FalseConditionOpens) => return None,
                Verdict::Fails(_) | Verdict::Holds => {}
            }
            work.follow(opened(&gate.id, None, Default::default()));
            None
        }
        GateKind::Approval(approvers) => try_approval_gate(work, gate, &state, approvers, position),
    }
}

fn opened(
    gate: &str,
    approval: Option<phasegate_id::ApprovalId>,
    artifacts: std::collections::BTreeMap<phasegate_id::ArtifactKey, u32>,
) -> Change {
    Change::GateOpened {
        gate: GateId::trusted(gate),
        approval,
        artifacts,
        forced: false,
        reason: String::new(),
    }
}

fn try_approval_gate(
    work: &mut Work<'_>,
    gate: &process::Gate,
    state: &Gate,
    approvers: &[String],
    position: usize,
) -> Option<Block> {
    let id = GateId::trusted(&gate.id);
    match (standing(work, state.approval.as_ref()), state.approval.clone()) {
        (Standing::Unasked, _) | (_, None) => ask(work, Subject::Gate(id), state.round, approvers),
        (Standing::Open, _) => {}
        (Standing::Approved, Some(approval)) => {
            let artifacts = work
                .instance
                .approvals
                .get(&approval)
                .map(|known| known.artifacts.clone())
                .unwrap_or_default();
            work.follow(opened(&gate.id, Some(approval), artifacts));
        }
        (Standing::OutOfDate, _) => begin(work, Subject::Gate(id), RoundCause::ContentChanged),
        (Standing::Superseded, _) => begin(work, Subject::Gate(id), RoundCause::Superseded),
        (Standing::ChangesRequested, Some(approval)) => {
            return rework_before(work, gate, state, &approval, position);
        }
        (Standing::Refused(status), Some(approval)) => {
            if state.status != GateStatus::Rejected {
                work.follow(Change::GateRejected { gate: id.clone(), approval });
            }
            let message = refusal(&format!("gate {id}"), status);
            return Some(Block { cause: BlockCause::Rejected, subject: gate.id.clone(), message });
        }
    }
    None
}

/// Sends the reviewed tasks of the phase before a gate back: that phase is taken up again.
fn rework_before(
    work: &mut Work<'_>,
    gate: &process::Gate,
    state: &Gate,
    approval: &phasegate_id::ApprovalId,
    position: usize,
) -> Option<Block> {
    let phase = phase_before(work.definition, position)?;
    let id = PhaseId::trusted(&phase.id);
    let tasks = reviewed_tasks(work, phase, work.instance.approvals.get(approval)?);
    if state.changes + 1 >= phase.max_rounds || tasks.is_empty() {
        return Some(exhausted(&gate.id, &format!("gate {}", gate.id), state.changes + 1, tasks.is_empty()));
    }
    let remarks = remarks_at(work, &id);
    begin(work, Subject::Gate(GateId::trusted(&gate.id)), RoundCause::ChangesRequested);
    begin_later(work, &id, RoundCause::LaterReview);
    let reason = format!("reviewers asked for changes on gate {}", gate.id);
    super::operator::reopen_boundary(work, &Actor::engine(), phase, reason, true);
    for task in &tasks {
        let own = concerning(work, phase, task, &tasks, &remarks);
        let _ = return_task(work, &Actor::engine(), task, RoundCause::LaterReview, own);
    }
    None
}

/// Shows where a phase that is next stands.
fn show_next(work: &mut Work<'_>, phase: &process::Phase, block: Option<Block>) {
    let Some(state) = work.instance.phases.get(phase.id.as_str()) else { return };
    let id = PhaseId::trusted(&phase.id);
    match block {
        Some(block) if state.block.as_ref() == Some(&block) => {}
        Some(block) => work.follow(Change::PhaseBlocked { phase: id, block }),
        None if state.status == PhaseStatus::Gated => {}
        None => work.follow(Change::PhaseGated { phase: id }),
    }
}

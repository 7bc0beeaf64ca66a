//! Where an instance stands, for people: derived when read, from state, definition and the time.

use std::collections::BTreeMap;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, GateId, ParticipantId, PhaseId, TaskId};
use phasegate_process::Definition;

use super::blocker::blockers;
use super::copy_on_write::Shared;
use super::estimate::{Expected, completion, plan, progress_percent};
use super::instance::{GateStatus, Instance, PhaseStatus};
use super::need::words;
use super::rejection::{Blocker, BlockerKind};
use super::request::{Approval, Subject};
use super::task::{Task, TaskStatus};
use super::work::{current_phase, gates_before};

/// What the instance itself does not know, and its status depends on.
#[derive(Debug, Clone)]
pub struct Surroundings<'a> {
    /// The time of the reading.
    pub now: Timestamp,
    /// Queues that no worker has polled for a minute or more, with when one last did (or the instance's start).
    pub unpolled: &'a BTreeMap<String, Timestamp>,
}

/// Where an instance stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// The current phase; absent once it has ended well.
    pub phase: Option<PhaseId>,
    /// Completed and skipped phases, in order.
    pub completed_phases: Vec<PhaseId>,
    /// What people have to decide, oldest first.
    pub pending_approvals: Vec<PendingApproval>,
    /// What does not move, and why.
    pub blocked: Vec<Blocker>,
    /// 0 to 100.
    pub progress_percent: u32,
    /// When it may end.
    pub completion: Option<Expected>,
    /// Whether somebody has to look.
    pub health: Health,
}

/// Whether somebody has to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Nothing to do.
    Ok,
    /// A person has to decide or act.
    WaitingOnHuman,
    /// Something was rejected, failed for good or cannot be evaluated.
    Blocked,
    /// Work is ready, and no worker polls its queue.
    NoWorker,
    /// A request is past its deadline.
    Overdue,
}

/// A request that people have to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingApproval {
    /// The request.
    pub approval: ApprovalId,
    /// Its title.
    pub title: String,
    /// What it is about.
    pub subject: Subject,
    /// Task, where there is one.
    pub task: Option<TaskId>,
    /// Phase at whose boundary it is; absent for an ad-hoc one without a task.
    pub phase: Option<PhaseId>,
    /// Who has not answered.
    pub waiting_on: Vec<ParticipantId>,
    /// When it was asked.
    pub requested_at: Timestamp,
    /// Deadline.
    pub expires_at: Option<Timestamp>,
}

/// A phase with its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseLine {
    /// Phase.
    pub phase: PhaseId,
    /// Life cycle.
    pub status: PhaseStatus,
    /// When it became active.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Middle estimate of its start, while it has not started.
    pub planned_start_at: Option<Timestamp>,
    /// Middle estimate of its end, while it has not ended.
    pub planned_end_at: Option<Timestamp>,
    /// Its tasks, in the order written. What else is to be said of them is in the state.
    pub tasks: Vec<TaskId>,
    /// Gates before it.
    pub gates: Vec<GateId>,
}

/// Says where an instance stands.
pub fn overview(definition: &Definition, instance: &Instance, around: &Surroundings<'_>) -> Overview {
    let is_over = |id: &PhaseId| instance.phases.get(id).is_some_and(|phase| phase.status.is_over());
    let pending_approvals = pending_approvals(definition, instance);
    let mut blocked = stuck(definition, instance);
    blocked.extend(without_worker(definition, instance, around));
    Overview {
        phase: phase_under_way(definition, instance),
        completed_phases: definition
            .phases
            .iter()
            .map(|phase| PhaseId::trusted(&phase.id))
            .filter(is_over)
            .collect(),
        health: health(definition, instance, &blocked, &pending_approvals, around.now),
        progress_percent: progress_percent(definition, instance),
        completion: completion(definition, instance, around.now),
        pending_approvals,
        blocked,
    }
}

/// The phase in which work is done, or is waited for; none once the instance is over.
pub fn phase_under_way(definition: &Definition, instance: &Instance) -> Option<PhaseId> {
    let current = current_phase(definition, instance).and_then(|position| definition.phases.get(position));
    current.filter(|_| !instance.status.is_terminal()).map(|phase| PhaseId::trusted(&phase.id))
}

/// Lists phases with actual and planned times.
pub fn timeline(definition: &Definition, instance: &Instance, now: Timestamp) -> Vec<PhaseLine> {
    let plan = plan(definition, instance, now);
    let lines = definition.phases.iter().zip(plan).filter_map(|(written, planned)| {
        let id = PhaseId::trusted(&written.id);
        let state = instance.phases.get(&id)?;
        Some(PhaseLine {
            phase: id,
            status: state.status,
            started_at: state.started_at,
            ended_at: state.ended_at,
            planned_start_at: planned.start,
            planned_end_at: planned.end,
            tasks: written.tasks.iter().map(|task| TaskId::trusted(&task.id)).collect(),
            gates: gates_before(definition, written).map(|gate| GateId::trusted(&gate.id)).collect(),
        })
    });
    lines.collect()
}

/// What people have to decide, oldest first.
fn pending_approvals(definition: &Definition, instance: &Instance) -> Vec<PendingApproval> {
    let open = instance.approvals.iter().filter(|(_, approval)| approval.status.is_open());
    let mut pending: Vec<PendingApproval> =
        open.map(|(id, approval)| pending(definition, instance, id, approval)).collect();
    pending.sort_by(|a, b| (a.requested_at, &a.approval).cmp(&(b.requested_at, &b.approval)));
    pending
}

fn pending(
    definition: &Definition,
    instance: &Instance,
    id: &ApprovalId,
    approval: &Approval,
) -> PendingApproval {
    let title = if approval.title.is_empty() {
        words(definition, instance, &approval.subject).0
    } else {
        approval.title.clone()
    };
    let of_task = |task: &TaskId| instance.tasks.get(task).map(|task| task.phase.clone());
    let phase = match &approval.subject {
        Subject::Task(task) => of_task(task),
        Subject::Phase(phase) => Some(phase.clone()),
        Subject::Gate(gate) => definition
            .gates
            .iter()
            .find(|written| written.id == gate.as_str())
            .map(|written| PhaseId::trusted(&written.before_phase)),
        Subject::AdHoc(_) => approval.task.as_ref().and_then(of_task),
    };
    PendingApproval {
        approval: id.clone(),
        title,
        subject: approval.subject.clone(),
        task: approval.task.clone(),
        phase,
        waiting_on: approval.waiting_on.iter().cloned().collect(),
        requested_at: approval.requested_at,
        expires_at: approval.expires_at,
    }
}

/// What does not move although nobody works on it: everything in the way of the current phase but work that is under
/// way or ready, and what has not been reached yet.
fn stuck(definition: &Definition, instance: &Instance) -> Vec<Blocker> {
    let position = current_phase(definition, instance);
    let current = position.and_then(|position| definition.phases.get(position));
    let handed_in = current.is_some_and(|phase| {
        phase
            .tasks
            .iter()
            .all(|task| instance.tasks.get(task.id.as_str()).is_some_and(|state| state.status.is_handed_in()))
    });
    let is_told = |blocker: &Blocker| {
        let of_current = current.is_some_and(|phase| phase.id == blocker.phase.as_str());
        match blocker.kind {
            BlockerKind::Task => false,
            BlockerKind::Dependency
            | BlockerKind::Paused
            | BlockerKind::Failed
            | BlockerKind::Escalated
            | BlockerKind::NoWorker => true,
            BlockerKind::Approval | BlockerKind::Rejected | BlockerKind::Gate | BlockerKind::Condition => {
                of_current && (blocker.task.is_some() || handed_in || is_next(instance, blocker))
            }
        }
    };
    blockers(definition, instance).into_iter().filter(is_told).collect()
}

/// Whether the phase that something holds is reached and has not begun.
fn is_next(instance: &Instance, blocker: &Blocker) -> bool {
    instance.phases.get(&blocker.phase).is_some_and(|phase| phase.started_at.is_none())
}

/// Ready work on queues that nobody polls.
fn without_worker(definition: &Definition, instance: &Instance, around: &Surroundings<'_>) -> Vec<Blocker> {
    let ready = super::lease::ready_work(definition, instance);
    let due = ready.into_values().filter(|work| work.ready_at <= around.now);
    due.filter_map(|work| {
        let since = around.unpolled.get(&work.queue)?;
        let task = instance.tasks.get(&work.task)?;
        Some(Blocker {
            kind: BlockerKind::NoWorker,
            subject: work.task.to_string(),
            message: format!("no worker polls queue {}, and task {} is ready", work.queue, work.task),
            task: Some(work.task),
            phase: task.phase.clone(),
            blocked_by: vec![work.queue],
            unblocked_by: vec![task.assignee.clone()],
            since: Some((*since).max(work.ready_at)),
        })
    })
    .collect()
}

/// The worst that is to be said comes first.
fn health(
    definition: &Definition,
    instance: &Instance,
    blocked: &[Blocker],
    pending: &[PendingApproval],
    now: Timestamp,
) -> Health {
    if instance.status.is_terminal() {
        return Health::Ok;
    }
    let is_blocked = instance.phases.values().any(|phase| phase.status == PhaseStatus::Blocked)
        || instance.gates.values().any(|gate| gate.status == GateStatus::Rejected)
        || instance
            .tasks
            .values()
            .any(|task| matches!(task.status, TaskStatus::Blocked | TaskStatus::Failed));
    if is_blocked {
        return Health::Blocked;
    }
    let is_late = |request: &PendingApproval| request.expires_at.is_some_and(|deadline| deadline <= now);
    if pending.iter().any(is_late) || instance.approvals.values().any(|approval| approval.overdue) {
        return Health::Overdue;
    }
    if blocked.iter().any(|blocker| blocker.kind == BlockerKind::NoWorker) {
        return Health::NoWorker;
    }
    let is_a_persons = |task: &Shared<Task>| {
        task.status == TaskStatus::Escalated
            || (task.status == TaskStatus::Ready && definition.humans.contains_key(&task.assignee))
    };
    let waits = !pending.is_empty()
        || instance.tasks.values().any(is_a_persons)
        || blocked.iter().any(|blocker| matches!(blocker.kind, BlockerKind::Gate | BlockerKind::Condition));
    if waits { Health::WaitingOnHuman } else { Health::Ok }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::tests::play::{Play, define};
    use super::*;

    fn estimated() -> Definition {
        define(json!({
            "phases": [
                {"id": "p", "estimatedDuration": "2 days", "parallelExecution": true,
                 "tasks": [{"id": "a"}, {"id": "b", "dependencies": ["a"]}]},
                {"id": "q", "estimatedDuration": "1-3 days", "requiredApprovals": ["ann"],
                 "tasks": [{"id": "c", "requiredApprovals": ["ben"]}]},
            ],
            "gates": [{"id": "g", "beforePhase": "q", "type": "manual"}],
        }))
    }

    fn see(play: &Play<'_>, unpolled: &[&str]) -> Overview {
        let unpolled = unpolled.iter().map(|queue| ((*queue).to_owned(), play.now)).collect();
        overview(play.definition, &play.instance, &Surroundings { now: play.now, unpolled: &unpolled })
    }

    #[test]
    fn progress_is_weighted_by_estimates() {
        let definition = estimated();
        let mut play = Play::new(&definition);
        for (script, percent) in [
            ("start", 0),
            ("lease a; hand a", 25),
            ("lease b; hand b", 50),
            ("advance; lease c; hand c", 50),
            ("approve task:c", 75),
            ("approve phase:q", 100),
        ] {
            play.script(script);
            assert_eq!(see(&play, &[]).progress_percent, percent, "after {script:?}");
        }
    }

    #[test]
    fn without_estimates_phases_weigh_the_same_and_nothing_is_expected() {
        let definition = define(json!({"phases": [
            {"id": "p", "tasks": [{"id": "a"}]}, {"id": "q", "tasks": [{"id": "b"}]},
            {"id": "r", "tasks": [{"id": "c"}]}]}));
        let mut play = Play::new(&definition);
        play.script("start; lease a; hand a");
        let seen = see(&play, &[]);
        assert_eq!((seen.progress_percent, seen.completion), (33, None));
    }

    #[test]
    fn the_end_is_expected_from_what_is_left() {
        let definition = estimated();
        let mut play = Play::new(&definition);
        let expected =
            |play: &Play<'_>| see(play, &[]).completion.map(|end| end.p50.duration_since(play.now));
        let days = |days: u64| Some(Duration::from_hours(24 * days));
        play.script("start");
        assert_eq!(expected(&play), days(4));
        play.script("wait 86400");
        assert_eq!(expected(&play), days(3), "time that has passed is not waited for again");
        play.script("lease a; hand a");
        assert_eq!(expected(&play), days(3), "half of the chain is left");
        play.script("wait 864000");
        assert_eq!(expected(&play), days(2), "what is late is expected now, and the rest after it");
        let end = see(&play, &[]).completion.expect("an estimate");
        assert!(end.p90 > end.p50);
        play.script("lease b; hand b; cancel");
        assert_eq!(expected(&play), None);
    }

    #[test]
    fn the_timeline_has_actual_and_planned_times() {
        let definition = estimated();
        let mut play = Play::new(&definition);
        play.script("start; lease a; hand a; lease b; hand b");
        let lines = timeline(&definition, &play.instance, play.now);
        assert_eq!(lines[0].ended_at, Some(play.now));
        assert_eq!((lines[0].planned_start_at, lines[0].planned_end_at), (None, None));
        assert_eq!(lines[1].planned_start_at, Some(play.now));
        assert_eq!(lines[1].planned_end_at, Some(play.now + Duration::from_hours(48)));
        assert_eq!(lines[1].gates, [GateId::trusted("g")]);
    }

    #[test]
    fn health_names_the_worst() {
        let definition = estimated();
        for (script, unpolled, health) in [
            ("start", vec![], Health::Ok),
            ("start", vec!["bots"], Health::NoWorker),
            ("start; lease a", vec!["bots"], Health::Ok),
            ("start; pause", vec!["bots"], Health::Ok),
            ("start; skip a; skip b", vec!["bots"], Health::WaitingOnHuman),
            ("start; asked legal", vec![], Health::WaitingOnHuman),
            ("start; asked legal; overdue legal", vec!["bots"], Health::Overdue),
            ("start; skip a; skip b; advance; lease c; hand c", vec![], Health::WaitingOnHuman),
            ("start; skip a; skip b; advance; lease c; hand c; reject task:c", vec![], Health::Blocked),
            ("start; asked legal; overdue legal; cancel", vec![], Health::Ok),
        ] {
            let mut play = Play::new(&definition);
            play.script(script);
            assert_eq!(see(&play, &unpolled).health, health, "after {script:?}");
        }
    }

    #[test]
    fn what_does_not_move_says_why_and_who_can_move_it() {
        let definition = estimated();
        let told = |script: &str, unpolled: &[&str]| -> Vec<String> {
            let mut play = Play::new(&definition);
            play.script(script);
            let blocked = see(&play, unpolled).blocked;
            blocked
                .iter()
                .map(|one| format!("{} {} by {}", one.kind.as_str(), one.subject, one.unblocked_by.join("+")))
                .collect()
        };
        assert_eq!(told("start", &[]), ["DEPENDENCY b by bot"]);
        assert_eq!(told("start", &["bots"]), ["DEPENDENCY b by bot", "NO_WORKER a by bot"]);
        assert_eq!(told("start; skip a; skip b", &[]), ["GATE g by operator+dan"]);
        let handed_in = "start; skip a; skip b; advance; lease c; hand c";
        assert_eq!(told(handed_in, &[]), ["APPROVAL c by ben", "APPROVAL q by ann"]);
        let rejected = format!("{handed_in}; reject task:c");
        assert_eq!(told(&rejected, &[]), ["REJECTED c by operator+dan"]);
        assert_eq!(told("start; pause", &[])[0], "PAUSED p by operator+dan");
        assert!(told("start; cancel", &[]).is_empty());
    }

    #[test]
    fn what_people_have_to_decide_is_listed_oldest_first() {
        let definition = estimated();
        let mut play = Play::new(&definition);
        play.script("start; asked legal; wait 10; skip a; skip b; advance; lease c; hand c");
        let pending = see(&play, &[]).pending_approvals;
        let titles: Vec<&str> = pending.iter().map(|one| one.title.as_str()).collect();
        assert_eq!(titles[0], "Please look");
        assert_eq!(pending.len(), 3);
        assert!(
            titles.contains(&"c") && titles.contains(&"q"),
            "the engine's own have titles before they are asked"
        );
        assert!(pending.iter().any(|one| one.task == Some(TaskId::trusted("c"))));
    }
}

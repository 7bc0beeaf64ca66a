//! The right to work on a task. Each lease has a number that grows; whoever shows an older one is refused, so work that
//! is handed out twice takes effect once.

use std::collections::BTreeMap;

use phasegate_clock::Timestamp;
use phasegate_id::TaskId;
use phasegate_process::Definition;

use super::command::Actor;
use super::event::Change;
use super::instance::{Instance, Status};
use super::planted::{self, Bug};
use super::rejection::Rejection;
use super::task::{Delivery, HeldLease, ReadyWork, TaskStatus};
use super::work::Work;

/// Grants a lease.
pub(super) fn lease(
    work: &mut Work<'_>,
    actor: &Actor,
    id: &TaskId,
    worker: &str,
    until: Timestamp,
) -> Result<(), Rejection> {
    work.refuse_terminal()?;
    if work.instance.status == Status::Paused && !planted::is(Bug::PauseLeaks) {
        return Err(Rejection::Paused);
    }
    let (task, _) = work.task(id)?;
    let is_due = task.ready_at.is_some_and(|at| at <= work.now);
    if task.status != TaskStatus::Ready || !is_due || !work.definition.agents.contains_key(&task.assignee) {
        return Err(Rejection::NotReady { task: id.clone(), status: task.status });
    }
    let leased = Change::TaskLeased {
        task: id.clone(),
        agent: task.assignee.clone(),
        worker: worker.to_owned(),
        fencing: task.fencing + 1,
        attempt: task.attempt + 1,
        until,
    };
    work.record(actor, leased);
    Ok(())
}

/// Takes a task back that its worker gives up unharmed. The attempt does not count.
pub(super) fn release(
    work: &mut Work<'_>,
    actor: &Actor,
    id: &TaskId,
    fencing: u64,
    reason: &str,
) -> Result<(), Rejection> {
    let (task, _) = work.task(id)?;
    let is_repeat =
        task.status == TaskStatus::Ready && task.delivery == Delivery::Released && task.fencing == fencing;
    if is_repeat {
        return Ok(());
    }
    work.held(id, fencing)?;
    work.record(actor, Change::TaskReleased { task: id.clone(), fencing, reason: reason.to_owned() });
    Ok(())
}

/// The work that may be handed out, by task. The store keeps one row each and writes what differs.
pub fn ready_work(definition: &Definition, instance: &Instance) -> BTreeMap<TaskId, ReadyWork> {
    if instance.status != Status::Running && !planted::is(Bug::PauseLeaks) {
        return BTreeMap::new();
    }
    let written = definition.phases.iter().flat_map(|phase| &phase.tasks);
    let rows = written.filter_map(|written| {
        let (id, task) = instance.tasks.get_key_value(written.id.as_str())?;
        let ready_at = task.ready_at.filter(|_| task.status == TaskStatus::Ready)?;
        let agent = definition.agents.get(&task.assignee)?;
        let work = ReadyWork {
            task: id.clone(),
            queue: agent.queue.clone(),
            priority: written.priority,
            ready_at,
            fencing: task.fencing,
            tools: written.tools.clone(),
        };
        Some((id.clone(), work))
    });
    rows.collect()
}

/// The leases that are out, by task. The store keeps one row each and writes what differs.
pub fn leases(instance: &Instance) -> BTreeMap<TaskId, HeldLease> {
    let held = instance.tasks.iter().filter_map(|(id, task)| {
        let lease = task.lease.as_ref()?;
        let held = HeldLease {
            task: id.clone(),
            fencing: task.fencing,
            worker: lease.worker.clone(),
            granted_at: lease.granted_at,
        };
        Some((id.clone(), held))
    });
    held.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::play::{Play, check, define};

    fn one_task() -> phasegate_process::Definition {
        define(json!({"phases": [{"id": "p", "tasks": [{"id": "a"}]}]}))
    }

    #[test]
    fn leases() {
        let definition = one_task();
        let rows = [
            ("start", "lease a", "task_leased a"),
            ("start; lease a", "lease a", "refused NotReady"),
            ("start; pause", "lease a", "refused Paused"),
            ("start; cancel", "lease a", "refused Terminal"),
            ("start", "lease b", "refused TaskNotFound"),
            ("start; lease a; fail a", "lease a", "refused NotReady"),
            ("start; lease a; fail a; wait 1", "lease a", "task_leased a"),
            ("start; lease a", "release a", "task_released a"),
            ("start; lease a; release a", "release a", ""),
            ("start; lease a; release a", "lease a", "task_leased a"),
            ("start; lease a; release a; lease a", "release a #1", "refused LeaseLost"),
            ("start; lease a; pause", "release a", "task_released a"),
            ("start; lease a; cancel", "release a", "refused LeaseLost"),
        ];
        for (given, when, then) in rows {
            check(&definition, given, when, then);
        }
    }

    #[test]
    fn a_human_task_is_not_handed_out_to_workers() {
        let definition = define(json!({"phases": [{"id": "p", "tasks": [{"id": "a", "assignee": "dan"}]}]}));
        check(&definition, "start", "lease a", "refused NotReady");
        let mut play = Play::new(&definition);
        play.script("start");
        assert!(super::ready_work(&definition, &play.instance).is_empty());
    }

    #[test]
    fn releasing_uses_up_no_attempt_and_fencing_grows() {
        let definition = one_task();
        let mut play = Play::new(&definition);
        play.script("start; lease a; release a; lease a; release a; lease a");
        assert_eq!(play.instance.tasks["a"].attempt, 1);
        assert_eq!(play.instance.tasks["a"].fencing, 3);
    }

    #[test]
    fn the_queue_holds_what_may_be_handed_out() {
        let definition = define(json!({"phases": [
            {"id": "p", "parallelExecution": true, "tasks": [
                {"id": "a", "priority": "high", "tools": []}, {"id": "b", "assignee": "chief"}]},
            {"id": "q", "tasks": [{"id": "c"}]},
        ]}));
        let mut play = Play::new(&definition);
        let queues = |play: &Play<'_>| -> Vec<String> {
            let work = super::ready_work(&definition, &play.instance);
            work.values().map(|work| format!("{} on {}", work.task, work.queue)).collect()
        };
        play.script("start");
        assert_eq!(queues(&play), ["a on bots", "b on chiefs"]);
        play.script("lease a");
        assert_eq!(queues(&play), ["b on chiefs"]);
        assert_eq!(super::leases(&play.instance).len(), 1);
        play.script("pause");
        assert!(queues(&play).is_empty());
        assert_eq!(super::leases(&play.instance).len(), 1);
        play.script("resume; hand a");
        assert_eq!(queues(&play), ["b on chiefs"]);
        assert!(super::leases(&play.instance).is_empty());
        play.script("cancel");
        assert!(queues(&play).is_empty());
    }
}

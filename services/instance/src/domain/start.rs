//! How an instance begins.

use phasegate_id::{GateId, PhaseId, ProcessId, TaskId};

use super::command::{Actor, Start};
use super::event::{Change, Started, StartedTask};
use super::rejection::Rejection;
use super::work::Work;

/// Records the beginning. What the state keeps track of is written down here once, so folding needs no definition.
pub(super) fn start(work: &mut Work<'_>, actor: &Actor, start: &Start) -> Result<(), Rejection> {
    if work.instance.version > 0 {
        return Err(Rejection::AlreadyStarted);
    }
    let definition = work.definition;
    let tasks = definition.phases.iter().flat_map(|phase| {
        phase.tasks.iter().map(|task| StartedTask {
            id: TaskId::trusted(&task.id),
            phase: PhaseId::trusted(&phase.id),
            assignee: task.assignee.clone(),
        })
    });
    let name = if start.name.is_empty() { &definition.name } else { &start.name };
    let started = Started {
        id: start.id.clone(),
        process_id: ProcessId::trusted(&definition.id),
        process_version: definition.version.clone(),
        definition_digest: start.definition_digest.clone(),
        name: name.clone(),
        context: start.context.clone(),
        participants: start.participants.clone(),
        team_id: start.team_id.clone(),
        labels: start.labels.clone(),
        phases: definition.phases.iter().map(|phase| PhaseId::trusted(&phase.id)).collect(),
        tasks: tasks.collect(),
        gates: definition.gates.iter().map(|gate| GateId::trusted(&gate.id)).collect(),
    };
    work.record(actor, Change::InstanceStarted(started));
    Ok(())
}

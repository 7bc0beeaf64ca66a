//! What agents, authors and people wrote, on its way onto a page: whoever decides by it must read what is written. Only what is
//! shown is touched; ids, digests and contents stay as they are, and a form brings back what its person wrote.

use phasegate_plain_text::shown;
use phasegate_proto::actor::v1::Actor;
use phasegate_proto::approval::v1::Approval;
use phasegate_proto::artifact::v1::{Artifact, Comment};
use phasegate_proto::instance::v1::{PhaseTimeline, ProcessInstance};

/// The names of an instance and of its process.
pub(super) fn instance(mut instance: ProcessInstance) -> ProcessInstance {
    for text in [&mut instance.name, &mut instance.process_name, &mut instance.status_reason] {
        *text = shown(text);
    }
    instance
}

/// The names of a phase and of its tasks.
pub(super) fn phase(mut phase: PhaseTimeline) -> PhaseTimeline {
    phase.name = shown(&phase.name);
    for task in &mut phase.tasks {
        task.name = shown(&task.name);
    }
    phase
}

/// What a request asks, and what was answered.
pub(super) fn approval(mut approval: Approval) -> Approval {
    for text in [&mut approval.title, &mut approval.description, &mut approval.status_reason] {
        *text = shown(text);
    }
    for approver in &mut approval.approvers {
        approver.name = shown(&approver.name);
        approver.comment = shown(&approver.comment);
    }
    approval.requested_by = approval.requested_by.map(actor);
    approval
}

/// What is written about an artifact; its content is escaped where it is laid out.
pub(super) fn artifact(mut artifact: Artifact) -> Artifact {
    artifact.r#type = shown(&artifact.r#type);
    artifact.created_by = artifact.created_by.map(actor);
    artifact
}

/// A comment and its author.
pub(super) fn comment(mut comment: Comment) -> Comment {
    comment.body = shown(&comment.body);
    comment.author = comment.author.map(actor);
    comment
}

fn actor(mut actor: Actor) -> Actor {
    actor.name = shown(&actor.name);
    actor
}

#[cfg(test)]
mod tests {
    use phasegate_proto::approval::v1::Approver;
    use phasegate_proto::instance::v1::TaskTimeline;

    use super::*;

    #[test]
    fn nothing_that_is_shown_is_turned_around() {
        let turned = || "pay\u{202e}lanif".to_owned();
        let made_by = || Some(Actor { name: turned(), ..Actor::default() });
        let approval = approval(Approval {
            title: turned(),
            description: turned(),
            status_reason: turned(),
            approvers: vec![Approver { name: turned(), comment: turned(), ..Approver::default() }],
            requested_by: made_by(),
            ..Approval::default()
        });
        let instance = instance(ProcessInstance {
            name: turned(),
            process_name: turned(),
            status_reason: turned(),
            ..ProcessInstance::default()
        });
        let tasks = vec![TaskTimeline { name: turned(), ..TaskTimeline::default() }];
        let phase = phase(PhaseTimeline { name: turned(), tasks, ..PhaseTimeline::default() });
        let artifact = artifact(Artifact { r#type: turned(), created_by: made_by(), ..Artifact::default() });
        let comment = comment(Comment { body: turned(), author: made_by(), ..Comment::default() });
        let all = format!("{approval:?} {instance:?} {phase:?} {artifact:?} {comment:?}");
        assert!(!all.contains("\\u{202e}") && !all.contains('\u{202e}'), "{all}");
        assert_eq!(all.matches("pay\u{fffd}lanif").count(), 15, "{all}");
    }
}

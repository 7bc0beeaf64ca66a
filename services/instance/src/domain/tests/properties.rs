//! What must hold whatever is asked in whatever order: scripts of random commands on one process that has everything.
//! The player checks the invariants, the stored forms and the fencing tokens after each; here is what spans a history.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::super::*;
use super::play::{Play, define};

/// Everything that anybody may want of the process below.
const COMMANDS: [&str; 62] = [
    "lease a",
    "lease a",
    "hand a doc@1",
    "hand a doc@1",
    "hand a doc@2",
    "hand a",
    "fail a",
    "fail a final",
    "expire a",
    "release a",
    "hand a doc@1 #1",
    "lease b",
    "lease b",
    "hand b",
    "hand b",
    "fail b",
    "lease c",
    "hand c",
    "fail c",
    "skip b",
    "retry a",
    "retry b",
    "skip a",
    "asked task:a on:doc@1",
    "approve task:a on:doc@1",
    "approve task:a on:doc@2",
    "approve task:a on:doc@1 doc@2",
    "changes task:a",
    "reject task:a",
    "withdraw task:a",
    "approve task:a round:1",
    "supersede task:a",
    "again approve task:a",
    "again changes task:a",
    "asked phase:p",
    "approve phase:p",
    "approve phase:p on:doc@1",
    "changes phase:p",
    "changes phase:p on:doc@1",
    "lapse phase:p",
    "approve gate:g",
    "approve gate:g",
    "reject gate:g",
    "changes gate:g",
    "asked legal",
    "approve legal",
    "reject legal",
    "stored doc@2 a",
    "fact tested=true",
    "fact tested=false",
    "fact shipped=true",
    "advance",
    "dan: advance",
    "advance force",
    "reopen p",
    "reopen p b",
    "reopen q",
    "pause",
    "resume",
    "resume",
    "wait 2",
    "ann: cancel",
];

fn process() -> phasegate_process::Definition {
    define(json!({
        "phases": [
            {"id": "p", "requiredApprovals": ["ann"], "parallelExecution": true, "maxRounds": 3,
             "exitConditions": ["tested"], "tasks": [
                {"id": "a", "requiredApprovals": ["ann", "ben"], "artifacts": ["doc"], "maxRounds": 2,
                 "errorHandling": {"maxRetries": 1, "escalateTo": "chief"}},
                {"id": "b", "dependencies": ["a"], "errorHandling": {"taskFailure": "retry", "maxRetries": 0}}]},
            {"id": "q", "exitConditions": ["shipped"], "tasks": [
                {"id": "c", "errorHandling": {"taskFailure": "fail_process", "maxRetries": 1}}]},
        ],
        "gates": [
            {"id": "g", "beforePhase": "q", "type": "approval", "approvers": ["ann", "ben"]},
            {"id": "m", "beforePhase": "q", "type": "manual"},
            {"id": "k", "beforePhase": "q", "type": "condition", "condition": "legal_approved || tested"},
        ],
        "escalationPath": ["dan"],
    }))
}

fn scripts() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(select(COMMANDS.to_vec()), 1..80)
}

/// Whether an answer has been changed between two states.
fn changed_answer(before: &Instance, after: &Instance) -> Option<String> {
    let settled = before.approvals.iter().filter(|(_, approval)| !approval.status.is_open());
    let mut changed = settled
        .filter(|(id, approval)| after.approvals.get(*id).is_some_and(|now| now.status != approval.status));
    changed.next().map(|(id, _)| id.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn settled_stays_settled_and_the_end_is_the_end(script in scripts()) {
        let definition = process();
        let mut play = Play::new(&definition);
        play.script("start");
        for command in script {
            let before = play.instance.clone();
            play.act(command);
            prop_assert_eq!(changed_answer(&before, &play.instance), None, "by {}", command);
            if before.status.is_terminal() {
                prop_assert_eq!(before.status, play.instance.status, "by {}", command);
            }
            prop_assert_eq!(play.instance.version, play.events.len() as u64);
        }
    }

    #[test]
    fn replay_equals_live_from_any_point(script in scripts(), cut in 0.0..1.0_f64) {
        let definition = process();
        let mut play = Play::new(&definition);
        play.script("start");
        for command in &script {
            play.act(command);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
            reason = "a fraction of a small number")]
        let cut = (play.events.len() as f64 * cut) as usize;
        let half = play.events[..cut].iter().fold(Instance::unstarted(), evolve);
        let whole = play.events[cut..].iter().fold(half, evolve);
        prop_assert_eq!(whole, play.instance);
    }

    #[test]
    fn a_repeated_command_changes_nothing_more(script in scripts()) {
        let definition = process();
        let mut play = Play::new(&definition);
        play.script("start");
        let quiet = ["pause", "resume", "skip", "fact", "hand"];
        for command in script {
            let verb = command.split(' ').next().unwrap_or_default();
            let first = play.act(command);
            if quiet.contains(&verb) && !first.starts_with("refused") {
                let state = play.instance.clone();
                let again = play.act(command);
                let is_quiet = again.is_empty() || again.starts_with("refused");
                prop_assert!(is_quiet, "{} was {} and then {}", command, first, again);
                prop_assert_eq!(&state, &play.instance);
            }
        }
    }
}

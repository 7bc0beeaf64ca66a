//! Whole processes played from start to end, the product page's own among them.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test names the effects that it is about")]

use std::collections::BTreeSet;

use phasegate_process::{Draft, validate};

use super::super::*;
use super::play::Play;

fn page() -> phasegate_process::Definition {
    let text = include_str!("../../../../../libs/process/tests/data/process.json");
    let draft = Draft::from_slice(text.as_bytes()).expect("the page's process can be read");
    validate(&draft).definition.expect("the page's process has no fault")
}

/// Everything that was put to people, in order.
fn needs<'a>(play: &'a Play<'_>) -> Vec<&'a Need> {
    let asked = play.effects.iter().filter_map(|effect| match effect {
        Effect::AskApprovals { needs, .. } => Some(needs),
        _ => None,
    });
    asked.flatten().collect()
}

#[test]
fn the_pages_process_makes_eight_requests_and_nine_votes() {
    let definition = page();
    let mut play = Play::new(&definition);
    play.script(
        "start; lease requirements_gathering; hand requirements_gathering sso_requirements_doc@1;
         lease scim_planning; hand scim_planning scim_mapping_doc@1;
         lease sso_setup; lease scim_setup; hand scim_setup; hand sso_setup;
         approve task:sso_setup; approve phase:configuration; approve gate:config_approval_gate;
         lease security_assessment; hand security_assessment;
         approve task:security_assessment; approve phase:security_review; approve gate:security_approval_gate;
         lease prod_deployment; hand prod_deployment;
         approve task:prod_deployment;
         lease validation; hand validation;
         approve phase:production",
    );
    assert_eq!(play.instance.status, Status::Completed);
    let needs = needs(&play);
    assert_eq!(needs.len(), 8);
    assert_eq!(needs.iter().map(|need| need.approvers.len()).sum::<usize>(), 9);
    let ids: BTreeSet<&str> = needs.iter().map(|need| need.approval.as_str()).collect();
    assert_eq!(ids.len(), 8);
    assert!(needs.iter().all(|need| need.round == 1));
}

#[test]
fn the_requests_of_one_boundary_are_asked_together() {
    let definition = page();
    let mut play = Play::new(&definition);
    play.script(
        "start; skip requirements_gathering; skip scim_planning; lease scim_setup; hand scim_setup; lease sso_setup",
    );
    play.effects.clear();
    play.script("hand sso_setup");
    let asked = needs(&play);
    let subjects: Vec<&str> = asked.iter().map(|need| need.subject.id()).collect();
    assert_eq!(subjects, ["sso_setup", "configuration", "config_approval_gate"]);
    assert_eq!(play.effects.iter().filter(|effect| matches!(effect, Effect::AskApprovals { .. })).count(), 1);
}

#[test]
fn changes_and_their_rework_make_the_rest_of_the_boundary_new() {
    let definition = page();
    let mut play = Play::new(&definition);
    play.script("start; advance force; lease sso_setup; lease scim_setup; hand scim_setup; hand sso_setup");
    play.script("approve phase:configuration");
    assert_eq!(play.instance.facts.get("configuration_approved"), Some(&true));
    play.effects.clear();
    play.script("changes task:sso_setup");
    assert_eq!(play.instance.facts.get("configuration_approved"), Some(&false));
    let moot = play
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::WithdrawApprovals { approvals, .. } if approvals.len() == 1));
    assert!(moot, "the gate's request was open and is moot: {:?}", play.effects);
    play.effects.clear();
    play.script("lease sso_setup; hand sso_setup");
    let rounds: Vec<(&str, u32)> =
        needs(&play).into_iter().map(|need| (need.subject.id(), need.round)).collect();
    assert_eq!(rounds, [("sso_setup", 2), ("configuration", 2), ("config_approval_gate", 2)]);
    assert_eq!(play.instance.tasks["sso_setup"].remarks.len(), 1);
}

#[test]
fn answers_that_come_before_their_turn_wait_for_it() {
    let definition = page();
    let mut play = Play::new(&definition);
    play.script("start; advance force; skip scim_setup; lease sso_setup; hand sso_setup");
    play.script("approve gate:config_approval_gate; approve phase:configuration");
    assert_eq!(play.instance.phases["configuration"].status, PhaseStatus::AwaitingApproval);
    play.script("approve task:sso_setup");
    assert_eq!(play.instance.phases["security_review"].status, PhaseStatus::Active);
}

#[test]
fn replayed_state_equals_live_state() {
    let definition = page();
    let mut play = Play::new(&definition);
    play.script(
        "start; lease requirements_gathering; fail requirements_gathering; pause; resume; wait 5;
         lease requirements_gathering; release requirements_gathering; advance force; context {\"a\":1};
         fact ready=true; lease sso_setup; expire sso_setup; cancel",
    );
    let replayed = play.events.iter().fold(Instance::unstarted(), evolve);
    assert_eq!(replayed, play.instance);
    assert_eq!(replayed.version, play.events.len() as u64);
}

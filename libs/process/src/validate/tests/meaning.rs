//! What is fine, and what it means.

use std::time::Duration;

use super::*;
use crate::definition::{GateKind, OnTimeout, RaidRole, TaskFailure};

const PAGE: &[u8] = include_bytes!("../../../tests/data/process.json");

#[test]
fn the_process_of_the_page_has_no_fault() {
    let draft = Draft::from_slice(PAGE).unwrap();
    let checked = validate(&draft);
    let issues: Vec<_> =
        checked.issues.iter().map(|issue| (issue.severity, issue.code, issue.path.as_str())).collect();
    assert_eq!(issues, [(Severity::Warning, "PHASE_UNAPPROVED", "/phases/0")]);
    let definition = checked.definition.unwrap();
    let phases: Vec<&str> = definition.phases.iter().map(|phase| phase.id.as_str()).collect();
    assert_eq!(phases, ["discovery", "configuration", "security_review", "production"]);
    assert_eq!(
        definition.execution_order(),
        [
            "requirements_gathering",
            "scim_planning",
            "sso_setup",
            "scim_setup",
            "security_assessment",
            "prod_deployment",
            "validation"
        ]
    );
    assert_eq!(definition.phases[0].tasks[1].dependencies, ["requirements_gathering"], "one after another");
    assert_eq!(definition.phases[1].tasks[1].dependencies, ["scim_planning"], "side by side");
    let estimate = definition.phases[0].estimate.unwrap();
    assert_eq!((estimate.low, estimate.high), (Duration::from_hours(24), Duration::from_hours(48)));
    assert_eq!(definition.agents["sso_agent"].queue, "sso-specialist");
    let admin = &definition.humans["customer_it_admin"];
    assert_eq!(
        (admin.name.as_str(), admin.raid_role, admin.email_wanted),
        ("customer_it_admin", RaidRole::Approver, true)
    );
    assert!(
        matches!(&definition.gates[0].kind, GateKind::Approval(approvers) if approvers == &["customer_it_admin"])
    );
}

#[test]
fn the_participants_of_the_page_fit_its_process() {
    let mut process: Value = serde_json::from_slice(PAGE).unwrap();
    process["humans"] = json!({
        "customer_it_admin": {
            "id": "customer_it_admin", "name": "Customer IT Administrator", "role": "approver", "raidRole": "approver",
            "requiredApprovals": ["sso_config_review", "scim_provisioning_review", "production_deployment"],
            "notificationPreferences": {"email": true, "slack": false, "inApp": true}
        },
        "customer_ciso": {
            "id": "customer_ciso", "name": "Customer CISO", "role": "approver", "raidRole": "approver",
            "requiredApprovals": ["security_review", "compliance_sign_off"]
        },
        "deeployd_support": {
            "id": "deeployd_support", "name": "Deeployd Support", "role": "delegator", "raidRole": "delegator", "canDelegate": true
        }
    });
    process["phases"][1]["entryConditions"] = json!(["requirements_approved"]);
    process["phases"][1]["exitConditions"] = json!(["all_tasks_complete", "config_approved"]);
    let checked = check(&process);
    assert_eq!(checked.faults().count(), 0, "{:?}", checked.issues);
    let of = |code: &str| {
        checked
            .warnings()
            .filter(|issue| issue.code == code)
            .map(|issue| issue.path.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("FACT_NEVER_SET"), ["/phases/1/entryConditions/0", "/phases/1/exitConditions/1"]);
    assert_eq!(of("APPROVAL_KEY_UNUSED").len(), 4, "security_review is the id of a phase");
}

#[test]
fn what_is_fine() {
    for (pointer, part) in [
        ("/phases/0/order", json!(7)),
        ("/phases/0", json!({"id": "draft", "name": "Draft", "order": 1, "requiredApprovals": ["boss"]})),
        ("/humans/helper", json!({"raidRole": "delegator"})),
        ("/humans/info", json!({"raidRole": "informed"})),
        ("/phases/1/tasks/0/dependencies", json!(["write", "check"])),
        ("/gates/-", json!({"id": "start", "name": "Start", "beforePhase": "draft", "type": "manual"})),
        (
            "/gates/-",
            json!({"id": "start", "name": "Start", "beforePhase": "draft", "type": "condition", "condition": "has(context.a)"}),
        ),
        ("/phases/1/entryConditions", json!(["draft_approved && go_approved", "print_approved"])),
    ] {
        let mut process = sound();
        put(&mut process, pointer, part.clone());
        if pointer == "/phases/0/order" {
            put(&mut process, "/gates", json!([]));
        }
        let checked = check(&process);
        assert_eq!(checked.faults().count(), 0, "{pointer} = {part}: {:?}", checked.issues);
    }
}

#[test]
fn phases_run_in_their_order_whatever_the_order_of_writing() {
    let mut process = sound();
    put(&mut process, "/phases/0/order", json!(30));
    put(&mut process, "/phases/1/order", json!(20));
    put(&mut process, "/gates", json!([]));
    put(&mut process, "/phases/0/tasks/0/dependencies", json!(["print"]));
    let definition = check(&process).definition.unwrap();
    assert_eq!(definition.execution_order(), ["print", "post", "write", "check"]);
}

#[test]
fn times_come_from_the_nearest_place_each_by_itself() {
    let mut process = sound();
    for (pointer, part) in [
        ("/timeout", json!("10d")),
        ("/escalateAfter", json!("5d")),
        ("/escalateTo", json!("boss")),
        ("/reminders", json!(["2d", "1d", "2d"])),
        ("/onTimeout", json!("reject")),
        ("/phases/1/timeout", json!("8d")),
        ("/phases/1/tasks/0/escalateAfter", json!("3d")),
        ("/phases/1/tasks/0/onTimeout", json!("block")),
    ] {
        put(&mut process, pointer, part);
    }
    let definition = check(&process).definition.unwrap();
    let days = |days: u64| Duration::from_secs(days * 86_400);
    let (phase, task) = (&definition.phases[1], &definition.phases[1].tasks[0]);
    assert_eq!((phase.timing.timeout, phase.timing.escalate_after), (Some(days(8)), Some(days(5))));
    assert_eq!((task.timing.timeout, task.timing.escalate_after), (Some(days(8)), Some(days(3))));
    assert_eq!(task.timing.reminders, [days(1), days(2)]);
    assert_eq!((phase.timing.on_timeout, task.timing.on_timeout), (OnTimeout::Reject, OnTimeout::Block));
    assert_eq!(definition.gates[0].timing.timeout, Some(days(10)), "a gate belongs to no phase");
    assert_eq!(definition.phases[0].timing.escalate_to.as_deref(), Some("boss"));
}

#[test]
fn a_schedule_that_does_not_fit_is_noted_where_it_was_written() {
    for (parts, path) in [
        (vec![("/timeout", json!("1d")), ("/escalateAfter", json!("1d"))], "/escalateAfter"),
        (vec![("/timeout", json!("1d")), ("/reminders", json!(["2d"]))], "/reminders"),
        (vec![("/escalateAfter", json!("2d")), ("/phases/0/timeout", json!("1d"))], "/phases/0/timeout"),
        (
            vec![("/timeout", json!("2d")), ("/phases/0/tasks/0/escalateAfter", json!("3d"))],
            "/phases/0/tasks/0/escalateAfter",
        ),
    ] {
        let mut process = sound();
        for (pointer, part) in parts {
            put(&mut process, pointer, part);
        }
        let found: Vec<_> = check(&process).faults().map(|issue| (issue.code, issue.path.clone())).collect();
        assert_eq!(found, [("SCHEDULE_INCONSISTENT", path.to_owned())]);
    }
}

#[test]
fn error_handling_comes_from_the_nearest_place_as_a_whole() {
    let mut process = sound();
    put(
        &mut process,
        "/errorHandling",
        json!({"maxRetries": 7, "escalateTo": "boss", "notifyParticipants": ["clerk"]}),
    );
    put(&mut process, "/phases/1/errorHandling", json!({"taskFailure": "skip", "retryDelay": "5m"}));
    put(
        &mut process,
        "/phases/1/tasks/0/errorHandling",
        json!({"taskFailure": "fail_process", "maxRetries": 0, "maxRetryDelay": "500ms"}),
    );
    let definition = check(&process).definition.unwrap();
    let first = &definition.phases[0].tasks[0].error_handling;
    assert_eq!(
        (first.task_failure, first.max_retries, first.escalate_to.as_deref()),
        (TaskFailure::RetryWithEscalation, 7, Some("boss"))
    );
    let print = &definition.phases[1].tasks[0].error_handling;
    assert_eq!(
        (print.task_failure, print.max_retries, print.escalate_to.as_deref()),
        (TaskFailure::FailProcess, 0, None)
    );
    assert_eq!(
        (print.retry_delay, print.max_retry_delay),
        (Duration::from_millis(500), Duration::from_millis(500))
    );
    let post = &definition.phases[1].tasks[1].error_handling;
    assert_eq!((post.task_failure, post.max_retries), (TaskFailure::Skip, 3));
    assert_eq!((post.retry_delay, post.max_retry_delay), (Duration::from_mins(5), Duration::from_mins(5)));
}

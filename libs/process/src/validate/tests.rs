//! One row for every code.

mod meaning;
mod properties;

use serde_json::{Value, json};

use super::*;

/// A small process without a fault.
fn sound() -> Value {
    json!({
        "id": "review", "name": "Review", "version": "1.0.0",
        "phases": [
            {"id": "draft", "name": "Draft", "order": 1, "requiredApprovals": ["boss"], "tasks": [
                {"id": "write", "name": "Write", "assignee": "writer"},
                {"id": "check", "name": "Check", "assignee": "writer", "dependencies": ["write"]}
            ]},
            {"id": "publish", "name": "Publish", "order": 2, "parallelExecution": true, "tasks": [
                {"id": "print", "name": "Print", "assignee": "writer", "requiredApprovals": ["boss"]},
                {"id": "post", "name": "Post", "assignee": "clerk"}
            ]}
        ],
        "agents": {"writer": {"templateId": "writer"}},
        "humans": {"boss": {"raidRole": "approver"}, "clerk": {"raidRole": "responsible"}},
        "gates": [{"id": "go", "name": "Go", "beforePhase": "publish", "type": "approval", "approvers": ["boss"]}]
    })
}

fn check(value: &Value) -> Checked {
    validate(&Draft::from_json(value.clone()).unwrap())
}

/// The process with what stands at `pointer` replaced; a missing member is added.
fn with(pointer: &str, part: Value) -> Value {
    let mut process = sound();
    put(&mut process, pointer, part);
    process
}

fn put(process: &mut Value, pointer: &str, part: Value) {
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    let parent = process.pointer_mut(parent).unwrap();
    match parent {
        Value::Object(members) => {
            members.insert(member.to_owned(), part);
        }
        Value::Array(items) if member == "-" => items.push(part),
        Value::Array(items) => items[member.parse::<usize>().unwrap()] = part,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            panic!("{pointer} leads nowhere")
        }
    }
}

#[test]
fn the_small_process_is_sound() {
    let checked = check(&sound());
    assert_eq!(checked.issues, []);
    assert!(checked.definition.is_some());
}

#[test]
fn every_fault_has_its_code_and_place() {
    let cyclic = json!([
        {"id": "write", "name": "Write", "assignee": "writer", "dependencies": ["check"]},
        {"id": "check", "name": "Check", "assignee": "writer", "dependencies": ["write"]}
    ]);
    let rows: Vec<(&str, Value, &str, &str, &str)> = vec![
        // Header.
        ("/id", json!(""), "ID_INVALID", "/id", "lower-case"),
        ("/id", json!("Review"), "ID_INVALID", "/id", "lower-case"),
        ("/id", json!("a".repeat(64)), "ID_INVALID", "/id", "62"),
        ("/id", json!("instances"), "ID_INVALID", "/id", "word of the API"),
        ("/id", json!("validate"), "ID_INVALID", "/id", "word of the API"),
        ("/name", json!(""), "NAME_INVALID", "/name", "1 to 200"),
        ("/name", json!("two\nlines"), "NAME_INVALID", "/name", "one line"),
        ("/name", json!("x".repeat(201)), "NAME_INVALID", "/name", "200"),
        ("/version", json!(""), "VERSION_INVALID", "/version", "semantic"),
        ("/version", json!("1.0"), "VERSION_INVALID", "/version", "semantic"),
        ("/version", json!("v1.0.0"), "VERSION_INVALID", "/version", "semantic"),
        ("/version", json!("1.0.0 "), "VERSION_INVALID", "/version", "semantic"),
        ("/version", json!("01.0.0"), "VERSION_INVALID", "/version", "semantic"),
        ("/version", json!(format!("1.0.0-{}", "a".repeat(60))), "VERSION_INVALID", "/version", "64"),
        ("/description", json!("x".repeat(65_537)), "TEXT_INVALID", "/description", "65536"),
        ("/description", json!("a\u{0}b"), "TEXT_INVALID", "/description", "control"),
        ("/labels", json!({"": "x"}), "TEXT_INVALID", "/labels/", "label"),
        ("/contextSchema", json!({"type": "strnig"}), "SCHEMA_INVALID", "/contextSchema/type", "schema"),
        ("/contextSchema", json!({"$ref": "http://x/y"}), "SCHEMA_INVALID", "/contextSchema/$ref", "fetched"),
        // Phases and tasks.
        ("/phases", json!([]), "PHASES_EMPTY", "/phases", "at least one"),
        (
            "/phases/-",
            json!({"id": "empty", "name": "Empty", "order": 3}),
            "PHASES_EMPTY",
            "/phases/2/tasks",
            "no tasks",
        ),
        ("/phases/0/order", json!(0), "ORDER_INVALID", "/phases/0/order", "above zero"),
        ("/phases/0/order", json!(-1), "ORDER_INVALID", "/phases/0/order", "above zero"),
        ("/phases/1/order", json!(1), "ORDER_INVALID", "/phases/1/order", "`draft`"),
        ("/phases/1/id", json!("draft"), "ID_DUPLICATE", "/phases/1/id", "phase"),
        ("/phases/1/tasks/0/id", json!("write"), "ID_DUPLICATE", "/phases/1/tasks/0/id", "task"),
        ("/phases/1/tasks/0/id", json!("draft"), "ID_DUPLICATE", "/phases/1/tasks/0/id", "phase"),
        ("/gates/0/id", json!("draft"), "ID_DUPLICATE", "/gates/0/id", "phase"),
        ("/phases/0/tasks/0/id", json!("a b"), "ID_INVALID", "/phases/0/tasks/0/id", "lower-case"),
        ("/phases/0/tasks/0/name", json!(""), "NAME_INVALID", "/phases/0/tasks/0/name", "name"),
        ("/phases/0/tasks/0/assignee", json!(""), "ASSIGNEE_UNKNOWN", "/phases/0/tasks/0/assignee", "nobody"),
        (
            "/phases/0/tasks/0/assignee",
            json!("writter"),
            "ASSIGNEE_UNKNOWN",
            "/phases/0/tasks/0/assignee",
            "did you mean `writer`?",
        ),
        (
            "/phases/0/tasks/0/dependencies",
            json!(["nothing"]),
            "DEPENDENCY_UNKNOWN",
            "/phases/0/tasks/0/dependencies/0",
            "no task",
        ),
        (
            "/phases/0/tasks/0/dependencies",
            json!(["print"]),
            "DEPENDENCY_LATER",
            "/phases/0/tasks/0/dependencies/0",
            "later phase",
        ),
        (
            "/phases/0/tasks/0/dependencies",
            json!(["write"]),
            "DEPENDENCY_CYCLE",
            "/phases/0/tasks/0/dependencies",
            "write -> write",
        ),
        (
            "/phases/0/tasks/0/dependencies",
            json!(["check"]),
            "DEPENDENCY_CYCLE",
            "/phases/0/tasks/1/dependencies",
            "check -> write -> check",
        ),
        ("/phases/0/tasks", cyclic, "DEPENDENCY_CYCLE", "/phases/0/tasks/1/dependencies", "remove one"),
        (
            "/phases/0/tasks/0/artifacts",
            json!(["../etc"]),
            "ID_INVALID",
            "/phases/0/tasks/0/artifacts/0",
            "key",
        ),
        (
            "/phases/0/tasks/0/artifacts",
            json!(["a", "a"]),
            "ID_DUPLICATE",
            "/phases/0/tasks/0/artifacts/1",
            "twice",
        ),
        ("/phases/0/tasks/0/tools", json!([""]), "TEXT_INVALID", "/phases/0/tasks/0/tools/0", "tool"),
        ("/phases/0/tasks/0/priority", json!("High"), "ENUM_INVALID", "/phases/0/tasks/0/priority", "urgent"),
        ("/phases/0/maxRounds", json!(0), "ROUNDS_INVALID", "/phases/0/maxRounds", "1 to 100"),
        (
            "/phases/0/tasks/0/maxRounds",
            json!(101),
            "ROUNDS_INVALID",
            "/phases/0/tasks/0/maxRounds",
            "1 to 100",
        ),
        // People.
        ("/humans/boss/raidRole", json!(""), "ENUM_INVALID", "/humans/boss/raidRole", "missing"),
        ("/humans/boss/raidRole", json!("Approver"), "ENUM_INVALID", "/humans/boss/raidRole", "approver"),
        ("/humans/boss/id", json!("chief"), "ID_INVALID", "/humans/boss/id", "leave it out"),
        ("/humans/boss/email", json!("boss"), "EMAIL_INVALID", "/humans/boss/email", "name@example.com"),
        ("/humans/boss/email", json!("a@b\r\nBcc: c@d"), "EMAIL_INVALID", "/humans/boss/email", "address"),
        (
            "/humans/boss/requiredApprovals",
            json!(["A b"]),
            "ID_INVALID",
            "/humans/boss/requiredApprovals/0",
            "lower-case",
        ),
        ("/humans/writer", json!({"raidRole": "approver"}), "ID_DUPLICATE", "/humans/writer", "agent"),
        ("/agents/Writer", json!({"templateId": "w"}), "ID_INVALID", "/agents/Writer", "lower-case"),
        ("/agents/writer", json!({}), "QUEUE_INVALID", "/agents/writer/templateId", "visible"),
        ("/agents/writer/queue", json!("a b"), "QUEUE_INVALID", "/agents/writer/queue", "visible"),
        (
            "/phases/0/requiredApprovals",
            json!(["bos"]),
            "APPROVER_INVALID",
            "/phases/0/requiredApprovals/0",
            "did you mean `boss`?",
        ),
        (
            "/phases/0/requiredApprovals",
            json!(["writer"]),
            "APPROVER_INVALID",
            "/phases/0/requiredApprovals/0",
            "agents never approve",
        ),
        (
            "/phases/0/requiredApprovals",
            json!(["clerk"]),
            "APPROVER_INVALID",
            "/phases/0/requiredApprovals/0",
            "responsible",
        ),
        (
            "/phases/0/requiredApprovals",
            json!(["boss", "boss"]),
            "ID_DUPLICATE",
            "/phases/0/requiredApprovals/1",
            "twice",
        ),
        ("/gates/0/approvers", json!(["nobody"]), "APPROVER_INVALID", "/gates/0/approvers/0", "humans"),
        (
            "/phases/1/tasks/0/assignee",
            json!("boss"),
            "SEGREGATION_OF_DUTIES",
            "/phases/1/tasks/0/assignee",
            "another",
        ),
        (
            "/humans/clerk/raidRole",
            json!("informed"),
            "ASSIGNEE_INVALID",
            "/phases/1/tasks/1/assignee",
            "informed",
        ),
        ("/escalationPath", json!(["ghost"]), "ESCALATION_UNKNOWN", "/escalationPath/0", "neither"),
        ("/escalationPath", json!(["boss", "boss"]), "ID_DUPLICATE", "/escalationPath/1", "twice"),
        // Gates.
        ("/gates/0/type", json!("Approval"), "ENUM_INVALID", "/gates/0/type", "manual"),
        ("/gates/0/type", json!(""), "ENUM_INVALID", "/gates/0/type", "missing"),
        (
            "/gates/0/beforePhase",
            json!("publsh"),
            "GATE_PHASE_UNKNOWN",
            "/gates/0/beforePhase",
            "did you mean `publish`?",
        ),
        ("/gates/0/beforePhase", json!(""), "GATE_PHASE_UNKNOWN", "/gates/0/beforePhase", "no phase"),
        ("/gates/0/beforePhase", json!("draft"), "GATE_PHASE_UNKNOWN", "/gates/0/beforePhase", "manual"),
        ("/gates/0/approvers", json!([]), "GATE_INCOMPLETE", "/gates/0/approvers", "at least one"),
        ("/gates/0/condition", json!("a"), "GATE_INCOMPLETE", "/gates/0/condition", "remove"),
        (
            "/gates/0",
            json!({"id": "go", "name": "Go", "beforePhase": "publish", "type": "condition"}),
            "GATE_INCOMPLETE",
            "/gates/0/condition",
            "write",
        ),
        (
            "/gates/0",
            json!({"id": "go", "name": "Go", "beforePhase": "publish", "type": "manual", "condition": "a"}),
            "GATE_INCOMPLETE",
            "/gates/0/condition",
            "by hand",
        ),
        ("/gates/0/type", json!("manual"), "GATE_INCOMPLETE", "/gates/0/approvers", "asks nobody"),
        // Conditions.
        (
            "/phases/0/exitConditions",
            json!(["a &&"]),
            "CONDITION_INVALID",
            "/phases/0/exitConditions/0",
            "line 1",
        ),
        (
            "/phases/0/entryConditions",
            json!(["a", "x.y"]),
            "CONDITION_UNKNOWN",
            "/phases/0/entryConditions/1",
            "no members",
        ),
        (
            "/phases/0/entryConditions",
            json!(["(".repeat(20)]),
            "CONDITION_TOO_COSTLY",
            "/phases/0/entryConditions/0",
            "nested",
        ),
        (
            "/gates/0",
            json!({"id": "go", "name": "Go", "beforePhase": "publish", "type": "condition", "condition": "tasks.wrte.status == 'x'"}),
            "CONDITION_UNKNOWN",
            "/gates/0/condition",
            "did you mean `write`?",
        ),
        // Times.
        ("/timeout", json!("2d3"), "DURATION_INVALID", "/timeout", "48h"),
        ("/phases/0/timeout", json!("0h"), "DURATION_INVALID", "/phases/0/timeout", "more than zero"),
        (
            "/phases/0/tasks/0/timeout",
            json!("367d"),
            "DURATION_INVALID",
            "/phases/0/tasks/0/timeout",
            "366 days",
        ),
        ("/gates/0/reminders", json!(["1h", "soon"]), "DURATION_INVALID", "/gates/0/reminders/1", "soon"),
        ("/gates/0/reminders", json!(vec!["1h"; 21]), "SCHEDULE_INCONSISTENT", "/gates/0/reminders", "20"),
        ("/gates/0/onTimeout", json!("explode"), "ENUM_INVALID", "/gates/0/onTimeout", "reject"),
        ("/gates/0/escalateTo", json!("clerk"), "APPROVER_INVALID", "/gates/0/escalateTo", "clerk"),
        // Error handling.
        (
            "/errorHandling",
            json!({"taskFailure": "explode"}),
            "ERROR_HANDLING_INVALID",
            "/errorHandling/taskFailure",
            "retry",
        ),
        (
            "/errorHandling",
            json!({"maxRetries": -1}),
            "ERROR_HANDLING_INVALID",
            "/errorHandling/maxRetries",
            "0 to 100",
        ),
        (
            "/errorHandling",
            json!({"maxRetries": 1_000_000}),
            "ERROR_HANDLING_INVALID",
            "/errorHandling/maxRetries",
            "0 to 100",
        ),
        (
            "/phases/0/errorHandling",
            json!({"escalateTo": "ghost"}),
            "ERROR_HANDLING_INVALID",
            "/phases/0/errorHandling/escalateTo",
            "neither",
        ),
        (
            "/phases/0/errorHandling",
            json!({"notifyParticipants": ["writer"]}),
            "ERROR_HANDLING_INVALID",
            "/phases/0/errorHandling/notifyParticipants/0",
            "no human",
        ),
        (
            "/errorHandling",
            json!({"retryDelay": "x"}),
            "DURATION_INVALID",
            "/errorHandling/retryDelay",
            "number",
        ),
        (
            "/errorHandling",
            json!({"retryDelay": "2m", "maxRetryDelay": "1m"}),
            "ERROR_HANDLING_INVALID",
            "/errorHandling/retryDelay",
            "longer",
        ),
    ];
    for (pointer, part, code, path, says) in rows {
        let checked = check(&with(pointer, part.clone()));
        let row = format!("{pointer} = {}", part.to_string().chars().take(80).collect::<String>());
        let found = checked.faults().find(|issue| issue.code == code && issue.path == path);
        let Some(found) = found else { panic!("{row}: no {code} at {path} in {:?}", checked.issues) };
        assert!(found.message.contains(says), "{row}: {}", found.message);
        assert!(checked.definition.is_none(), "{row}");
        assert!(!checked.is_too_large(), "{row}");
    }
}

#[test]
fn what_is_too_large_is_refused_unread() {
    let tasks = |count: usize| -> Vec<Value> {
        (0..count).map(|n| json!({"id": format!("t{n}"), "name": "T", "assignee": "writer"})).collect()
    };
    let phases = |count: usize| -> Vec<Value> {
        (0..count).map(|n| json!({"id": format!("p{n}"), "name": "P", "order": n + 1, "tasks": [{"id": format!("t{n}"), "name": "T", "assignee": "writer"}]})).collect()
    };
    let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
    for (pointer, part, path) in [
        ("/description", json!("x".repeat(MAX_BYTES)), ""),
        ("/phases", json!(phases(101)), "/phases"),
        ("/phases/0/tasks", json!(tasks(1001)), "/phases"),
        ("/phases/0/tasks/0/dependencies", json!(vec!["write"; 33]), "/phases/0/tasks/0/dependencies"),
        ("/phases/0/tasks/0/input", json!({"deep": deep}), "/phases/0/tasks/0/input"),
        ("/phases/0/requiredApprovals", json!(vec!["boss"; 21]), "/phases/0/requiredApprovals"),
        ("/phases/0/entryConditions", json!(vec!["a"; 501]), "/phases"),
    ] {
        let checked = check(&with(pointer, part));
        assert!(checked.is_too_large() && checked.definition.is_none());
        assert_eq!((checked.issues[0].code, checked.issues[0].path.as_str()), ("DEFINITION_TOO_LARGE", path));
    }
    assert!(!check(&with("/phases", json!(phases(100)))).is_too_large());
}

#[test]
fn all_faults_are_reported_at_once_and_no_more_than_a_hundred() {
    let mut process = sound();
    for (pointer, part) in [
        ("/id", json!("NO")),
        ("/version", json!("1")),
        ("/phases/0/tasks/0/assignee", json!("ghost")),
        ("/phases/1/tasks/0/dependencies", json!(["ghost"])),
        ("/gates/0/beforePhase", json!("ghost")),
        ("/timeout", json!("never")),
    ] {
        put(&mut process, pointer, part);
    }
    let checked = check(&process);
    let codes: Vec<&str> = checked.faults().map(|issue| issue.code).collect();
    assert_eq!(
        codes,
        [
            "ID_INVALID",
            "VERSION_INVALID",
            "DURATION_INVALID",
            "ASSIGNEE_UNKNOWN",
            "GATE_PHASE_UNKNOWN",
            "DEPENDENCY_UNKNOWN"
        ]
    );
    let tasks: Vec<Value> = (0..500).map(|n| json!({"id": format!("t{n}")})).collect();
    assert_eq!(check(&with("/phases/0/tasks", json!(tasks))).issues.len(), 100);
}

#[test]
fn every_warning_has_its_code_and_place() {
    for (pointer, part, code, path) in [
        (
            "/humans/info",
            json!({"raidRole": "informed", "notificationPreferences": {"email": false}}),
            "INFORMED_NOT_NOTIFIED",
            "/humans/info",
        ),
        ("/humans/second", json!({"raidRole": "approver"}), "HUMAN_NEVER_ASKED", "/humans/second"),
        ("/humans/second", json!({"raidRole": "responsible"}), "HUMAN_NEVER_ASKED", "/humans/second"),
        ("/agents/idle", json!({"templateId": "idle"}), "AGENT_UNUSED", "/agents/idle"),
        ("/phases/0/estimatedDuration", json!("soon"), "ESTIMATE_UNREADABLE", "/phases/0/estimatedDuration"),
        (
            "/humans/boss/requiredApprovals",
            json!(["budget"]),
            "APPROVAL_KEY_UNUSED",
            "/humans/boss/requiredApprovals/0",
        ),
        (
            "/phases/0/exitConditions",
            json!(["all_tasks_complete", "writ_approved"]),
            "FACT_NEVER_SET",
            "/phases/0/exitConditions/1",
        ),
        ("/phases/1/tasks/0/requiredApprovals", json!([]), "PHASE_UNAPPROVED", "/phases/1"),
        (
            "/phases/1/tasks/0/dependencies",
            json!(["write", "write"]),
            "DEPENDENCY_REPEATED",
            "/phases/1/tasks/0/dependencies/1",
        ),
        (
            "/phases/0/tasks/0/assignee",
            json!("boss"),
            "SEGREGATION_OF_DUTIES",
            "/phases/0/requiredApprovals/0",
        ),
        (
            "/gates/0",
            json!({"id": "go", "name": "Go", "beforePhase": "publish", "type": "manual", "timeout": "1d"}),
            "TIMING_UNUSED",
            "/gates/0",
        ),
    ] {
        let checked = check(&with(pointer, part));
        assert!(checked.definition.is_some(), "{code}: {:?}", checked.issues);
        assert!(
            checked.warnings().any(|issue| issue.code == code && issue.path == path),
            "no {code} at {path}: {:?}",
            checked.issues
        );
    }
}

#[test]
fn a_long_line_of_tasks_is_no_trouble() {
    let tasks: Vec<Value> = (0..1000)
        .map(|n| json!({"id": format!("t{n}"), "name": "T", "assignee": "writer", "dependencies": if n == 0 { vec!["t999".to_owned()] } else { vec![format!("t{}", n - 1)] }}))
        .collect();
    let mut process = sound();
    put(&mut process, "/phases/1/tasks", json!([]));
    put(&mut process, "/phases/0/tasks", json!(tasks));
    let checked = check(&process);
    assert_eq!(checked.faults().filter(|issue| issue.code == "DEPENDENCY_CYCLE").count(), 1);
}

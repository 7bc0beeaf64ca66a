//! Definitions and team templates: every fault of a document, with its place.

use std::time::{Duration, Instant};

use anyhow::ensure;
use phasegate_bad_input::{Case, Check, World, crew, launch, on_both};
use serde_json::{Value, json};

const INVALID: &str = "INVALID_ARGUMENT 400 VALIDATION_FAILED";
const TOO_LARGE: &str = "RESOURCE_EXHAUSTED 413 DEFINITION_TOO_LARGE";

/// The sound process under another id, with what stands at `pointer` replaced. A missing member is added; "-" is the end of
/// a list.
fn with(pointer: &str, part: Value) -> Value {
    let mut process = launch();
    process["id"] = json!("wrong");
    put(&mut process, pointer, part);
    process
}

/// A pointer that leads nowhere changes nothing, and the case that it belongs to fails.
pub(crate) fn put(document: &mut Value, pointer: &str, part: Value) {
    let Some((parent, member)) = pointer.rsplit_once('/') else { return };
    let Some(parent) = document.pointer_mut(parent) else { return };
    let Some(items) = parent.as_array_mut() else {
        parent[member] = part;
        return;
    };
    match member.parse::<usize>() {
        Ok(index) => items[index] = part,
        Err(_) => items.push(part),
    }
}

fn create(row: &'static str, pointer: &str, part: Value, at: &str) -> Case {
    let what = format!("{pointer} = {}", part.to_string().chars().take(60).collect::<String>());
    let message = json!({"processDefinition": with(pointer, part)});
    Case::new(row, what, "CreateProcessDefinition", message, INVALID, at)
}

#[test]
fn faults_are_all_reported() -> anyhow::Result<()> {
    let sequence =
        |order: i32| json!({"id": "more", "name": "More", "order": order, "requiredApprovals": ["owner"]});
    let door = |condition: &str| json!({"id": "go", "name": "Go", "beforePhase": "publish", "type": "condition", "condition": condition});
    let gate = "/gates/0";
    let table: Vec<(&str, &str, Value, &str)> = vec![
        ("B038", "/phases", json!([]), "/phases PHASES_EMPTY; /gates/0/beforePhase GATE_PHASE_UNKNOWN"),
        (
            "B038",
            "/phases/-",
            json!({"id": "more", "name": "More", "order": 3}),
            "/phases/2/tasks PHASES_EMPTY",
        ),
        ("B040", "/phases/-", sequence(2), "/phases/2/order ORDER_INVALID"),
        ("B040", "/phases/-", sequence(0), "/phases/2/order ORDER_INVALID"),
        ("B040", "/phases/-", sequence(-1), "/phases/2/order ORDER_INVALID"),
        (
            "B041",
            "/phases/0/tasks/3/dependencies",
            json!(["paint"]),
            "/phases/0/tasks/3/dependencies/0 DEPENDENCY_UNKNOWN",
        ),
        (
            "B041",
            "/phases/0/tasks/3/dependencies",
            json!(["post"]),
            "/phases/0/tasks/3/dependencies/0 DEPENDENCY_LATER; /phases/1/tasks/0/dependencies DEPENDENCY_CYCLE",
        ),
        (
            "B042",
            "/phases/0/tasks/0/dependencies",
            json!(["write"]),
            "/phases/0/tasks/0/dependencies DEPENDENCY_CYCLE",
        ),
        (
            "B042",
            "/phases/0/tasks/0/dependencies",
            json!(["translate"]),
            "/phases/0/tasks/3/dependencies DEPENDENCY_CYCLE",
        ),
        (
            "B044",
            "/phases/0/tasks/0/assignee",
            json!("wirter"),
            "/phases/0/tasks/0/assignee ASSIGNEE_UNKNOWN",
        ),
        ("B044", "/phases/0/tasks/0/assignee", json!(""), "/phases/0/tasks/0/assignee ASSIGNEE_UNKNOWN"),
        (
            "B044",
            "/phases/0/tasks/0/assignee",
            json!("reader"),
            "/phases/0/tasks/0/assignee ASSIGNEE_INVALID",
        ),
        (
            "B046",
            "/phases/0/requiredApprovals",
            json!(["boss"]),
            "/phases/0/requiredApprovals/0 APPROVER_INVALID",
        ),
        (
            "B046",
            "/phases/0/requiredApprovals",
            json!(["writer"]),
            "/phases/0/requiredApprovals/0 APPROVER_INVALID",
        ),
        (
            "B046",
            "/phases/0/tasks/1/requiredApprovals",
            json!(["reader"]),
            "/phases/0/tasks/1/requiredApprovals/0 APPROVER_INVALID",
        ),
        ("B046", "/gates/0/approvers", json!(["boss"]), "/gates/0/approvers/0 APPROVER_INVALID"),
        ("B046", "/escalateTo", json!("reader"), "/escalateTo APPROVER_INVALID"),
        (
            "B047",
            "/phases/0/tasks/1/assignee",
            json!("editor"),
            "/phases/0/tasks/1/assignee SEGREGATION_OF_DUTIES",
        ),
        ("B048", "/gates/0/beforePhase", json!("publsh"), "/gates/0/beforePhase GATE_PHASE_UNKNOWN"),
        ("B048", "/gates/0/beforePhase", json!("prepare"), "/gates/0/beforePhase GATE_PHASE_UNKNOWN"),
        ("B049", "/gates/0/approvers", json!([]), "/gates/0/approvers GATE_INCOMPLETE"),
        ("B049", "/gates/0/condition", json!("ready"), "/gates/0/condition GATE_INCOMPLETE"),
        ("B049", "/gates/0/type", json!("manual"), "/gates/0/approvers GATE_INCOMPLETE"),
        (
            "B049",
            gate,
            json!({"id": "go", "name": "Go", "beforePhase": "publish", "type": "condition"}),
            "/gates/0/condition GATE_INCOMPLETE",
        ),
        (
            "B050",
            gate,
            json!({"id": "go", "name": "Go", "beforePhase": "publish", "approvers": ["editor"]}),
            "/gates/0/type ENUM_INVALID",
        ),
        ("B050", "/humans/editor", json!({"name": "Ed"}), "/humans/editor/raidRole ENUM_INVALID"),
        ("B051", gate, door("ready &&"), "/gates/0/condition CONDITION_INVALID"),
        ("B051", gate, door("1 + 1"), "/gates/0/condition CONDITION_INVALID"),
        ("B051", gate, door(&"a".repeat(2049)), "/gates/0/condition CONDITION_TOO_COSTLY"),
        ("B053", "/timeout", json!("0h"), "/timeout DURATION_INVALID"),
        ("B053", "/timeout", json!("-2h"), "/timeout DURATION_INVALID"),
        ("B053", "/timeout", json!("2d3"), "/timeout DURATION_INVALID"),
        ("B053", "/timeout", json!("99999999999d"), "/timeout DURATION_INVALID"),
        ("B053", "/timeout", json!("1e3h"), "/timeout DURATION_INVALID"),
        ("B053", "/timeout", json!("\u{ff12}d"), "/timeout DURATION_INVALID"),
        ("B053", "/reminders", json!([""]), "/reminders/0 DURATION_INVALID"),
        ("B053", "/reminders", json!(["soon"]), "/reminders/0 DURATION_INVALID"),
        ("B054", "/escalateAfter", json!("48h"), "/escalateAfter SCHEDULE_INCONSISTENT"),
        ("B054", "/reminders", json!(["72h"]), "/reminders SCHEDULE_INCONSISTENT"),
        ("B054", "/reminders", json!(vec!["1h"; 21]), "/reminders SCHEDULE_INCONSISTENT"),
        ("B054", "/timeout", json!("367d"), "/timeout DURATION_INVALID"),
        ("B055", "/version", json!("1.0"), "/version VERSION_INVALID"),
        ("B055", "/version", json!("1.0.0 "), "/version VERSION_INVALID"),
        ("B055", "/version", json!(format!("1.0.0-{}", "a".repeat(60))), "/version VERSION_INVALID"),
        (
            "B060",
            "/phases/0/entryConditions",
            json!(["phases.nowhere.status == 'completed'"]),
            "/phases/0/entryConditions/0 CONDITION_UNKNOWN",
        ),
        (
            "B060",
            "/phases/0/exitConditions",
            json!(["tasks.wrte.status == 'completed'"]),
            "/phases/0/exitConditions/0 CONDITION_UNKNOWN",
        ),
        (
            "B061",
            "/errorHandling",
            json!({"maxRetries": -1}),
            "/errorHandling/maxRetries ERROR_HANDLING_INVALID",
        ),
        (
            "B061",
            "/errorHandling",
            json!({"maxRetries": 1_000_000}),
            "/errorHandling/maxRetries ERROR_HANDLING_INVALID",
        ),
        (
            "B061",
            "/errorHandling",
            json!({"escalateTo": "ghost"}),
            "/errorHandling/escalateTo ERROR_HANDLING_INVALID",
        ),
        (
            "B061",
            "/errorHandling",
            json!({"notifyParticipants": ["writer"]}),
            "/errorHandling/notifyParticipants/0 ERROR_HANDLING_INVALID",
        ),
    ];
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        for (row, pointer, part, at) in table.clone() {
            check.refused(create(row, pointer, part.clone(), at)).await?;
            let mut dry = create(row, pointer, part, at);
            dry.message["validateOnly"] = json!(true);
            check.refused(dry).await?;
        }
        // All at once.
        let mut process = with("/version", json!("one"));
        put(&mut process, "/phases/0/tasks/0/assignee", json!("ghost"));
        put(&mut process, "/gates/0/beforePhase", json!("nowhere"));
        let at = "/version VERSION_INVALID; /phases/0/tasks/0/assignee ASSIGNEE_UNKNOWN; /gates/0/beforePhase GATE_PHASE_UNKNOWN";
        let message = json!({"processDefinition": process});
        check
            .refused(Case::new("B038", "three faults", "CreateProcessDefinition", message, INVALID, at))
            .await?;
        check.done()
    })
}

#[test]
fn unknown_fields_are_refused() -> anyhow::Result<()> {
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        for (pointer, at) in [
            ("/requiredAproval", "/requiredAproval"),
            ("/phases/0/requiredAproval", "/phases/0/requiredAproval"),
            ("/phases/0/tasks/1/requiredAproval", "/phases/0/tasks/1/requiredAproval"),
            ("/gates/0/aprovers", "/gates/0/aprovers"),
            ("/humans/editor/raid_role", "/humans/editor/raid_role"),
            ("/agents/writer/tool", "/agents/writer/tool"),
        ] {
            let request = post(world, "/api/processes", &with(pointer, json!(["owner"])))?;
            let refusal = "INVALID_ARGUMENT 400 UNKNOWN_FIELD";
            check.refused_by_rest("B037", pointer, request, refusal, at).await?;
        }
        let mut template = crew();
        put(&mut template, "/agents/0/hierarchy/canDelegat", json!(true));
        let request = post(world, "/api/team-templates", &template)?;
        let refusal = "INVALID_ARGUMENT 400 UNKNOWN_FIELD";
        check.refused_by_rest("B037", "template", request, refusal, "/agents/0/hierarchy/canDelegat").await?;
        check.done()
    })
}

fn post(world: &World, path: &str, body: &Value) -> anyhow::Result<reqwest::RequestBuilder> {
    Ok(world.doors.request("POST", path)?.json(body))
}

#[test]
fn enum_words_are_exact() -> anyhow::Result<()> {
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        for (row, pointer, word) in [
            ("B050", "/gates/0/type", json!("Approval")),
            ("B050", "/gates/0/type", json!("GATE_TYPE_APPROVAL")),
            ("B050", "/gates/0/type", json!(1)),
            ("B050", "/gates/0/type", json!("unspecified")),
            ("B050", "/humans/editor/raidRole", json!("boss")),
            ("B061", "/onTimeout", json!("explode")),
        ] {
            let request = post(world, "/api/processes", &with(pointer, word.clone()))?;
            let what = format!("{pointer} = {word}");
            check.refused_by_rest(row, what, request, "INVALID_ARGUMENT 400 ENUM_INVALID", pointer).await?;
        }
        let strategy = with("/errorHandling", json!({"taskFailure": "explode"}));
        let (refusal, at) = ("INVALID_ARGUMENT 400 ENUM_INVALID", "/errorHandling/taskFailure");
        let request = post(world, "/api/processes", &strategy)?;
        check.refused_by_rest("B061", "an unknown strategy", request, refusal, at).await?;
        let fraction = post(world, "/api/processes", &with("/phases/0/order", json!(1.5)))?;
        let refusal = "INVALID_ARGUMENT 400 INVALID_NUMBER";
        check.refused_by_rest("B040", "order 1.5", fraction, refusal, "/phases/0/order").await?;
        // gRPC has no words, only numbers.
        for (pointer, word) in [
            ("/gates/0/type", "approval"),
            ("/onTimeout", "block"),
            ("/humans/editor/raidRole", "approver"),
            ("/phases/0/tasks/0/priority", "high"),
        ] {
            let case = create("B050", pointer, json!(word), &format!("{pointer} ENUM_INVALID"));
            check.refused_with_number(case, &format!("/processDefinition{pointer}"), 9).await?;
        }
        check.done()
    })
}

#[test]
fn costly_conditions_are_refused_at_once() -> anyhow::Result<()> {
    let nested = (0..7)
        .fold("true".to_owned(), |inner, depth| format!("[0,1,2,3,4,5,6,7,8,9].all(x{depth}, {inner})"));
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        for condition in [
            nested.clone(),
            format!("{}a{}", "!!(".repeat(40), ")".repeat(40)),
            "(".repeat(1000),
            format!("{}a{}", "(".repeat(900), ")".repeat(900)),
            format!("{}1{}", "[".repeat(900), "]".repeat(900)),
            vec!["a"; 400].join("&&"),
        ] {
            let before = Instant::now();
            let door = json!({"id": "go", "name": "Go", "beforePhase": "publish", "type": "condition", "condition": condition});
            check
                .refused(create("B052", "/gates/0", door, "/gates/0/condition CONDITION_TOO_COSTLY"))
                .await?;
            // Twice, and the rows are read twice, too.
            ensure!(before.elapsed() < Duration::from_secs(2), "took {:?}: {condition}", before.elapsed());
        }
        check.done()
    })
}

#[test]
fn size_is_bounded() -> anyhow::Result<()> {
    let phase = |index: usize| json!({"id": format!("p{index}"), "name": "P", "order": index + 3, "requiredApprovals": ["owner"]});
    let task = |index: usize| json!({"id": format!("t{index}"), "name": "T", "assignee": "writer"});
    let many = |count: usize, one: &dyn Fn(usize) -> Value| Value::Array((0..count).map(one).collect());
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        for (pointer, part, at) in [
            ("/phases", many(101, &phase), "/phases"),
            ("/phases/1/tasks", many(1001, &task), "/phases"),
            ("/phases/0/tasks/3/dependencies", json!(vec!["write"; 33]), "/phases/0/tasks/3/dependencies"),
            ("/labels", Value::Object((0..65).map(|n| (format!("l{n}"), json!("x"))).collect()), "/labels"),
        ] {
            for method in ["CreateProcessDefinition", "ValidateProcessDefinition"] {
                let message = json!({"processDefinition": with(pointer, part.clone())});
                check.refused(Case::new("B059", pointer, method, message, TOO_LARGE, at)).await?;
            }
        }
        // As text it is larger than a REST body may be, and as a message it is not too large for gRPC.
        let long = with("/description", json!("x".repeat(1024 * 1024)));
        let message = json!({"processDefinition": long});
        let case = Case::new("B059", "1 MiB", "CreateProcessDefinition", message, TOO_LARGE, "");
        check.refused_by_grpc(case).await?;
        let request = post(world, "/api/processes", &long)?;
        let refusal = "RESOURCE_EXHAUSTED 413 BODY_TOO_LARGE";
        check.refused_by_rest("B059", "1 MiB", request, refusal, "").await?;
        check.done()
    })
}

#[test]
fn the_same_content_is_no_change() -> anyhow::Result<()> {
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        let same = json!({"processDefinition": launch()});
        check
            .accepted(Case::new("B057", "published before", "CreateProcessDefinition", same, "200", ""))
            .await?;
        let same = json!({"teamTemplate": crew()});
        check.accepted(Case::new("B057", "template", "CreateTeamTemplate", same, "200", "")).await?;
        let again = json!({"processId": "launch", "version": "1.0.0"});
        check.accepted(Case::new("B057", "published", "PublishProcessDefinition", again, "200", "")).await?;
        let mut other = launch();
        other["name"] = json!("Lunch");
        let other = json!({"processDefinition": other});
        let refusal = "ALREADY_EXISTS 409 VERSION_IMMUTABLE";
        check
            .refused(Case::new("B057", "other content", "CreateProcessDefinition", other, refusal, ""))
            .await?;
        let mut other = crew();
        other["name"] = json!("Crow");
        let other = json!({"teamTemplate": other});
        let refusal = "ALREADY_EXISTS 409 ALREADY_EXISTS";
        check.refused(Case::new("B057", "other template", "CreateTeamTemplate", other, refusal, "")).await?;
        check.done()
    })
}

#[test]
fn a_lower_version_is_taken() -> anyhow::Result<()> {
    on_both(async |world, _| {
        let mut lower = launch();
        lower["version"] = json!("0.9.0");
        let before = world.settled().await?;
        let answer =
            world.doors.rest("CreateProcessDefinition", &json!({"processDefinition": lower})).await?;
        ensure!([200, 201].contains(&answer.status), "B058: {} {}", answer.status, answer.body);
        let after = world.rows.read().await?;
        ensure!(after.rows("definition.definition") >= before.rows("definition.definition"), "it is stored");
        let latest = world.call("GetProcessDefinition", json!({"processId": "launch"})).await?;
        ensure!(latest["processDefinition"]["version"] == "1.0.0", "the latest stays the latest");
        Ok(())
    })
}

#[test]
fn what_is_not_there_is_not_found() -> anyhow::Result<()> {
    let process = "NOT_FOUND 404 PROCESS_NOT_FOUND";
    let template = "NOT_FOUND 404 TEAM_TEMPLATE_NOT_FOUND";
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        for (row, method, message, refusal) in [
            ("B036", "GetProcessDefinition", json!({"processId": "lunch"}), process),
            ("B036", "GetProcessDefinition", json!({"processId": "launch", "version": "3.0.0"}), process),
            ("B036", "GetProcessDefinition", json!({"processId": scene.instance}), process),
            ("B036", "GetProcessDefinition", json!({"processId": "x".repeat(5000)}), process),
            ("B036", "GetProcessDefinition", json!({"processId": "' or 1=1 --"}), process),
            ("B036", "ListProcessDefinitionVersions", json!({"processId": "lunch"}), process),
            ("B036", "PublishProcessDefinition", json!({"processId": "lunch", "version": "1.0.0"}), process),
            ("B036", "PublishProcessDefinition", json!({"processId": "launch", "version": "3.0.0"}), process),
            ("B144", "GetTeamTemplate", json!({"teamTemplateId": "crow"}), template),
            ("B144", "InstantiateTeamTemplate", json!({"teamTemplateId": "crow"}), template),
            ("B144", "GetTeam", json!({"teamId": "crew"}), "NOT_FOUND 404 TEAM_NOT_FOUND"),
        ] {
            check.refused(Case::new(row, &message, method, message.clone(), refusal, "")).await?;
        }
        check.done()
    })
}

#[test]
fn schemas_fetch_nothing() -> anyhow::Result<()> {
    on_both(async |world, _| {
        // Whoever connects has fetched.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let silent = format!("http://{}/schema.json", listener.local_addr()?);
        let endless = json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "$ref": "#"});
        let mut check = Check::new(world).await?;
        for (schema, at) in [
            (json!({"$ref": silent}), "/$ref"),
            (json!({"$ref": "file:///etc/hostname"}), "/$ref"),
            (json!({"properties": {"a": {"$ref": silent}}}), "/properties/a/$ref"),
            (json!({"type": "strnig"}), "/type"),
            (endless, ""),
            (json!({"properties": {"a": {"pattern": "(a|a)*(?!c)b"}}}), "/properties/a/pattern"),
            (json!({"description": "x".repeat(64 * 1024)}), ""),
        ] {
            let before = Instant::now();
            let at_process = format!("/contextSchema{at} SCHEMA_INVALID");
            let case = create("B137", "/contextSchema", schema.clone(), &at_process);
            check.refused(case).await?;
            let mut template = crew();
            template["id"] = json!("wrong");
            template["sharedOnboarding"] = schema;
            let message = json!({"teamTemplate": template});
            let at = format!("/sharedOnboarding{at} SCHEMA_INVALID");
            check.refused(Case::new("B137", "template", "CreateTeamTemplate", message, INVALID, at)).await?;
            ensure!(before.elapsed() < Duration::from_secs(2), "took {:?}", before.elapsed());
        }
        let connected = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        ensure!(connected.is_err(), "somebody fetched a schema");
        check.done()
    })
}

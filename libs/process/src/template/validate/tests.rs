//! The page's template, and one row for every fault.

use serde_json::json;

use super::*;

const PAGE: &[u8] = include_bytes!("../../../tests/data/team-template.json");

fn page() -> Value {
    serde_json::from_slice(PAGE).unwrap()
}

fn check(value: Value) -> Vec<(Severity, &'static str, String)> {
    let checked = validate_template(&TeamDraft::from_json(value).unwrap());
    checked.issues.into_iter().map(|issue| (issue.severity, issue.code, issue.path)).collect()
}

#[test]
fn the_template_of_the_page_has_no_fault() {
    let draft = TeamDraft::from_slice(PAGE).unwrap();
    assert_eq!(TeamDraft::from_slice(&draft.canonical()).unwrap(), draft);
    let issues = check(page());
    assert!(
        issues
            .iter()
            .all(|(severity, code, _)| *severity == Severity::Warning && *code == "AGENT_NOT_DESCRIBED")
    );
    let paths: Vec<&str> = issues.iter().map(|(_, _, path)| path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/agents/0/hierarchy/subordinates/1",
            "/agents/0/hierarchy/subordinates/2",
            "/agents/0/hierarchy/subordinates/3",
            "/orchestration/escalationPath/1",
            "/interactionRules/0/target",
        ]
    );
    assert_eq!(slug(&draft.name).as_deref(), Some("enterprise-deployment-team"));
}

#[test]
fn every_fault_has_its_code_and_place() {
    for (pointer, part, code, path) in [
        ("/name", json!(""), "NAME_INVALID", "/name"),
        ("/name", json!("\u{90e8}\u{7f72}"), "ID_INVALID", "/id"),
        ("/id", json!("Not an id"), "ID_INVALID", "/id"),
        ("/category", json!("a\nb"), "TEXT_INVALID", "/category"),
        ("/agents", json!([]), "AGENTS_EMPTY", "/agents"),
        ("/agents/1/id", json!("deployment_lead"), "ID_DUPLICATE", "/agents/1/id"),
        ("/agents/1/id", json!("A"), "ID_INVALID", "/agents/1/id"),
        ("/agents/1/name", json!(""), "NAME_INVALID", "/agents/1/name"),
        ("/agents/1/tools", json!([{"name": ""}]), "TEXT_INVALID", "/agents/1/tools/0/name"),
        (
            "/agents/1/systemPrompt",
            json!("x".repeat(65_537)),
            "TEAM_TEMPLATE_TOO_LARGE",
            "/agents/1/systemPrompt",
        ),
        ("/agents/1/hierarchy", json!({"level": -1}), "HIERARCHY_INVALID", "/agents/1/hierarchy/level"),
        (
            "/agents/0/hierarchy",
            json!({"reportsTo": "sso_agent"}),
            "HIERARCHY_CYCLE",
            "/agents/0/hierarchy/reportsTo",
        ),
        (
            "/agents/1/hierarchy",
            json!({"reportsTo": "sso_agent"}),
            "HIERARCHY_CYCLE",
            "/agents/1/hierarchy/reportsTo",
        ),
        ("/sharedOnboarding", json!({"$ref": "http://x"}), "SCHEMA_INVALID", "/sharedOnboarding/$ref"),
        ("/orchestration/mode", json!("Hierarchical"), "ENUM_INVALID", "/orchestration/mode"),
        (
            "/orchestration/entryAgentId",
            json!("nobody"),
            "ENTRY_AGENT_UNKNOWN",
            "/orchestration/entryAgentId",
        ),
        (
            "/orchestration/escalationPath",
            json!(["a", "b", "a"]),
            "HIERARCHY_CYCLE",
            "/orchestration/escalationPath/2",
        ),
        ("/interactionRules/1/id", json!("security_escalation"), "RULE_INVALID", "/interactionRules/1/id"),
        ("/interactionRules/0/trigger", json!("on fire"), "RULE_INVALID", "/interactionRules/0/trigger"),
        ("/interactionRules/0/action", json!("explode"), "RULE_INVALID", "/interactionRules/0/action"),
        ("/interactionRules/0/target", json!(""), "RULE_INVALID", "/interactionRules/0/target"),
        ("/interactionRules/0/priority", json!("top"), "RULE_INVALID", "/interactionRules/0/priority"),
        ("/interactionRules/1/timeout", json!("soon"), "RULE_INVALID", "/interactionRules/1/timeout"),
    ] {
        let mut template = page();
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        match template.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[member.parse::<usize>().unwrap()] = part.clone(),
            parent @ (Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_)) => {
                parent[member] = part.clone();
            }
        }
        let issues = check(template);
        assert!(
            issues.contains(&(Severity::Error, code, path.to_owned())),
            "{pointer} = {part}: no {code} at {path} in {issues:?}"
        );
    }
}

#[test]
fn a_cycle_is_noted_once() {
    let agent = |id: &str, above: &str| json!({"id": id, "name": id, "hierarchy": {"reportsTo": above}});
    let issues = check(
        json!({"name": "N", "agents": [agent("c", "a"), agent("a", "b"), agent("b", "c"), agent("d", "c")]}),
    );
    let cycles: Vec<_> = issues.iter().filter(|(_, code, _)| *code == "HIERARCHY_CYCLE").collect();
    assert_eq!(cycles.len(), 1, "{issues:?}");
}

#[test]
fn ids_made_from_names() {
    for (name, id) in [
        ("Enterprise Deployment Team", Some("enterprise-deployment-team")),
        ("  3rd Line (EU) ", Some("rd-line-eu")),
        ("a_b", Some("a_b")),
        ("\u{90e8}\u{7f72}", None),
        ("123", None),
    ] {
        assert_eq!(slug(name).as_deref(), id, "{name}");
    }
    let long = slug(&"word ".repeat(40)).unwrap();
    assert!(is_id(&long), "{long}");
}

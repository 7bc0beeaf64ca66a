//! Team templates, and teams made from them.

use phasegate_bad_input::{Case, Check, crew, on_both};
use serde_json::{Value, json};

use crate::definition::put;

const INVALID: &str = "INVALID_ARGUMENT 400 VALIDATION_FAILED";

#[test]
fn onboarding_is_checked() -> anyhow::Result<()> {
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        for (onboarding, at) in [
            (json!({}), "/onboarding/customer"),
            (json!({"customer": 7}), "/onboarding/customer"),
            (json!({"customer": "Acme", "idp": "saml"}), "/onboarding/idp"),
        ] {
            let message = json!({"teamTemplateId": "crew", "onboarding": onboarding});
            let refusal = "INVALID_ARGUMENT 400 ONBOARDING_INVALID";
            let case = Case::new("B145", &onboarding, "InstantiateTeamTemplate", message, refusal, at);
            check.refused(case).await?;
        }
        check.done()
    })
}

#[test]
fn templates_are_checked() -> anyhow::Result<()> {
    let large = "RESOURCE_EXHAUSTED 413 TEAM_TEMPLATE_TOO_LARGE";
    let table: Vec<(&str, &str, Value, &str, &str)> = vec![
        ("B148", "/agents/0/systemPrompt", json!("x".repeat(65_537)), large, "/agents/0/systemPrompt"),
        (
            "B148",
            "/agents/0/hierarchy",
            json!({"reportsTo": "mate"}),
            INVALID,
            "/agents/0/hierarchy/reportsTo HIERARCHY_CYCLE",
        ),
        (
            "B148",
            "/orchestration/escalationPath",
            json!(["mate", "captain", "mate"]),
            INVALID,
            "/orchestration/escalationPath/2 HIERARCHY_CYCLE",
        ),
        (
            "B148",
            "/agents",
            json!([]),
            INVALID,
            "/agents AGENTS_EMPTY; /orchestration/entryAgentId ENTRY_AGENT_UNKNOWN",
        ),
        (
            "B147",
            "/interactionRules/0/trigger",
            json!("on fire"),
            INVALID,
            "/interactionRules/0/trigger RULE_INVALID",
        ),
        (
            "B147",
            "/interactionRules/0/action",
            json!("explode"),
            INVALID,
            "/interactionRules/0/action RULE_INVALID",
        ),
        ("B147", "/interactionRules/0/target", json!(""), INVALID, "/interactionRules/0/target RULE_INVALID"),
        (
            "B147",
            "/interactionRules/0/timeout",
            json!("soon"),
            INVALID,
            "/interactionRules/0/timeout RULE_INVALID",
        ),
        (
            "B147",
            "/interactionRules/-",
            json!({"id": "stuck", "trigger": "a", "action": "pause", "target": "mate"}),
            INVALID,
            "/interactionRules/1/id RULE_INVALID",
        ),
    ];
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        for (row, pointer, part, refusal, at) in table.clone() {
            let mut template = crew();
            template["id"] = json!("wrong");
            put(&mut template, pointer, part);
            let message = json!({"teamTemplate": template});
            check.refused(Case::new(row, pointer, "CreateTeamTemplate", message, refusal, at)).await?;
        }
        check.done()
    })
}

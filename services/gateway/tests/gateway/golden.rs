//! The eleven routes of processes and templates: what goes in as JSON, what the service is asked, what comes out.

use anyhow::Result;
use serde_json::{Value, json};

use crate::backend::{Answer, Server, read};

/// One call: what a caller sends, what the service gets, what it answers, what the caller gets.
struct Case {
    call: (&'static str, &'static str, Option<Value>),
    method: &'static str,
    asked: Value,
    answered: Value,
    got: (u16, Value),
}

#[tokio::test]
async fn every_route_speaks_its_json() -> Result<()> {
    let server = Server::start().await?;
    for case in cases() {
        let (verb, path, body) = &case.call;
        server.backend.answer(case.method, case.answered.clone());
        let got = server.call(verb, path, body.as_ref()).await?;
        assert_eq!(got, case.got, "{verb} {path}");
        let asked = server.backend.last()?;
        assert_eq!((asked.method.as_str(), &asked.message), (case.method, &case.asked), "{verb} {path}");
        assert_eq!((asked.principal.id.as_str(), asked.principal.is_operator()), ("dev", true));
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    let mut cases = process_cases();
    cases.extend(artifact_and_approval_cases());
    cases.extend(template_cases());
    cases
}

fn process_cases() -> Vec<Case> {
    vec![
        Case {
            call: ("GET", "/api/processes?limit=2&includeDrafts=true&pageToken=a%2Bb", None),
            method: "ListProcessDefinitions",
            asked: json!({"pageSize": 2, "includeDrafts": true, "pageToken": "a+b"}),
            answered: json!({"processes": [], "nextPageToken": "more"}),
            got: (200, json!({"processes": [], "nextPageToken": "more"})),
        },
        Case {
            call: ("GET", "/api/processes/enterprise_sso_deployment", None),
            method: "GetProcessDefinition",
            asked: json!({"processId": "enterprise_sso_deployment"}),
            answered: json!({"processDefinition": {
                "id": "enterprise_sso_deployment", "name": "Enterprise SSO Deployment", "version": "1.0.0",
                "phases": [{"id": "discovery", "name": "Discovery & Planning", "order": 1, "estimatedDuration": "1-2 days"}],
                "humans": {"customer_ciso": {"role": "approver", "raidRole": "approver"}},
                "gates": [{"id": "config_approval_gate", "name": "Configuration Approval", "beforePhase": "security_review",
                           "type": "approval", "approvers": ["customer_it_admin"]}],
                "status": "published", "createdAt": "2026-01-31T09:30:00Z",
            }}),
            got: (
                200,
                json!({
                    "id": "enterprise_sso_deployment", "name": "Enterprise SSO Deployment", "version": "1.0.0",
                    "phases": [{"id": "discovery", "name": "Discovery & Planning", "order": 1, "tasks": [],
                        "estimatedDuration": "1-2 days", "requiredApprovals": [], "entryConditions": [],
                        "exitConditions": [], "reminders": []}],
                    "agents": {},
                    "humans": {"customer_ciso": {"id": "", "name": "", "role": "approver", "raidRole": "approver",
                        "requiredApprovals": []}},
                    "gates": [{"id": "config_approval_gate", "name": "Configuration Approval", "beforePhase": "security_review",
                        "type": "approval", "approvers": ["customer_it_admin"], "reminders": []}],
                    "escalationPath": [], "labels": {}, "draft": false, "reminders": [], "status": "published",
                    "createdAt": "2026-01-31T09:30:00Z", "contentDigest": "", "warnings": [],
                }),
            ),
        },
        Case {
            call: (
                "POST",
                "/api/processes/enterprise_sso_deployment/instances",
                Some(json!({
                    "processId": "enterprise_sso_deployment", "name": "Acme Corp SSO Deployment",
                    "context": {"customerName": "Acme Corporation", "idpType": "okta", "userCount": 5000},
                    "externalParticipants": [
                        {"participantId": "customer_it_admin", "email": "it-admin@acme.com", "name": "John Smith"},
                    ],
                })),
            ),
            method: "StartInstance",
            asked: json!({
                "processId": "enterprise_sso_deployment", "name": "Acme Corp SSO Deployment",
                "context": {"customerName": "Acme Corporation", "idpType": "okta", "userCount": 5000},
                "externalParticipants": [
                    {"participantId": "customer_it_admin", "email": "it-admin@acme.com", "name": "John Smith"},
                ],
            }),
            answered: json!({"instance": {"id": "proc-inst-123", "status": "running", "phase": "discovery"}}),
            got: (201, instance("running", "discovery")),
        },
        Case {
            call: ("GET", "/api/processes/instances/proc-inst-123", None),
            method: "GetInstance",
            asked: json!({"instanceId": "proc-inst-123"}),
            answered: json!({"instance": {"id": "proc-inst-123", "status": "paused", "phase": "production"}}),
            got: (200, instance("paused", "production")),
        },
        Case {
            call: ("POST", "/api/processes/instances/proc-inst-123/phase", None),
            method: "AdvancePhase",
            asked: json!({"instanceId": "proc-inst-123"}),
            answered: json!({"previousPhase": "discovery", "currentPhase": "configuration"}),
            got: (
                200,
                json!({"previousPhase": "discovery", "currentPhase": "configuration", "blockers": []}),
            ),
        },
    ]
}

fn artifact_and_approval_cases() -> Vec<Case> {
    let stored = json!({"artifact": {"instanceId": "proc-inst-123", "key": "sso_requirements", "version": 1, "sizeBytes": "57"}});
    let artifact = json!({
        "instanceId": "proc-inst-123", "key": "sso_requirements", "version": 1, "type": "", "contentType": "",
        "sizeBytes": "57", "digest": "", "phase": "", "taskId": "",
    });
    vec![
        Case {
            call: (
                "GET",
                "/api/processes/instances/proc-inst-123/approvals?status=changes_requested&all=false",
                None,
            ),
            method: "ListApprovals",
            asked: json!({"instanceId": "proc-inst-123", "status": "changes_requested"}),
            answered: json!({"approvals": []}),
            got: (200, json!({"approvals": [], "nextPageToken": ""})),
        },
        Case {
            call: (
                "POST",
                "/api/processes/instances/proc-inst-123/artifacts",
                Some(json!({
                    "key": "sso_requirements", "type": "document",
                    "content": {"attributes": ["email", "firstName"], "deep": {"none": null, "half": 0.5}},
                    "metadata": {"createdBy": "sso_agent", "phase": "discovery"},
                    "ifVersion": 0,
                })),
            ),
            method: "StoreArtifact",
            asked: json!({
                "instanceId": "proc-inst-123", "key": "sso_requirements", "type": "document",
                "content": {"attributes": ["email", "firstName"], "deep": {"none": null, "half": 0.5}},
                "metadata": {"createdBy": "sso_agent", "phase": "discovery"},
                "ifVersion": 0,
            }),
            answered: stored,
            got: (201, artifact),
        },
        Case {
            call: (
                "GET",
                "/api/processes/instances/proc-inst-123/artifacts?phase=discovery&type=document",
                None,
            ),
            method: "ListArtifacts",
            asked: json!({"instanceId": "proc-inst-123", "phase": "discovery", "type": "document"}),
            answered: json!({"artifacts": []}),
            got: (200, json!({"artifacts": [], "nextPageToken": ""})),
        },
    ]
}

fn template_cases() -> Vec<Case> {
    vec![
        Case {
            call: ("GET", "/api/team-templates", None),
            method: "ListTeamTemplates",
            asked: json!({}),
            answered: json!({"teamTemplates": []}),
            got: (200, json!({"teamTemplates": [], "nextPageToken": ""})),
        },
        Case {
            call: ("GET", "/api/team-templates/enterprise_deployment_team", None),
            method: "GetTeamTemplate",
            asked: json!({"teamTemplateId": "enterprise_deployment_team"}),
            answered: json!({"teamTemplate": {
                "id": "enterprise_deployment_team", "name": "Enterprise Deployment Team",
                "orchestration": {"mode": "hierarchical", "entryAgentId": "deployment_lead"},
                "interactionRules": [{"id": "security_escalation", "trigger": "security_concern_detected",
                    "action": "escalate", "target": "security_agent", "priority": "high"}],
            }}),
            got: (
                200,
                json!({
                    "id": "enterprise_deployment_team", "name": "Enterprise Deployment Team", "category": "",
                    "description": "", "agents": [],
                    "orchestration": {"mode": "hierarchical", "entryAgentId": "deployment_lead", "escalationPath": []},
                    "interactionRules": [{"id": "security_escalation", "trigger": "security_concern_detected",
                        "action": "escalate", "target": "security_agent", "priority": "high"}],
                    "warnings": [],
                }),
            ),
        },
        Case {
            call: (
                "POST",
                "/api/team-templates/enterprise_deployment_team/instantiate",
                Some(json!({
                    "onboarding": {"customerName": "Acme", "idpType": "okta"},
                })),
            ),
            method: "InstantiateTeamTemplate",
            asked: json!({
                "teamTemplateId": "enterprise_deployment_team",
                "onboarding": {"customerName": "Acme", "idpType": "okta"},
            }),
            answered: json!({"team": {"id": "team-1", "teamTemplateId": "enterprise_deployment_team"}}),
            got: (
                201,
                json!({
                    "id": "team-1", "teamTemplateId": "enterprise_deployment_team", "name": "", "agents": [],
                    "interactionRules": [],
                }),
            ),
        },
    ]
}

fn instance(status: &str, phase: &str) -> Value {
    json!({
        "id": "proc-inst-123", "processId": "", "processName": "", "processVersion": "", "definitionDigest": "", "name": "",
        "status": status, "phase": phase, "facts": {}, "teamId": "", "labels": {}, "currentPhase": "",
        "completedPhases": [], "pendingApprovals": [], "blockedTasks": [], "progressPercent": 0, "statusReason": "",
        "version": 0, "asOf": "",
    })
}

#[tokio::test]
async fn a_repeated_creation_is_not_created_again() -> Result<()> {
    let server = Server::start().await?;
    let message = json!({"instance": {"id": "proc-inst-123", "status": "running"}});
    server.backend.lay("StartInstance", Answer::Message { message, repeated: true });
    let request = server.http.post(server.url("/api/processes/d/instances")).header("idempotency-key", "k-1");
    let (status, _) = read(request.json(&json!({}))).await?;
    assert_eq!(status, 200);
    assert_eq!(server.backend.last()?.message, json!({"processId": "d", "requestId": "k-1"}));
    Ok(())
}

#[tokio::test]
async fn aliases_lists_and_times_are_understood() -> Result<()> {
    let server = Server::start().await?;
    server.backend.answer("ListAuditEntries", json!({}));
    let path = "/api/processes/instances/i/audit?limit=100&types=approval&types=phase_transition\
                &since=2026-01-31T09%3A30%3A00%2B02:00&processInstanceId=i";
    assert_eq!(server.call("GET", path, None).await?.0, 200);
    let expected = json!({
        "instanceId": "i", "pageSize": 100, "types": ["approval", "phase_transition"], "since": "2026-01-31T07:30:00Z",
    });
    assert_eq!(server.backend.last()?.message, expected);

    server.backend.answer("CreateLink", json!({"url": "http://x"}));
    let body = json!({"processInstanceId": "i", "participantId": "p", "email": "a@b.c", "expiresIn": "7d",
        "permissions": ["view", "approve", "comment"]});
    let (status, _) =
        server.call("POST", "/api/processes/instances/i/participants/p/links", Some(&body)).await?;
    assert_eq!(status, 201);
    let expected = json!({"instanceId": "i", "participantId": "p", "email": "a@b.c", "expiresIn": "7d",
        "permissions": ["view", "approve", "comment"]});
    assert_eq!(server.backend.last()?.message, expected);

    server.backend.answer("CreateProcessDefinition", json!({}));
    assert_eq!(
        server.call("POST", "/api/processes?validateOnly=true", Some(&json!({"id": "d"}))).await?.0,
        201
    );
    assert_eq!(
        server.backend.last()?.message,
        json!({"processDefinition": {"id": "d"}, "validateOnly": true})
    );
    Ok(())
}

#[tokio::test]
async fn ids_may_hold_anything_once_encoded() -> Result<()> {
    let server = Server::start().await?;
    server.backend.answer("GetArtifact", json!({}));
    let path = "/api/processes/instances/a%2Fb%20c+d/artifacts/%E2%9C%93";
    assert_eq!(server.call("GET", path, None).await?.0, 200);
    assert_eq!(server.backend.last()?.message, json!({"instanceId": "a/b c+d", "key": "✓"}));
    Ok(())
}

//! What the product was asked for with: its process, its team template and its calls, sent as they were written, over REST to
//! the real program.

use std::time::Duration;

use anyhow::Context as _;
use phasegate_end_to_end::{Rest, Server, Storage};
use serde_json::{Value, json};

const PROCESS: &str = include_str!("../../../libs/process/tests/data/process.json");
const TEAM_TEMPLATE: &str = include_str!("../../../libs/process/tests/data/team-template.json");

/// Longest time for what one service has told to show at another.
const ARRIVES: Duration = Duration::from_secs(15);

/// A running server with the definition in it.
struct Page {
    server: Server,
    rest: Rest,
}

impl Page {
    async fn open(storage: Storage) -> anyhow::Result<Self> {
        let server = Server::start(storage).await?;
        let rest = Rest::new(server.address());
        Ok(Self { server, rest })
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let (status, answer) = self.rest.get(path).await?;
        anyhow::ensure!(status == 200, "GET {path} answered {status}: {answer}");
        Ok(answer)
    }

    async fn post(&self, path: &str, body: &Value, expected: u16) -> anyhow::Result<Value> {
        let (status, answer) = self.rest.post(path, body).await?;
        anyhow::ensure!(status == expected, "POST {path} answered {status}: {answer}");
        Ok(answer)
    }

    /// Reads until something is there.
    async fn get_until(&self, path: &str, is_there: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let until = tokio::time::Instant::now() + ARRIVES;
        loop {
            let answer = self.get(path).await?;
            if is_there(&answer) {
                return Ok(answer);
            }
            anyhow::ensure!(tokio::time::Instant::now() < until, "GET {path} still answers {answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn start(&self, it_admin: &str) -> anyhow::Result<String> {
        let body = start(it_admin);
        let instance = self.post("/api/processes/enterprise_sso_deployment/instances", &body, 201).await?;
        assert_eq!(instance["status"], "running");
        assert_eq!(instance["phase"], "discovery");
        assert_eq!(instance["context"], body["context"]);
        let id = instance["id"].as_str().context("an id")?;
        assert!(id.starts_with("proc-inst-"), "{id}");
        Ok(id.to_owned())
    }

    /// Takes the next task of a queue.
    async fn polls(&self, queue: &str) -> anyhow::Result<Value> {
        let body = json!({ "worker": { "workerId": "page" }, "queues": [queue], "wait": "10s" });
        let answer = self.post("/api/workers/tasks/poll", &body, 200).await?;
        let task = answer["tasks"].get(0).with_context(|| format!("nothing to do on {queue}"))?;
        Ok(task.clone())
    }

    /// Takes the next task of a queue, stores what it must, and hands it in.
    async fn performs(&self, instance: &str, queue: &str) -> anyhow::Result<String> {
        let task = self.polls(queue).await?;
        let token = &task["lease"]["taskToken"];
        for key in task["expectedArtifacts"].as_array().into_iter().flatten() {
            let body = json!({ "key": key, "type": "document", "content": {}, "taskToken": token });
            self.post(&format!("/api/processes/instances/{instance}/artifacts"), &body, 201).await?;
        }
        let body = json!({ "taskToken": token, "summary": "Done." });
        self.post("/api/workers/tasks/complete", &body, 200).await?;
        Ok(task["taskId"].as_str().context("a task id")?.to_owned())
    }
}

/// The body of a start, as it was written; the address is that of another call of the page, where one is wanted.
fn start(it_admin: &str) -> Value {
    json!({
        "processId": "enterprise_sso_deployment",
        "name": "Acme Corp SSO Deployment",
        "context": {
            "customerName": "Acme Corporation",
            "customerDomain": "acme.com",
            "idpType": "okta",
            "userCount": 5000,
        },
        "externalParticipants": [
            { "participantId": "customer_it_admin", "email": it_admin, "name": "John Smith" },
            { "participantId": "customer_ciso", "email": "ciso@acme.com", "name": "Jane Doe" },
        ],
    })
}

/// Everything that was written reads back as it was written; more may be there.
fn assert_holds(there: &Value, written: &Value, path: &str) {
    match written {
        Value::Object(fields) => {
            for (name, value) in fields {
                assert_holds(&there[name], value, &format!("{path}/{name}"));
            }
        }
        Value::Array(items) => {
            assert_eq!(there.as_array().map(Vec::len), Some(items.len()), "{path}");
            for (index, item) in items.iter().enumerate() {
                assert_holds(&there[index], item, &format!("{path}/{index}"));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            assert_eq!(there, written, "{path}");
        }
    }
}

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() >= 20 && text.contains('T') && text.ends_with('Z'))
}

fn names(list: &Value, field: &str) -> Vec<String> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item[field].as_str()).map(str::to_owned).collect()
}

/// GET and POST /api/processes, GET /api/processes/:id.
async fn processes(page: &Page) -> anyhow::Result<()> {
    let process: Value = serde_json::from_str(PROCESS)?;
    let stored = page.post("/api/processes", &process, 201).await?;
    assert_holds(&stored, &process, "");
    assert_eq!(stored["status"], "published");
    // The same again is no news.
    page.post("/api/processes", &process, 200).await?;
    let listed = page.get("/api/processes").await?;
    assert_eq!(names(&listed["processes"], "id"), ["enterprise_sso_deployment"]);
    assert_holds(&page.get("/api/processes/enterprise_sso_deployment").await?, &process, "");
    let unknown = page.rest.get("/api/processes/unknown").await?;
    assert_eq!(unknown.0, 404, "{}", unknown.1);
    Ok(())
}

/// GET /api/team-templates, GET /api/team-templates/:id, POST /api/team-templates/:id/instantiate.
async fn team_templates(page: &Page) -> anyhow::Result<()> {
    let template: Value = serde_json::from_str(TEAM_TEMPLATE)?;
    let stored = page.post("/api/team-templates", &template, 201).await?;
    assert_holds(&stored, &template, "");
    let id = stored["id"].as_str().context("an id")?;
    assert_eq!(id, "enterprise-deployment-team");
    let listed = page.get("/api/team-templates").await?;
    assert_eq!(names(&listed["teamTemplates"], "id"), [id]);
    assert_holds(&page.get(&format!("/api/team-templates/{id}")).await?, &template, "");

    let path = format!("/api/team-templates/{id}/instantiate");
    let onboarding =
        json!({ "customerName": "Acme Corporation", "customerDomain": "acme.com", "idpType": "okta" });
    let team = page.post(&path, &json!({ "onboarding": onboarding }), 201).await?;
    assert_eq!(team["onboarding"], onboarding);
    assert_eq!(team["teamTemplateId"], id);
    assert_eq!(names(&team["agents"], "id"), ["deployment_lead", "sso_agent"]);
    let wrong = json!({ "onboarding": { "customerName": "Acme Corporation", "idpType": "ldap" } });
    let refused = page.post(&path, &wrong, 400).await?;
    assert_eq!(refused["error"]["details"][0]["reason"], "ONBOARDING_INVALID", "{refused}");
    Ok(())
}

/// GET /api/processes/instances/:id at the beginning, and POST /api/processes/instances/:id/phase.
async fn status_and_advance(page: &Page) -> anyhow::Result<()> {
    let instance = page.start("it-admin@acme.com").await?;
    let base = format!("/api/processes/instances/{instance}");
    let status = page.get(&base).await?;
    assert_eq!(status["currentPhase"], "discovery");
    assert_eq!(status["completedPhases"], json!([]));
    assert_eq!(status["pendingApprovals"], json!([]));
    assert!(status["blockedTasks"].is_array(), "{status}");
    assert_eq!(status["progressPercent"], 0);
    assert!(is_time(&status["estimatedCompletion"]), "{status}");
    assert_eq!(page.get(&format!("{base}/status")).await?["id"], instance.as_str());

    // Nothing is done yet: what is in the way is listed.
    let refused = page.post(&format!("{base}/phase"), &json!({}), 409).await?;
    let details = refused["error"]["details"].as_array().context("details")?;
    assert_eq!(details[0]["reason"], "PHASE_BLOCKED", "{refused}");
    let blockers =
        &details.iter().find(|detail| detail["violations"].is_array()).context("blockers")?["violations"];
    let subjects = names(blockers, "subject");
    for task in ["requirements_gathering", "scim_planning"] {
        assert!(subjects.iter().any(|subject| subject.contains(task)), "{refused}");
    }
    let forced = json!({ "fromPhase": "discovery", "force": true, "reason": "planned by telephone" });
    let moved = page.post(&format!("{base}/phase"), &forced, 200).await?;
    assert_eq!(moved["previousPhase"], "discovery");
    assert_eq!(moved["currentPhase"], "configuration");
    assert_eq!(moved["instance"]["currentPhase"], "configuration");
    page.post(&format!("{base}/cancel"), &json!({ "reason": "it was a rehearsal" }), 200).await?;
    Ok(())
}

/// GET and POST /api/processes/instances/:id/artifacts, and one artifact.
async fn artifacts(page: &Page, instance: &str) -> anyhow::Result<()> {
    let path = format!("/api/processes/instances/{instance}/artifacts");
    let body = json!({
        "key": "sso_requirements",
        "type": "document",
        "content": {
            "idpType": "okta",
            "attributes": ["email", "firstName", "lastName", "department"],
            "groups": ["engineering", "sales", "support"],
        },
        "metadata": { "createdBy": "sso_agent", "phase": "discovery" },
    });
    let stored = page.post(&path, &body, 201).await?;
    assert_eq!((&stored["key"], &stored["version"]), (&json!("sso_requirements"), &json!(1)));
    let artifact = page.get(&format!("{path}/sso_requirements")).await?;
    assert_holds(&artifact, &body, "");
    assert_eq!(artifact["phase"], "discovery");
    for (filter, expected) in [
        ("", true),
        ("?phase=discovery&type=document", true),
        ("?phase=discovery", true),
        ("?type=document", true),
        ("?phase=production&type=document", false),
        ("?phase=discovery&type=report", false),
    ] {
        let listed = page.get(&format!("{path}{filter}")).await?;
        let keys = names(&listed["artifacts"], "key");
        assert_eq!(keys.contains(&"sso_requirements".to_owned()), expected, "{filter}: {listed}");
    }
    Ok(())
}

/// A link as the page makes one, for a person with that address.
async fn link(page: &Page) -> anyhow::Result<()> {
    let instance = page.start("admin@customer.com").await?;
    let path = format!("/api/processes/instances/{instance}/participants/customer_it_admin/links");
    let body = json!({
        "processInstanceId": instance,
        "participantId": "customer_it_admin",
        "email": "admin@customer.com",
        "expiresIn": "7d",
        "permissions": ["view", "approve", "comment"],
    });
    // People come to their service by an event.
    let participants = format!("/api/processes/instances/{instance}/participants");
    page.get_until(&participants, |answer| !names(&answer["participants"], "id").is_empty()).await?;
    let made = page.post(&path, &body, 201).await?;
    let url = made["url"].as_str().context("a URL")?;
    assert!(url.contains("/external/approve?token=eyJ"), "{url}");
    assert_eq!(made["link"]["permissions"], body["permissions"]);
    let browser = reqwest::Client::builder().no_proxy().cookie_store(true).build()?;
    let opened = browser.get(url).send().await?;
    assert_eq!(opened.status(), 200, "the link opens");
    page.post(&format!("/api/processes/instances/{instance}/cancel"), &json!({ "reason": "seen" }), 200)
        .await?;
    Ok(())
}

/// The request of an agent, the mail that follows, the decision, and who hears of it.
async fn approval(page: &Page, instance: &str) -> anyhow::Result<()> {
    let base = format!("/api/processes/instances/{instance}");
    let task = page.polls("sso-specialist").await?;
    assert_eq!(task["taskId"], "sso_setup");
    let summary = json!({
        "key": "sso_config_summary", "type": "document", "content": { "protocol": "saml" },
        "taskToken": task["lease"]["taskToken"],
    });
    page.post(&format!("{base}/artifacts"), &summary, 201).await?;
    let body = json!({
        "taskId": "sso_setup",
        "approverIds": ["customer_it_admin"],
        "title": "SSO Configuration Review",
        "description": "Please review the SSO configuration before we proceed",
        "artifacts": ["sso_config_summary"],
        "expiresIn": "48h",
    });
    let asked = page.post(&format!("{base}/approvals"), &body, 201).await?;
    assert_eq!((&asked["status"], &asked["title"]), (&json!("pending"), &body["title"]));
    assert_eq!(asked["description"], body["description"]);
    assert_eq!(names(&asked["artifacts"], "key"), ["sso_config_summary"]);
    assert!(is_time(&asked["expiresAt"]), "{asked}");
    let done = json!({ "taskToken": task["lease"]["taskToken"], "summary": "Configured." });
    let handed_in = page.post("/api/workers/tasks/complete", &done, 200).await?;
    assert_eq!(handed_in["taskStatus"], "awaiting_approval");
    assert_eq!(handed_in["approvalId"], asked["id"], "the request of the agent is the one of this round");

    let pending = page.get(&format!("{base}/approvals")).await?;
    assert_eq!(names(&pending["approvals"], "title"), ["SSO Configuration Review"]);
    let status = page
        .get_until(&base, |status| {
            names(&status["pendingApprovals"], "title") == ["SSO Configuration Review"]
        })
        .await?;
    assert_eq!(status["pendingApprovals"][0]["waitingOn"], json!(["customer_it_admin"]));

    mail(page).await?;
    let decision = json!({
        "approverId": "customer_it_admin",
        "decision": "approve",
        "comment": "Looks right.",
        "contentDigest": asked["contentDigest"],
    });
    let path = format!("/api/approvals/{}/decision", asked["id"].as_str().unwrap_or_default());
    assert_eq!(page.post(&path, &decision, 200).await?["status"], "approved");

    let response = first_response(page, &base).await?;
    assert_eq!(response["taskId"], "sso_setup");
    assert_eq!(response["approved"], true);
    assert_eq!(response["approverEmail"], "it-admin@acme.com");
    assert_eq!(response["comments"], "Looks right.");
    assert!(is_time(&response["timestamp"]), "{response}");
    Ok(())
}

/// What the person is sent.
async fn mail(page: &Page) -> anyhow::Result<()> {
    let wanted = "Approval Required: SSO Configuration Review";
    let messages = page
        .get_until("/dev/mail/messages", |answer| {
            let messages = answer.as_array().or_else(|| answer["messages"].as_array());
            messages.is_some_and(|messages| messages.iter().any(|mail| mail["subject"] == wanted))
        })
        .await?;
    let messages = messages.as_array().or_else(|| messages["messages"].as_array()).context("messages")?;
    let mail = messages.iter().find(|mail| mail["subject"] == wanted).context("the mail")?;
    assert!(mail["to"].to_string().contains("it-admin@acme.com"), "{mail}");
    let text = mail["text"].as_str().context("a text")?;
    for part in [
        "Hi John,",
        "Please review the SSO configuration before we proceed",
        "Review and Approve",
        "This link expires in 48 hours.",
    ] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert!(mail["link"].as_str().is_some_and(|link| link.contains("/external/approve?token=eyJ")), "{mail}");
    Ok(())
}

/// The first answer on the feed of answers.
async fn first_response(page: &Page, base: &str) -> anyhow::Result<Value> {
    let address = page.server.address();
    let http = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("{address}{base}/approvals/responses?resumeToken=0");
    let mut feed = http.get(url).send().await?;
    let mut text = String::new();
    let reading = async {
        while let Some(chunk) = feed.chunk().await? {
            text.push_str(&String::from_utf8_lossy(&chunk));
            let data = text.lines().find_map(|line| line.strip_prefix("data: "));
            if let Some(response) = data.and_then(|data| serde_json::from_str::<Value>(data).ok()) {
                return Ok(response);
            }
        }
        anyhow::bail!("the feed ended: {text}")
    };
    tokio::time::timeout(ARRIVES, reading).await.context("no answer on the feed")?
}

/// The timeline and the audit log in the middle of the process.
async fn record(page: &Page, instance: &str) -> anyhow::Result<()> {
    let base = format!("/api/processes/instances/{instance}");
    let status = page.get(&base).await?;
    assert_eq!(status["currentPhase"], "configuration");
    assert_eq!(status["completedPhases"], json!(["discovery"]));
    let progress = status["progressPercent"].as_i64().context("a progress")?;
    assert!((1..100).contains(&progress), "{progress}");

    let timeline = page.get(&format!("{base}/timeline")).await?;
    let phases = timeline["phases"].as_array().context("phases")?;
    assert_eq!(
        names(&timeline["phases"], "name"),
        ["Discovery & Planning", "Configuration", "Security Review", "Production Deployment"]
    );
    assert_eq!((&phases[0]["status"], &phases[1]["status"]), (&json!("completed"), &json!("active")));
    assert!(is_time(&phases[0]["startedAt"]) && is_time(&phases[0]["completedAt"]), "{}", phases[0]);
    assert_eq!(phases[2]["status"], "pending");
    assert!(phases[2]["startedAt"].is_null(), "{}", phases[2]);
    let tasks = &phases[0]["tasks"];
    assert_eq!(names(tasks, "name"), ["Gather SSO Requirements", "Plan SCIM Provisioning"]);
    assert_eq!(names(tasks, "status"), ["completed", "completed"]);
    assert_eq!(names(tasks, "assignee"), ["sso_agent", "scim_agent"]);

    let types = ["approval", "phase_transition", "task_completion"];
    let filter = types.iter().fold(String::new(), |filter, kind| filter + "&types=" + kind);
    let path = format!("{base}/audit?limit=100{filter}");
    let log = page
        .get_until(&path, |log| {
            let kinds = names(&log["entries"], "type");
            types.iter().all(|kind| kinds.iter().any(|found| found == kind))
        })
        .await?;
    let entries = log["entries"].as_array().context("entries")?;
    for entry in entries {
        assert!(types.contains(&entry["type"].as_str().unwrap_or_default()), "{entry}");
        assert!(is_time(&entry["timestamp"]), "{entry}");
        assert!(entry["actor"].is_object() && entry["details"].is_object(), "{entry}");
        assert!(entry["action"].as_str().is_some_and(|action| !action.is_empty()), "{entry}");
    }
    let first = page.get(&format!("{base}/audit?limit=1{filter}")).await?;
    assert_eq!(first["entries"].as_array().map(Vec::len), Some(1));
    assert_eq!(first["entries"][0], entries[0]);
    let refused = page.rest.get(&format!("{base}/audit?types=gossip")).await?;
    assert_eq!(refused.0, 400, "{}", refused.1);
    Ok(())
}

/// The published description has all of this.
async fn description(page: &Page) -> anyhow::Result<()> {
    let document = page.get("/openapi.json").await?;
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")));
    for (method, path) in [
        ("get", "/api/processes"),
        ("get", "/api/processes/{processId}"),
        ("post", "/api/processes/{processId}/instances"),
        ("get", "/api/processes/instances/{instanceId}"),
        ("post", "/api/processes/instances/{instanceId}/phase"),
        ("get", "/api/processes/instances/{instanceId}/approvals"),
        ("get", "/api/processes/instances/{instanceId}/artifacts"),
        ("post", "/api/processes/instances/{instanceId}/artifacts"),
        ("get", "/api/team-templates"),
        ("get", "/api/team-templates/{teamTemplateId}"),
        ("post", "/api/team-templates/{teamTemplateId}/instantiate"),
    ] {
        assert!(document["paths"][path][method].is_object(), "{method} {path} is not described");
    }
    Ok(())
}

async fn answers_as_the_page_says(storage: Storage) -> anyhow::Result<()> {
    let page = Page::open(storage).await?;
    description(&page).await?;
    processes(&page).await?;
    team_templates(&page).await?;
    status_and_advance(&page).await?;
    link(&page).await?;
    let instance = page.start("it-admin@acme.com").await?;
    artifacts(&page, &instance).await?;
    assert_eq!(page.performs(&instance, "sso-specialist").await?, "requirements_gathering");
    assert_eq!(page.performs(&instance, "scim-specialist").await?, "scim_planning");
    approval(&page, &instance).await?;
    record(&page, &instance).await
}

#[tokio::test]
async fn every_call_of_the_page_is_answered_with_sqlite() -> anyhow::Result<()> {
    answers_as_the_page_says(Storage::Sqlite).await
}

#[tokio::test]
async fn every_call_of_the_page_is_answered_with_postgresql() -> anyhow::Result<()> {
    answers_as_the_page_says(Storage::Postgres(phasegate_test_database::postgres_url().await?)).await
}

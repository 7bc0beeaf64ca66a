//! Where the story plays: a server, its definition, its team, its instance.

use std::time::Duration;

use anyhow::{Context as _, bail};
use phasegate_client::{Client, Connection, Credential};
use phasegate_proto::instance::v1::ProcessInstance;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tonic::transport::Endpoint;

use super::patience::{fetch, request_id};
use super::story::Story;

/// The definition and the team template, as their authors wrote them.
const PROCESS: &str = include_str!("process.json");
const TEAM_TEMPLATE: &str = include_str!("team-template.json");

/// A server, over both of its faces.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// Base of every URL, without a slash at its end.
    pub(super) address: String,
    /// The same, of the mail catcher.
    pub(super) mail: String,
    /// For gRPC.
    pub(super) channel: Connection,
    /// For REST.
    pub(super) http: reqwest::Client,
}

impl Setting {
    /// Connects.
    pub(super) async fn new(address: &str, mail: &str, credential: Credential) -> anyhow::Result<Self> {
        let address = address.trim_end_matches('/').to_owned();
        let channel = Endpoint::from_shared(address.clone())
            .with_context(|| format!("{address} is no address; try http://127.0.0.1:7460"))?
            .connect_timeout(Duration::from_secs(5))
            .connect()
            .await
            .with_context(|| format!("nobody answers at {address}; start a server with: phasegate dev"))?;
        let mut headers = HeaderMap::new();
        if let Some(header) = credential.header() {
            let mut value = HeaderValue::from_str(header)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http =
            reqwest::Client::builder().timeout(Duration::from_secs(15)).default_headers(headers).build()?;
        let channel = Client::over(channel).with_credential(credential).connection();
        Ok(Self { address, mail: mail.trim_end_matches('/').to_owned(), channel, http })
    }

    /// Stores definition and template, makes the team, starts the instance.
    pub(super) async fn prepare(&self, story: &Story) -> anyhow::Result<ProcessInstance> {
        let process: Value = serde_json::from_str(PROCESS)?;
        let stored = self.post("/api/processes", &process).await?;
        story.scene(
            "definition.stored",
            &format!("The definition {} {} is stored.", text(&stored, "id"), text(&stored, "version")),
        )?;
        let template: Value = serde_json::from_str(TEAM_TEMPLATE)?;
        let stored = self.post("/api/team-templates", &template).await?;
        let template_id = text(&stored, "id");
        let onboarding = json!({
            "onboarding": { "customerName": "Acme Corporation", "customerDomain": "acme.com", "idpType": "okta" },
            "requestId": request_id(),
        });
        let team = self.post(&format!("/api/team-templates/{template_id}/instantiate"), &onboarding).await?;
        story.scene(
            "team.made",
            &format!("The team {} is made from the template {template_id}.", text(&team, "id")),
        )?;
        let start = json!({
            "name": "Acme Corp SSO Deployment",
            "context": {
                "customerName": "Acme Corporation",
                "customerDomain": "acme.com",
                "idpType": "okta",
                "userCount": 5000,
            },
            "externalParticipants": [
                { "participantId": "customer_it_admin", "email": "it-admin@acme.com", "name": "John Smith" },
                { "participantId": "customer_ciso", "email": "ciso@acme.com", "name": "Jane Doe" },
            ],
            "teamId": text(&team, "id"),
            "requestId": request_id(),
        });
        let path = format!("/api/processes/{}/instances", text(&process, "id"));
        let instance = self.post(&path, &start).await?;
        phasegate_proto_json::from_json(&instance, "phasegate.instance.v1.ProcessInstance")
            .map_err(|faults| anyhow::anyhow!("the server's instance cannot be read: {faults:?}"))
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let answered = fetch(self.http.post(format!("{}{path}", self.address)).json(body)).await?;
        let answer: Value =
            serde_json::from_str(&answered.text).with_context(|| format!("POST {path} answered no JSON"))?;
        if !answered.status.is_success() {
            bail!("POST {path} answered {}: {answer}", answered.status);
        }
        Ok(answer)
    }
}

/// A text field of an answer; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

//! How the clients show who they are: with keys of a tenant of theirs, one for operators, one for agents, and one for each
//! person who decides.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use phasegate_load::machine::Machine;
use phasegate_load::process::QUEUES;
use phasegate_load::run::Keys;
use serde_json::{Value, json};

use crate::contest;

/// People of the definitions.
const PEOPLE: [&str; 2] = ["reviewer", "owner"];

/// The keys of the clients, made with the first one of a new tenant.
pub(crate) async fn keys(machine: &Machine) -> anyhow::Result<Keys> {
    let said = machine.admin(&["tenant", "create", "faults"]).await?;
    let operator = said.lines().last().context("a key")?.trim().to_owned();
    let gateway = machine.copies.iter().find(|copy| copy.service == "gateway").context("a gateway")?;
    let address = format!("http://127.0.0.1:{}/api/keys", gateway.port);
    let queues: Vec<&str> = QUEUES.into_iter().chain([contest::QUEUE]).collect();
    let scopes = ["workers:poll", "tasks:read", "artifacts:read", "artifacts:write", "approvals:request"];
    let agent = json!({ "name": "agents", "scopes": scopes, "queues": queues });
    let agent = make(&address, &operator, &agent).await?;
    let mut people = BTreeMap::new();
    for person in PEOPLE {
        let scopes = ["approvals:read", "approvals:decide"];
        let key = json!({ "name": person, "scopes": scopes, "participantId": person });
        people.insert(person.to_owned(), make(&address, &operator, &key).await?);
    }
    Ok(Keys { operator, agent, people })
}

async fn make(address: &str, operator: &str, key: &Value) -> anyhow::Result<String> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let answer = http.post(address).bearer_auth(operator).json(key).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(status.is_success(), "a key was answered with {status}: {text}");
    let answer: Value = serde_json::from_str(&text)?;
    answer["secret"].as_str().map(str::to_owned).context("a secret")
}

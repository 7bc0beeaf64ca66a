//! Secrets and words that must not be found where nobody looks after them: a link, a session, a key, what people wrote and
//! their addresses. They are used as people use them, and then looked for everywhere.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::Seen;

/// The address of a person.
pub(crate) const ADDRESS: &str = "canary.person@example.org";
/// What a person's mailbox is called in the demo.
const DEMO_ADDRESS: &str = "it-admin@acme.com";
/// What is written.
const WORDS: &str = "canary-words-e3b0c442";
/// A key that nobody made.
const KEY: &str = "phasegate_sk_canary00canary00canary00canary00canary00canary0";
/// What stands in the address of a call.
const QUERY: &str = "canary-query-98fc1c14";
/// What the demo's person wrote in the portal.
const COMMENT: &str = "our directory groups depend on it";

/// What was used.
pub(crate) struct Planted {
    /// The token of a link, whole and its last part.
    tokens: Vec<String>,
    session: String,
}

/// Uses all of it.
pub(crate) async fn plant(address: &str, instance: &str) -> anyhow::Result<Planted> {
    let browser = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(15))
        .build()?;
    let mails: Value = serde_json::from_str(
        &browser.get(format!("{address}/dev/mail/messages")).send().await?.text().await?,
    )?;
    let mails =
        mails.as_array().cloned().or_else(|| mails["messages"].as_array().cloned()).context("mails")?;
    let to_person =
        mails.iter().find(|mail| mail["to"].to_string().contains(DEMO_ADDRESS)).context("a mail")?;
    let link = to_person["link"].as_str().context("a link")?;
    let (_, token) = link.split_once("token=").context("a token")?;

    let opened = browser.get(link).send().await?;
    ensure!(opened.status().is_redirection(), "the link answers {}", opened.status());
    let cookie = opened.headers().get("set-cookie").context("a session")?.to_str()?.to_owned();
    let cookie = cookie.split(';').next().context("a cookie")?.to_owned();
    let (_, session) = cookie.split_once('=').context("a session")?;
    let home = opened.headers().get("location").context("a page")?.to_str()?.to_owned();
    let page = browser.get(format!("{address}{home}")).header("cookie", &cookie).send().await?;
    ensure!(page.status().is_success(), "the page answers {}", page.status());
    // A link that nobody signed.
    let forged = browser.get(format!("{address}/external/approve?token={token}x")).send().await?;
    ensure!(!forged.status().is_success() && !forged.status().is_redirection());

    let base = format!("{address}/api/processes/instances/{instance}");
    let request = browser.get(&base).bearer_auth(KEY).send().await?;
    ensure!(request.status() == 401, "a key that nobody made is refused: {}", request.status());
    let request = browser.get(format!("{base}/audit?pageToken={QUERY}")).send().await?;
    ensure!(request.status().is_client_error());
    let start = serde_json::json!({
        "processId": "enterprise_sso_deployment", "name": WORDS, "context": { "customerName": WORDS },
        "externalParticipants": [{ "participantId": "nobody", "email": ADDRESS, "name": WORDS }],
    });
    let start =
        browser.post(format!("{address}/api/processes/enterprise_sso_deployment/instances")).json(&start);
    ensure!(start.send().await?.status().is_client_error(), "nobody is called nobody");
    let comment = serde_json::json!({ "text": WORDS });
    browser.post(format!("{base}/comments")).json(&comment).send().await?;

    let mut tokens = vec![token.to_owned()];
    tokens.extend(token.rsplit('.').next().map(str::to_owned));
    Ok(Planted { tokens, session: session.to_owned() })
}

pub(crate) fn look(seen: &Seen) -> anyhow::Result<()> {
    let Planted { tokens, session } = &seen.canaries;
    let secrets: Vec<&str> = tokens
        .iter()
        .map(String::as_str)
        .chain([session.as_str(), KEY, &KEY["phasegate_sk_".len()..]])
        .collect();
    let told = [("log", &seen.log), ("metrics", &seen.metrics), ("traces", &seen.collector.text())];
    for secret in &secrets {
        ensure!(secret.len() >= 20, "{secret} is found by chance");
        ensure!(!holds(&seen.data, secret.as_bytes()), "the secret {secret} is in a database");
    }
    for (place, text) in told {
        for canary in
            secrets.iter().copied().chain([ADDRESS, DEMO_ADDRESS, "ciso@acme.com", WORDS, QUERY, COMMENT])
        {
            let line = text.lines().find(|line| line.contains(canary));
            ensure!(line.is_none(), "{canary} is in the {place}: {line:?}");
        }
    }
    // What is looked for would be found: people's addresses are kept, where they belong.
    ensure!(holds(&seen.data, DEMO_ADDRESS.as_bytes()));
    Ok(())
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

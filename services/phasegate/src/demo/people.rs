//! The people of the story: they have a mailbox and a browser, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use phasegate_proto::instance::v1::ProcessInstance;
use phasegate_proto::participant::v1::ListLinksRequest;
use phasegate_proto::participant::v1::link_service_client::LinkServiceClient;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::form::{between, forms, heading, links};
use super::patience::{call, fetch};
use super::setting::{Setting, text};
use super::story::Story;

/// What a page is called that was confirmed before.
const OUT_OF_DATE: &str = "That page was out of date";
/// How often a person looks into the mailbox.
const LOOK: Duration = Duration::from_millis(150);

/// One person.
struct Person {
    name: &'static str,
    mailbox: &'static str,
    /// The title of the request that the person sends back once, and why.
    objection: Option<(&'static str, &'static str)>,
    setting: Setting,
    story: Story,
    instance_id: String,
    /// A browser with a cookie jar of its own.
    browser: reqwest::Client,
    /// Mails that have been read.
    read: BTreeSet<String>,
    /// Tells once the objection was sent.
    objected: Option<watch::Sender<bool>>,
}

/// Sends the people on stage.
pub(super) fn enter(
    actors: &mut JoinSet<anyhow::Result<()>>,
    setting: &Setting,
    instance: &ProcessInstance,
    curtain: &CancellationToken,
    story: &Story,
    reworked: watch::Sender<bool>,
) {
    let objection = (
        "SSO Configuration Review",
        "Please add the department attribute; our directory groups depend on it.",
    );
    let mut people = vec![
        ("John Smith", "it-admin@acme.com", Some(objection), Some(reworked)),
        ("Jane Doe", "ciso@acme.com", None, None),
    ];
    for (name, mailbox, objection, objected) in people.drain(..) {
        let (setting, story, instance_id) = (setting.clone(), story.clone(), instance.id.clone());
        let curtain = curtain.clone();
        actors.spawn(async move {
            let browser =
                reqwest::Client::builder().cookie_store(true).timeout(Duration::from_secs(15)).build()?;
            let read = BTreeSet::new();
            let person =
                Person { name, mailbox, objection, setting, story, instance_id, browser, read, objected };
            curtain.run_until_cancelled(person.live()).await.unwrap_or(Ok(()))
        });
    }
}

impl Person {
    async fn live(mut self) -> anyhow::Result<()> {
        loop {
            for url in self.new_links().await? {
                self.visit(&url).await?;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Links in mails that have come for this person, oldest first.
    async fn new_links(&mut self) -> anyhow::Result<Vec<String>> {
        let url = format!("{}/dev/mail/messages", self.setting.mail);
        let answer = fetch(self.browser.get(&url)).await?;
        ensure!(
            answer.status.is_success(),
            "there are no mailboxes at {url}; `phasegate dev` has some, and for other servers --mail says where they are"
        );
        let mails: Vec<Value> = serde_json::from_str(&answer.text)?;
        let mut links = Vec::new();
        for mail in &mails {
            let mine = mail.get("to").is_some_and(|to| to.to_string().contains(self.mailbox));
            if mine && !text(mail, "link").is_empty() && self.read.insert(text(mail, "id").to_owned()) {
                links.push(text(mail, "link").to_owned());
            }
        }
        Ok(links)
    }

    /// Opens a link, and answers what is asked there.
    async fn visit(&mut self, url: &str) -> anyhow::Result<()> {
        let answer = fetch(self.browser.get(url)).await?;
        let home = answer.url;
        let link_id = home.path().rsplit('/').next().unwrap_or_default().to_owned();
        if !answer.status.is_success() || !self.is_ours(&link_id).await? {
            // A mail of another instance, or a link that has ended.
            return Ok(());
        }
        let mut page = answer.text;
        loop {
            let waiting = between(&page, "id=\"pending\"", "id=\"progress\"");
            let Some(request) = links(waiting).into_iter().find(|link| link.contains("/approvals/")) else {
                return Ok(());
            };
            self.answer(&request).await?;
            page = fetch(self.browser.get(home.clone())).await?.text;
        }
    }

    async fn is_ours(&self, link_id: &str) -> anyhow::Result<bool> {
        let client = LinkServiceClient::new(self.setting.channel.clone());
        let request = ListLinksRequest {
            instance_id: self.instance_id.clone(),
            page_size: 500,
            ..ListLinksRequest::default()
        };
        let listed =
            call(&client, request, |mut client, request| async move { client.list_links(request).await });
        Ok(listed.await?.links.iter().any(|link| link.id == link_id))
    }

    /// Looks at a request, chooses, and confirms.
    async fn answer(&mut self, path: &str) -> anyhow::Result<()> {
        let review = fetch(self.browser.get(format!("{}{path}", self.setting.address))).await?.text;
        let title = heading(&review);
        let Some(form) = forms(&review).into_iter().find(|form| form.action.ends_with("/review")) else {
            // Answered or taken back since the list was made.
            return Ok(());
        };
        let objects = self.objection.filter(|(about, _)| *about == title);
        let (decision, comment) = objects.map_or(("approve", ""), |(_, why)| ("request_changes", why));
        let mut fields = form.hidden;
        fields.push(("decision".to_owned(), decision.to_owned()));
        fields.push(("comment".to_owned(), comment.to_owned()));
        let confirm = self.post(&form.action, &fields).await?;
        let form = forms(&confirm).into_iter().find(|form| form.action.ends_with("/confirm"));
        let form =
            form.with_context(|| format!("the page does not ask for confirmation: {}", heading(&confirm)))?;
        let receipt = self.post(&form.action, &form.hidden).await?;
        let receipt = if heading(&receipt) == OUT_OF_DATE {
            // The form was sent again, because the answer to the first was lost on its way.
            fetch(self.browser.get(format!("{}{path}/receipt", self.setting.address))).await?.text
        } else {
            receipt
        };
        if heading(&receipt) == title {
            // The server ended between taking the form and recording the answer. The request still waits, and is answered
            // from its beginning.
            return Ok(());
        }
        if !receipt.contains("class=\"receipt\"") {
            bail!("{} got no receipt for {title}: {}", self.name, heading(&receipt));
        }
        if objects.is_some() {
            self.objection = None;
            self.story.person(
                "person.requested_changes",
                self.name,
                &format!("asks for changes to “{title}”: {comment}"),
            )?;
            if let Some(objected) = self.objected.take() {
                objected.send_replace(true);
            }
        } else {
            self.story.person("person.approved", self.name, &format!("approves “{title}”"))?;
        }
        Ok(())
    }

    async fn post(&self, action: &str, fields: &[(String, String)]) -> anyhow::Result<String> {
        let url = format!("{}{action}", self.setting.address);
        Ok(fetch(self.browser.post(url).form(fields)).await?.text)
    }
}

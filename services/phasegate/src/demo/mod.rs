//! `phasegate demo`: a customer's SSO deployment from definition to completion. Real agents over the worker protocol, one
//! of them failing once; real decisions through the portal's own pages, by people who have nothing but their mail; one
//! request for changes, and the rework that follows. Ends with the timeline and the verified audit log.

mod agents;
mod chart;
mod form;
mod patience;
mod people;
mod setting;
mod story;

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use phasegate_client::{Connection, Credential};
use phasegate_clock::SystemClock;
use phasegate_proto::approval::v1::ListApprovalsRequest;
use phasegate_proto::approval::v1::approval_service_client::ApprovalServiceClient;
use phasegate_proto::instance::v1::event_service_client::EventServiceClient;
use phasegate_proto::instance::v1::instance_service_client::InstanceServiceClient;
use phasegate_proto::instance::v1::{
    AuditEntry, GetInstanceRequest, GetTimelineRequest, InstanceStatus, ListAuditEntriesRequest,
    PhaseTimeline, ProcessInstance, VerifyAuditChainRequest, VerifyAuditChainResponse, WatchEventsRequest,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::dev::{Dev, Settings as DevSettings};
use patience::{call, is_away, pause};
use setting::Setting;
pub use story::{Story, Style};

/// Longest time that the story may take.
const DEADLINE: Duration = Duration::from_mins(2);

/// How to play it.
#[derive(Debug, Clone)]
pub struct Options {
    /// A server that runs; one of our own in a temporary folder when absent.
    pub address: Option<String>,
    /// What to call it with.
    pub credential: Credential,
    /// Where the mailboxes of that server are; at its own address when absent.
    pub mail: Option<String>,
    /// How to tell it.
    pub style: Style,
}

/// What is left when the curtain falls.
struct Ending {
    instance: ProcessInstance,
    phases: Vec<PhaseTimeline>,
    approvals: usize,
    entries: Vec<AuditEntry>,
    proof: VerifyAuditChainResponse,
}

/// Plays it. Fails unless the process completed and its audit log is intact.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let story = Story::new(options.style);
    if let Some(address) = options.address {
        let mail = options.mail.unwrap_or_else(|| address.clone());
        return play(&address, &mail, options.credential, &story).await;
    }
    let folder = tempfile::tempdir().context("a temporary folder for the demo cannot be made")?;
    let shutdown = CancellationToken::new();
    let settings = DevSettings {
        folder: folder.path().to_owned(),
        port: 0,
        database_url: None,
        public_url: None,
        clock: SystemClock::shared(),
    };
    let dev = Dev::start(settings, shutdown.clone()).await?;
    let address = format!("http://{}", dev.address());
    story.note(&format!("A Phasegate of its own runs at {address} for this demo."))?;
    let played = play(&address, &address, Credential::default(), &story).await;
    shutdown.cancel();
    let stopped = dev.finished().await;
    played.and(stopped)
}

async fn play(address: &str, mail: &str, credential: Credential, story: &Story) -> anyhow::Result<()> {
    let setting = Setting::new(address, mail, credential).await?;
    let instance = setting.prepare(story).await?;
    let curtain = CancellationToken::new();
    // Whatever ends first, the others are told.
    let _falls = curtain.clone().drop_guard();
    let (reworked, is_reworked) = tokio::sync::watch::channel(false);
    let mut actors = tokio::task::JoinSet::new();
    agents::enter(&mut actors, &setting, &instance, &curtain, is_reworked);
    people::enter(&mut actors, &setting, &instance, &curtain, story, reworked);
    let watched = tokio::time::timeout(DEADLINE, async {
        tokio::select! {
            watched = watch(&setting, &instance, story) => watched,
            failed = first_failure(&mut actors) => Err(failed),
        }
    });
    watched.await.with_context(|| format!("the demo was not over after {} s", DEADLINE.as_secs()))??;
    let ending = ending(&setting, &instance.id).await?;
    tell(&ending, story)
}

/// The error of the first actor that gives up; never returns otherwise.
async fn first_failure(actors: &mut tokio::task::JoinSet<anyhow::Result<()>>) -> anyhow::Error {
    while let Some(left) = actors.join_next().await {
        match left {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(panic) => return panic.into(),
        }
    }
    std::future::pending().await
}

/// Tells every event of the instance as it happens, until its last.
async fn watch(setting: &Setting, instance: &ProcessInstance, story: &Story) -> anyhow::Result<()> {
    let mut client = EventServiceClient::new(setting.channel.clone());
    let instances = InstanceServiceClient::new(setting.channel.clone());
    let mut resume_token = "0".to_owned();
    loop {
        let request = WatchEventsRequest {
            instance_id: instance.id.clone(),
            resume_token: resume_token.clone(),
            until_terminal: true,
            ..WatchEventsRequest::default()
        };
        match listen(&mut client, request, story, &mut resume_token).await {
            Ok(()) => {}
            Err(Broken::Away) => pause().await,
            Err(Broken::Final(error)) => return Err(error),
        }
        let request = GetInstanceRequest { instance_id: instance.id.clone() };
        let answer =
            call(
                &instances,
                request,
                |mut client, request| async move { client.get_instance(request).await },
            );
        let status = answer.await?.instance.unwrap_or_default().status();
        if !matches!(status, InstanceStatus::Running | InstanceStatus::Paused) {
            return Ok(());
        }
    }
}

/// Why a watch ended early.
enum Broken {
    /// Whoever sent it has gone; somebody else goes on where it stopped.
    Away,
    /// It cannot be taken up again.
    Final(anyhow::Error),
}

impl From<tonic::Status> for Broken {
    fn from(status: tonic::Status) -> Self {
        if is_away(&status) { Broken::Away } else { Broken::Final(status.into()) }
    }
}

/// Tells one watch to its end.
async fn listen(
    client: &mut EventServiceClient<Connection>,
    request: WatchEventsRequest,
    story: &Story,
    resume_token: &mut String,
) -> Result<(), Broken> {
    let mut stream = client.watch_events(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        for event in &message.events {
            story.event(event).map_err(Broken::Final)?;
        }
        *resume_token = message.resume_token;
    }
    Ok(())
}

async fn ending(setting: &Setting, instance_id: &str) -> anyhow::Result<Ending> {
    let instances = InstanceServiceClient::new(setting.channel.clone());
    let request = GetInstanceRequest { instance_id: instance_id.to_owned() };
    let answer =
        call(&instances, request, |mut client, request| async move { client.get_instance(request).await });
    let instance = answer.await?.instance.unwrap_or_default();
    let request = GetTimelineRequest { instance_id: instance_id.to_owned() };
    let answer =
        call(&instances, request, |mut client, request| async move { client.get_timeline(request).await });
    let phases = answer.await?.phases;
    let request = ListApprovalsRequest {
        instance_id: instance_id.to_owned(),
        all: true,
        page_size: 500,
        ..ListApprovalsRequest::default()
    };
    let approvals = ApprovalServiceClient::new(setting.channel.clone());
    let answer =
        call(&approvals, request, |mut client, request| async move { client.list_approvals(request).await });
    let approvals = answer.await?.approvals.len();
    let events = EventServiceClient::new(setting.channel.clone());
    let mut entries = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListAuditEntriesRequest {
            instance_id: instance_id.to_owned(),
            page_size: 500,
            page_token,
            ..ListAuditEntriesRequest::default()
        };
        let page =
            call(
                &events,
                request,
                |mut client, request| async move { client.list_audit_entries(request).await },
            );
        let page = page.await?;
        entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let request = VerifyAuditChainRequest { instance_id: instance_id.to_owned() };
    let proof =
        call(&events, request, |mut client, request| async move { client.verify_audit_chain(request).await });
    let proof = proof.await?;
    Ok(Ending { instance, phases, approvals, entries, proof })
}

fn tell(ending: &Ending, story: &Story) -> anyhow::Result<()> {
    let Ending { instance, phases, approvals, entries, proof } = ending;
    story.heading("Timeline")?;
    for line in chart::bars(phases, story::WIDTH) {
        story.plain(&line)?;
    }
    story.heading("Audit log")?;
    for entry in entries {
        story.plain(&chart::entry(entry))?;
    }
    let chain = if proof.intact { "intact" } else { "BROKEN" };
    story
        .note(&format!("{} entries, the chain is {chain}, its head is {}", proof.entries, proof.head_hash))?;
    let status = word(instance.status());
    let tasks: usize = phases.iter().map(|phase| phase.tasks.len()).sum();
    story.last(&json!({
        "type": "demo.completed",
        "instanceId": instance.id,
        "status": status,
        "phases": phases.len(),
        "tasks": tasks,
        "approvals": approvals,
        "audit": { "entries": proof.entries, "intact": proof.intact },
    }))?;
    ensure!(proof.intact, "the audit log is not intact: {}", proof.message);
    if instance.status() != InstanceStatus::Completed {
        bail!("the process ended as {status}: {}", instance.status_reason);
    }
    story.done(&format!(
        "{} is complete: {} phases, {tasks} tasks, {approvals} requests decided, every step in the audit log.",
        instance.name,
        phases.len(),
    ))
}

fn word(status: InstanceStatus) -> &'static str {
    match status {
        InstanceStatus::Unspecified => "unspecified",
        InstanceStatus::Running => "running",
        InstanceStatus::Paused => "paused",
        InstanceStatus::Completed => "completed",
        InstanceStatus::Cancelled => "cancelled",
        InstanceStatus::Failed => "failed",
    }
}

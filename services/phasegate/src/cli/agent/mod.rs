//! `phasegate agent`: any program as an agent.
//!
//! The program is started anew for every task, gets the task as JSON on standard input, and answers with one JSON object on
//! standard output. What it writes to standard error is shown. While it works its lease is extended; when the lease is lost, or
//! the agent is stopped, it is killed.

mod attempt;
mod child;
mod report;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use phasegate_client::Client;
use phasegate_proto::worker::v1::{LeasedTask, PollTasksRequest, PollTasksResponse, WorkerInfo};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use super::failure::Failure;
use super::moment;
use super::output::clean;
use super::session::Session;
use attempt::Attempt;
use report::Ended;

/// How long one poll waits for work.
const POLL: Duration = Duration::from_secs(20);
/// Shortest wait for a server that is away.
const WAIT_MIN: Duration = Duration::from_millis(200);
/// Longest wait for a server that is away.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What can be done as an agent.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Do the tasks of a queue with a program
    #[command(
        before_help = "Examples:\n  phasegate agent run --queue sso-specialist -- ./agent.py\n  phasegate agent run --queue sso-specialist --once -- jq '{artifacts: {sso_requirements_doc: .context}}'",
        after_help = "The program gets the task as JSON on standard input. It answers with a JSON object on standard output, which becomes \
the output of the task; its \"summary\" is shown to approvers, and each of its \"artifacts\" ({key: content}) is stored first. An exit \
code other than 0 is a failed attempt, with the end of standard error as its message. PHASEGATE_ADDRESS, PHASEGATE_INSTANCE_ID, \
PHASEGATE_TASK_ID and PHASEGATE_TASK_TOKEN are set for it."
    )]
    Run(Run),
}

/// How to work.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Queue to take tasks from; may be repeated
    #[arg(long, required = true, value_name = "QUEUE")]
    queue: Vec<String>,
    /// Tasks of this instance only
    #[arg(long, default_value = "", hide_default_value = true, value_name = "INSTANCE")]
    instance: String,
    /// Tasks at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100), value_name = "N")]
    concurrency: u16,
    /// Do one task, and end
    #[arg(long)]
    once: bool,
    /// Length of a lease; it is extended while the program works
    #[arg(long, default_value = "60s", value_parser = moment::duration, value_name = "DURATION")]
    lease: Duration,
    /// Only tasks whose tools are among these; may be repeated
    #[arg(long, value_name = "TOOL")]
    tool: Vec<String>,
    /// Name of this worker for people
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Does it.
pub(super) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Failure> {
    let Verb::Run(run) = verb;
    let stop = CancellationToken::new();
    let (said, mut heard) = mpsc::unbounded_channel();
    let worker = Arc::new(Worker {
        client: session.client.clone(),
        address: session.global.server().to_owned(),
        id: phasegate_client::request_id(),
        run,
        stop: stop.clone(),
        said,
    });
    let timeout = session.global.timeout;
    let mut working = tokio::spawn(Arc::clone(&worker).work());
    drop(worker);
    let signalled = signalled();
    tokio::pin!(signalled);
    let deadline = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(deadline);
    let mut stopped_by = None;
    let outcome = loop {
        tokio::select! {
            line = heard.recv() => if let Some(line) = line { session.output.note(&clean(&line)) },
            done = &mut working => break done,
            () = &mut signalled, if stopped_by.is_none() => {
                stopped_by = Some(Failure::Interrupted);
                stop.cancel();
                session.output.note("Giving back what is under way; Ctrl-C again ends at once.");
            }
            () = &mut deadline, if stopped_by.is_none() => {
                stopped_by = Some(Failure::Pending("the time ran out".to_owned()));
                stop.cancel();
            }
            // The second time: leases run out by themselves.
            () = super::interrupted(), if stopped_by.is_some() => return Err(Failure::Interrupted),
        }
    };
    while let Ok(line) = heard.try_recv() {
        session.output.note(&clean(&line));
    }
    let outcome = outcome.map_err(|error| Failure::local("work", &error))?;
    match (outcome, stopped_by) {
        (Err(failure), _) => Err(failure),
        (Ok(done), Some(Failure::Pending(why))) if done.tasks > 0 || !done.once => {
            session.output.note(&format!("{why}; {} done", done.tasks));
            Ok(())
        }
        (Ok(_), Some(stopped)) => Err(stopped),
        (Ok(done), None) => done.last.map_or(Ok(()), Ended::verdict),
    }
}

/// Ctrl-C, or the polite way in which systems end a process.
async fn signalled() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = super::interrupted() => {}
        () = terminated => {}
    }
}

/// One running `agent run`.
struct Worker {
    client: Client,
    address: String,
    id: String,
    run: Run,
    stop: CancellationToken,
    /// Lines for standard error.
    said: mpsc::UnboundedSender<String>,
}

/// A poll under way.
type Polling = Pin<Box<dyn Future<Output = Result<PollTasksResponse, phasegate_client::Error>> + Send>>;

/// The answer of a poll; nothing comes where there is none.
async fn next(polling: &mut Option<Polling>) -> Result<PollTasksResponse, phasegate_client::Error> {
    match polling {
        Some(polling) => polling.await,
        None => std::future::pending().await,
    }
}

/// What was done.
struct Done {
    tasks: usize,
    once: bool,
    last: Option<Ended>,
}

impl Worker {
    /// Takes tasks and does them until it is stopped.
    async fn work(self: Arc<Self>) -> Result<Done, Failure> {
        let mut done = Done { tasks: 0, once: self.run.once, last: None };
        let mut under_way: JoinSet<Result<Ended, Failure>> = JoinSet::new();
        let room = if self.run.once { 1 } else { usize::from(self.run.concurrency) };
        // Kept over the end of a task: whoever drops a poll may drop the task that it was just answered with.
        let mut polling: Option<Polling> = None;
        let mut wait = WAIT_MIN;
        self.say(format!("Waiting for work on {}; Ctrl-C ends it.", self.run.queue.join(", ")));
        while !self.stop.is_cancelled() {
            let free = room.saturating_sub(under_way.len());
            if polling.is_none() && free > 0 {
                polling = Some(Box::pin(Arc::clone(&self).poll(free)));
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                Some(finished) = under_way.join_next() => {
                    self.finish(finished, &mut done)?;
                    if self.run.once {
                        return Ok(done);
                    }
                }
                polled = next(&mut polling) => {
                    polling = None;
                    let (tasks, pause) = self.polled(polled, &mut wait)?;
                    for task in tasks {
                        under_way.spawn(self.attempt(task).make());
                    }
                    self.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                }
            }
        }
        while let Some(finished) = under_way.join_next().await {
            self.finish(finished, &mut done)?;
        }
        Ok(done)
    }

    /// Reads the answer of a poll: tasks, and how long to wait before the next one.
    fn polled(
        &self,
        polled: Result<PollTasksResponse, phasegate_client::Error>,
        wait: &mut Duration,
    ) -> Result<(Vec<LeasedTask>, Duration), Failure> {
        match polled {
            Ok(answer) => {
                *wait = WAIT_MIN;
                Ok((answer.tasks, if answer.draining { WAIT_MIN } else { Duration::ZERO }))
            }
            Err(error) if matches!(error.code, Code::Unavailable | Code::DeadlineExceeded) => {
                self.say(format!("The server is away, trying again: {error}"));
                let pause = *wait;
                *wait = (pause * 2).min(WAIT_MAX);
                Ok((Vec::new(), pause))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn finish(
        &self,
        finished: Result<Result<Ended, Failure>, tokio::task::JoinError>,
        done: &mut Done,
    ) -> Result<(), Failure> {
        let ended = finished.map_err(|error| Failure::local("work", &error))??;
        self.say(ended.to_string());
        done.tasks += 1;
        done.last = Some(ended);
        Ok(())
    }

    async fn poll(self: Arc<Self>, room: usize) -> Result<PollTasksResponse, phasegate_client::Error> {
        let program = self.run.command.first().map(String::as_str).unwrap_or_default();
        let identity = if self.run.name.is_empty() {
            format!("{program} ({})", std::process::id())
        } else {
            self.run.name.clone()
        };
        let mut request = Request::new(PollTasksRequest {
            worker: Some(WorkerInfo { worker_id: self.id.clone(), identity, tools: self.run.tool.clone() }),
            queues: self.run.queue.clone(),
            max_tasks: i32::try_from(room.max(1)).unwrap_or(1),
            wait: prost_types::Duration::try_from(POLL).ok(),
            lease_duration: prost_types::Duration::try_from(self.run.lease).ok(),
            instance_id: self.run.instance.clone(),
        });
        request.set_timeout(POLL + Duration::from_secs(10));
        Ok(self.client.workers().poll_tasks(request).await?.into_inner())
    }

    fn attempt(&self, task: LeasedTask) -> Attempt {
        self.say(format!(
            "{}: {} of {}, attempt {} of {}, round {}",
            task.task_id, task.name, task.instance_name, task.attempt, task.max_attempts, task.round
        ));
        Attempt {
            client: self.client.clone(),
            address: self.address.clone(),
            command: self.run.command.clone(),
            lease: self.run.lease,
            stop: self.stop.clone(),
            said: self.said.clone(),
            task,
        }
    }

    fn say(&self, line: String) {
        // Nobody listens any more only when the command has ended.
        let _ = self.said.send(line);
    }
}

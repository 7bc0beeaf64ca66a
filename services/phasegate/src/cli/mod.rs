//! The command line: `phasegate <noun> <verb>`, against a running server.
//!
//! Data goes to standard output, everything else to standard error; tables are for people, `-o json` and `-o jsonl` for programs.
//! Errors say what to do next, and the exit code says what kind of failure it was (see [`failure`]). One file for each noun.

mod agent;
mod approval;
mod artifact;
mod audit;
mod failure;
mod input;
mod instance;
mod key;
mod link;
mod moment;
mod output;
mod process;
mod session;
mod table;
mod task;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use phasegate_client::Credential;

use failure::Failure;
use output::Output;
use session::Session;

/// What to do, against a running server.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Process definitions.
    #[command(visible_alias = "proc", subcommand_required = true)]
    Process(Noun<process::Verb>),
    /// Running processes.
    #[command(visible_alias = "inst", subcommand_required = true)]
    Instance(Noun<instance::Verb>),
    /// Tasks of an instance.
    #[command(subcommand_required = true)]
    Task(Noun<task::Verb>),
    /// Requests for a decision.
    #[command(visible_alias = "apr", subcommand_required = true)]
    Approval(Noun<approval::Verb>),
    /// What agents and people of an instance share.
    #[command(visible_alias = "art", subcommand_required = true)]
    Artifact(Noun<artifact::Verb>),
    /// Magic links of external participants.
    #[command(subcommand_required = true)]
    Link(Noun<link::Verb>),
    /// The record of an instance.
    #[command(subcommand_required = true)]
    Audit(Noun<audit::Verb>),
    /// API keys.
    #[command(subcommand_required = true)]
    Key(Noun<key::Verb>),
    /// Programs that do tasks.
    #[command(subcommand_required = true)]
    Agent(Noun<agent::Verb>),
}

/// A noun: what concerns every call, and the verb.
#[derive(Clone, Debug, Args)]
pub struct Noun<V: Subcommand> {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: V,
}

/// Where a server is, unless something else is said.
const ADDRESS: &str = "http://127.0.0.1:7460";

/// What concerns every call. It may stand before the noun or behind it; what stands behind counts.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Options of every call")]
pub struct Global {
    /// Address of the server
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help = "Address of the server [env: PHASEGATE_ADDRESS] [default: http://127.0.0.1:7460]"
    )]
    address: Option<String>,
    /// Address of the server, where --address does not say it
    #[arg(long, global = true, env = "PHASEGATE_ADDRESS", hide = true, value_name = "URL")]
    default_address: Option<String>,
    /// File with the API key, or an access token, to call with
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help = "File with the API key to call with; or the key itself in PHASEGATE_KEY [env: PHASEGATE_KEY_FILE]"
    )]
    key_file: Option<PathBuf>,
    /// API key to call with; everybody on this machine sees what is written here, so better say --key-file
    // An id of its own: artifacts have keys, too.
    #[arg(id = "api_key", long = "key", global = true, value_name = "KEY")]
    key: Option<String>,
    /// API key, where neither --key nor --key-file says it
    #[arg(
        long,
        global = true,
        env = "PHASEGATE_KEY",
        hide = true,
        hide_env_values = true,
        value_name = "KEY"
    )]
    default_key: Option<String>,
    /// File with the API key, where nothing else says it
    #[arg(long, global = true, env = "PHASEGATE_KEY_FILE", hide = true, value_name = "FILE")]
    default_key_file: Option<PathBuf>,
    /// What to write: table for people, json (one document) or jsonl (one a line) for programs [default: table]
    #[arg(short, long, global = true, value_enum, hide_possible_values = true, value_name = "FORMAT")]
    output: Option<Format>,
    /// When to write in colour: auto, always or never [default: auto, which is on a terminal]
    #[arg(long, global = true, value_enum, hide_possible_values = true, value_name = "WHEN")]
    color: Option<Color>,
    /// Give up after this long, such as 30s or 5m
    #[arg(long, global = true, value_parser = moment::duration, value_name = "DURATION")]
    timeout: Option<Duration>,
    /// Do not ask before something that cannot be undone
    #[arg(short, long, global = true)]
    yes: bool,
    /// Say nothing that is not data or an error
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Turns colour off when it is set to anything; see no-color.org
    #[arg(long, global = true, env = "NO_COLOR", hide = true, value_name = "ANYTHING")]
    no_color: Option<String>,
    /// Width of the terminal
    #[arg(long, global = true, env = "COLUMNS", hide = true, default_value_t = 100)]
    columns: usize,
}

impl Global {
    /// The address that was given on the command line.
    pub fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// The flags that were given, for commands that call nobody and would not heed them.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        let flags = [
            (self.address.is_some(), "--address"),
            (self.key.is_some(), "--key"),
            (self.key_file.is_some(), "--key-file"),
            (self.output.is_some(), "--output"),
            (self.color.is_some(), "--color"),
            (self.timeout.is_some(), "--timeout"),
            (self.yes, "--yes"),
            (self.quiet, "--quiet"),
        ];
        flags.into_iter().filter_map(|(given, flag)| given.then_some(flag))
    }

    /// Fills in what was given before the noun.
    fn or(self, before: Global) -> Global {
        Global {
            address: self.address.or(before.address),
            default_address: self.default_address.or(before.default_address),
            key: self.key.or(before.key),
            key_file: self.key_file.or(before.key_file),
            default_key: self.default_key.or(before.default_key),
            default_key_file: self.default_key_file.or(before.default_key_file),
            output: self.output.or(before.output),
            color: self.color.or(before.color),
            timeout: self.timeout.or(before.timeout),
            yes: self.yes || before.yes,
            quiet: self.quiet || before.quiet,
            no_color: self.no_color.or(before.no_color),
            columns: self.columns,
        }
    }

    /// Where the server is.
    fn server(&self) -> &str {
        let given = self.address.as_deref().or(self.default_address.as_deref());
        given.filter(|address| !address.is_empty()).unwrap_or(ADDRESS)
    }

    /// What calls bring along to say who calls.
    pub fn credential(&self) -> Result<Credential, String> {
        let read = |file: &PathBuf| {
            std::fs::read_to_string(file)
                .map_err(|error| format!("{} cannot be read: {error}", file.display()))
        };
        let token = match (&self.key, &self.key_file, &self.default_key, &self.default_key_file) {
            (Some(_), Some(_), _, _) => return Err("--key and --key-file exclude each other".to_owned()),
            (Some(key), None, _, _) => key.clone(),
            (None, Some(file), _, _) => read(file)?,
            (None, None, Some(key), _) if !key.is_empty() => key.clone(),
            (None, None, _, Some(file)) => read(file)?,
            (None, None, _, None) => return Ok(Credential::default()),
        };
        Credential::new(token.trim()).map_err(|error| error.message.clone())
    }

    fn format(&self) -> Format {
        self.output.unwrap_or(Format::Table)
    }
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Jsonl,
}

/// When colour is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where the entries of a list begin and end.
#[derive(Clone, Debug, Args)]
pub struct Page {
    /// Entries at most, up to 500
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=500), value_name = "N")]
    limit: i32,
    /// From the end of the list before
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TOKEN")]
    page_token: String,
}

/// Does what was asked, and says how it went. `before` was given before the noun.
pub async fn run(command: Command, before: Global) -> ExitCode {
    let global = command.global().clone().or(before);
    let instance_id = command.instance_id().map(str::to_owned);
    let mut output = Output::open(&global);
    let outcome = perform(command, global, &mut output).await;
    let failure = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    output.failure(&failure, instance_id.as_deref());
    ExitCode::from(failure.exit_code())
}

async fn perform(command: Command, global: Global, output: &mut Output) -> Result<(), Failure> {
    let mut session = Session::open(global, output).await?;
    if let Command::Agent(noun) = command {
        // Stops by itself when it is told to, so that nothing it works on is left hanging.
        return agent::run(noun.verb, &mut session).await;
    }
    tokio::select! {
        outcome = Box::pin(dispatch(command, &mut session)) => outcome,
        () = interrupted() => Err(Failure::Interrupted),
    }
}

async fn dispatch(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Process(noun) => process::run(noun.verb, session).await,
        Command::Instance(noun) => instance::run(noun.verb, session).await,
        Command::Task(noun) => task::run(noun.verb, session).await,
        Command::Approval(noun) => approval::run(noun.verb, session).await,
        Command::Artifact(noun) => artifact::run(noun.verb, session).await,
        Command::Link(noun) => link::run(noun.verb, session).await,
        Command::Audit(noun) => audit::run(noun.verb, session).await,
        Command::Key(noun) => key::run(noun.verb, session).await,
        Command::Agent(noun) => agent::run(noun.verb, session).await,
    }
}

/// Returns once somebody presses Ctrl-C.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without signals the process ends at once, and nobody waits here.
        std::future::pending::<()>().await;
    }
}

impl Command {
    fn global(&self) -> &Global {
        match self {
            Command::Process(noun) => &noun.global,
            Command::Instance(noun) => &noun.global,
            Command::Task(noun) => &noun.global,
            Command::Approval(noun) => &noun.global,
            Command::Artifact(noun) => &noun.global,
            Command::Link(noun) => &noun.global,
            Command::Audit(noun) => &noun.global,
            Command::Key(noun) => &noun.global,
            Command::Agent(noun) => &noun.global,
        }
    }

    /// The instance that it is about, where it names one: hints repeat it.
    fn instance_id(&self) -> Option<&str> {
        match self {
            Command::Instance(noun) => noun.verb.instance_id(),
            Command::Task(noun) => Some(noun.verb.instance_id()),
            Command::Artifact(noun) => Some(noun.verb.instance_id()),
            Command::Link(noun) => noun.verb.instance_id(),
            Command::Audit(noun) => Some(noun.verb.instance_id()),
            Command::Process(_) | Command::Approval(_) | Command::Key(_) | Command::Agent(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;

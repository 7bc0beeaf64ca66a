//! The `phasegate` program: parses, starts telemetry, runs one command, and flushes telemetry on every way out.

#[cfg(feature = "planted-bugs")]
mod planted;

use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use phasegate::admin;
use phasegate::cli;
use phasegate::demo::{self, Style};
use phasegate::dev::mail_catcher::Alone;
use phasegate::dev::{self, Dev};
use phasegate::serve::{self, Serve, Stop};
use phasegate_clock::SystemClock;
use phasegate_telemetry::Settings as Telemetry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A tenth of what a call costs is memory taken and given back, most of it by another thread than the one that took it; the
/// allocator of the C library spends twice as much on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Stack of a worker thread. Unoptimised builds use several times the stack of release builds.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// How long what was left behind may take to end with the process.
const ENDED_WITHIN: Duration = Duration::from_millis(500);

/// Process orchestration for work that AI agents do and people answer for.
///
/// Without a command it runs `phasegate dev`.
#[derive(Debug, Parser)]
#[command(name = "phasegate", version, propagate_version = true)]
struct Program {
    /// What to log to standard error: a level such as "info", or one for each module.
    #[arg(long, global = true, env = "PHASEGATE_LOG", value_name = "FILTER", help_heading = "Log")]
    log: Option<String>,
    /// How to write the log.
    #[arg(
        long,
        global = true,
        env = "PHASEGATE_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT",
        help_heading = "Log"
    )]
    log_format: LogFormat,
    /// Collector that takes traces over OTLP/gRPC.
    #[arg(long, global = true, env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide = true)]
    otlp_endpoint: Option<String>,
    #[command(flatten)]
    calls: cli::Global,
    #[command(subcommand)]
    command: Option<Command>,
}

impl Program {
    /// Reads the command line. Without a command it is that of `dev`, so that what the environment says of it counts.
    fn read(arguments: Vec<OsString>) -> Result<Program, clap::Error> {
        let program = Self::read_as_given(Self::definition(), &arguments)?;
        match &program.command {
            Some(Command::Serve(args)) => Self::read_file(&args.options, &["serve"], &arguments),
            Some(Command::Admin(admin)) => match admin.options() {
                Some((options, path)) => Self::read_file(options, path, &arguments),
                None => Ok(program),
            },
            Some(_) => Ok(program),
            None => {
                Self::read_as_given(Self::definition(), &[arguments, vec![OsString::from("dev")]].concat())
            }
        }
    }

    /// Reads the command line once more, with what a file of settings says in the place of the defaults.
    fn read_file(
        options: &serve::Options,
        path: &[&str],
        arguments: &[OsString],
    ) -> Result<Program, clap::Error> {
        let mut command = Self::definition();
        if let Some(file) = &options.config {
            command = serve::with_file(command, path, file)
                .map_err(|error| Self::definition().error(ErrorKind::Io, format!("{error:#}")))?;
        }
        Self::read_as_given(command, arguments)
    }

    fn read_as_given(mut command: clap::Command, arguments: &[OsString]) -> Result<Program, clap::Error> {
        let program = Self::from_arg_matches(&command.clone().try_get_matches_from(arguments)?)?;
        let unheeded = match &program.command {
            Some(Command::Dev(_) | Command::Serve(_) | Command::Admin(_) | Command::MailCatcher(_)) => {
                program.calls.given().next()
            }
            Some(Command::Demo(_)) => {
                let heeded = ["--address", "--key", "--key-file"];
                program.calls.given().find(|flag| !heeded.contains(flag))
            }
            Some(Command::Client(_)) | None => None,
        };
        match unheeded {
            Some(flag) => {
                let message = format!("{flag} is for commands that call a server");
                Err(command.error(ErrorKind::ArgumentConflict, message))
            }
            None => Ok(program),
        }
    }

    /// What concerns calls is known before the noun and, by each noun, behind it; `dev` and `demo` do not know it.
    fn definition() -> clap::Command {
        let command = Self::command();
        let calls = cli::Global::augment_args(clap::Command::new("calls"));
        let names: Vec<clap::Id> = calls.get_arguments().map(|flag| flag.get_id().clone()).collect();
        names.into_iter().fold(command, |command, name| command.mut_arg(name, |flag| flag.global(false)))
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in this process, for development: all services, SQLite, a mail catcher, one port on loopback.
    Dev(DevArgs),
    /// Run services in this process, for production: each on its port, on PostgreSQL and Redis.
    Serve(Box<ServeArgs>),
    /// Look after an installation: its databases.
    #[command(subcommand)]
    Admin(admin::Command),
    /// Play a customer's SSO deployment from definition to completion.
    Demo(DemoArgs),
    /// Take mail and show it instead of sending it on, for trying `serve` without a mail server.
    MailCatcher(MailCatcherArgs),
    #[command(flatten)]
    Client(Box<cli::Command>),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Services to run
    #[arg(required = true, value_enum, value_name = "SERVICE")]
    services: Vec<serve::Name>,
    /// Print the settings that are in effect, secrets masked, and exit
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    options: serve::Options,
}

#[derive(Debug, Args)]
struct DevArgs {
    /// Port on the loopback address; 0 for any free one.
    #[arg(long, env = "PHASEGATE_PORT", default_value_t = 7460)]
    port: u16,
    /// Folder for the data; made where it is missing. One process at a time.
    #[arg(long, env = "PHASEGATE_DATA", default_value = ".phasegate", value_name = "FOLDER")]
    data: PathBuf,
    /// Keep the data in this PostgreSQL database instead, a schema for each service.
    #[arg(long, env = "PHASEGATE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// Links begin with this; by default the address that it listens on.
    #[arg(long, env = "PHASEGATE_PUBLIC_URL", value_parser = public_url, value_name = "URL")]
    public_url: Option<String>,
}

#[derive(Debug, Args)]
struct MailCatcherArgs {
    /// Address to take mail on
    #[arg(long, default_value = "127.0.0.1:1025", value_name = "HOST:PORT")]
    smtp: SocketAddr,
    /// Address of the pages that show it, without authentication: keep it inside
    #[arg(long, default_value = "127.0.0.1:8025", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// Folder for the mails; made where it is missing
    #[arg(long, default_value = ".phasegate/mail", value_name = "FOLDER")]
    folder: PathBuf,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Play on a server that runs instead of one of its own.
    #[arg(long, value_name = "URL")]
    address: Option<String>,
    /// Where the mail catcher of that server is, if not at the same address.
    #[arg(long, value_name = "URL")]
    mail: Option<String>,
    /// Print one JSON object a line instead of the story.
    #[arg(long)]
    json: bool,
    /// Print without colour.
    #[arg(long, env = "NO_COLOR", value_parser = clap::builder::FalseyValueParser::new())]
    no_color: bool,
}

/// Reads what links begin with: an address without anything that a link puts behind it.
fn public_url(text: &str) -> Result<String, String> {
    let url = text.parse::<reqwest::Url>().ok().filter(|url| {
        matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none()
    });
    match url {
        Some(_) => Ok(text.to_owned()),
        None => Err("expected an address such as https://phasegate.example.com".to_owned()),
    }
}

fn main() -> ExitCode {
    let program = Program::read(std::env::args_os().collect()).unwrap_or_else(|error| error.exit());
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.thread_stack_size(STACK_BYTES).enable_all();
    #[cfg(feature = "planted-bugs")]
    if let Err(error) = planted::plant_named(&mut runtime) {
        return fail(&error);
    }
    match runtime.build() {
        Ok(runtime) => {
            let code = runtime.block_on(run(program));
            // What blocks a thread, such as the look for a name, is not waited for.
            runtime.shutdown_timeout(ENDED_WITHIN);
            code
        }
        Err(error) => fail(&anyhow::Error::new(error).context("the runtime cannot start")),
    }
}

async fn run(program: Program) -> ExitCode {
    // The server says what it does; the others speak for themselves.
    let quiet = !matches!(
        program.command,
        None | Some(Command::Dev(_) | Command::Serve(_) | Command::Admin(_) | Command::MailCatcher(_))
    );
    let filter = program.log.unwrap_or_else(|| if quiet { "error" } else { "info" }.to_owned());
    let json = matches!(program.log_format, LogFormat::Json);
    let services = match &program.command {
        Some(Command::Serve(args)) => args.services.clone(),
        _ => serve::Name::ALL.to_vec(),
    };
    let services = services.into_iter().map(|name| name.text().to_owned()).collect();
    let telemetry = Telemetry { filter, json, otlp_endpoint: program.otlp_endpoint, services };
    let _flushed = match phasegate_telemetry::start(&telemetry) {
        Ok(guard) => guard,
        Err(error) => return fail(&error.into()),
    };
    match program.command {
        // Without a command it has been read as `dev`.
        None => ExitCode::SUCCESS,
        Some(Command::Dev(args)) => end(dev(args).await),
        Some(Command::Serve(args)) => end(serve(*args).await),
        Some(Command::Admin(command)) => end(admin::run(command).await),
        Some(Command::MailCatcher(args)) => end(mail_catcher(args).await),
        Some(Command::Demo(args)) => {
            let address = args.address.or_else(|| program.calls.address().map(str::to_owned));
            let style = if args.json { Style::Json } else { Style::people(args.no_color) };
            match program.calls.credential() {
                Ok(credential) => {
                    end(demo::run(demo::Options { address, credential, mail: args.mail, style }).await)
                }
                Err(message) => fail(&anyhow::anyhow!(message)),
            }
        }
        Some(Command::Client(command)) => cli::run(*command, program.calls).await,
    }
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let settings = args.options.read(&args.services)?;
    if args.check {
        write!(std::io::stdout().lock(), "{}", settings.effective())?;
        return Ok(());
    }
    let stop = Stop::default();
    let stopping = stop.clone();
    tokio::spawn(stop_on_signal(async move || stopping.stop().await));
    Serve::start(&settings, stop).await?.finished().await
}

async fn mail_catcher(args: MailCatcherArgs) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let stopping = shutdown.clone();
    tokio::spawn(stop_on_signal(async move || stopping.cancel()));
    writeln!(std::io::stdout().lock(), "Mail to {} is shown at http://{}/dev/mail", args.smtp, args.listen)?;
    Alone { folder: args.folder, smtp: args.smtp, listen: args.listen }.run(shutdown).await
}

async fn dev(args: DevArgs) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let settings = dev::Settings {
        folder: args.data.clone(),
        port: args.port,
        database_url: args.database_url,
        public_url: args.public_url,
        clock: SystemClock::shared(),
    };
    let dev = Dev::start(settings, shutdown.clone()).await?;
    greet(&dev, &args.data)?;
    tokio::spawn(stop_on_signal(async move || shutdown.cancel()));
    dev.finished().await
}

fn greet(dev: &Dev, data: &std::path::Path) -> anyhow::Result<()> {
    let address = dev.address();
    let mut out = std::io::stdout().lock();
    writeln!(out, "Phasegate listens on http://{address}")?;
    writeln!(out, "  API       http://{address}/docs")?;
    writeln!(out, "  Mail      http://{address}/dev/mail")?;
    writeln!(out, "  Data      {}", data.display())?;
    writeln!(
        out,
        "For development only: every caller on this machine is the operator. Try: phasegate demo --address http://{address}"
    )?;
    out.flush()?;
    Ok(())
}

/// The first signal stops in order, the second at once.
async fn stop_on_signal(stop: impl AsyncFnOnce()) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::warn!("signals cannot be heard; the process ends at once when it is told to");
        return;
    };
    let mut signalled = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    signalled().await;
    tracing::info!("stopping; once more to stop at once");
    tokio::join!(stop(), async {
        signalled().await;
        std::process::exit(130);
    });
}

fn end(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    // Nobody is left to tell where standard error is closed.
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Program, clap::Error> {
        Program::read(
            std::iter::once("phasegate").chain(line.split_whitespace()).map(OsString::from).collect(),
        )
    }

    #[test]
    fn the_definition_of_the_program_is_sound() {
        Program::definition().debug_assert();
    }

    #[test]
    fn what_concerns_calls_may_stand_before_the_noun() {
        for line in [
            "--address http://h:1 process list",
            "-o json --quiet instance get i",
            "-y instance cancel i --reason because",
            "-o json process list -o jsonl",
            "--address http://h:1 demo",
            "demo --address http://h:1 --json",
            "--timeout 5s --log info approval list",
        ] {
            if let Err(error) = read(line) {
                panic!("{line}: {error}");
            }
        }
        for line in
            ["--address http://h:1 dev", "--address http://h:1", "-y dev", "-o json demo", "dev -o json"]
        {
            assert_eq!(read(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn links_begin_with_an_address() {
        for (url, good) in [
            ("http://127.0.0.1:7460", true),
            ("https://phasegate.example.com/base/", true),
            ("phasegate.example.com", false),
            ("nonsense", false),
            ("ftp://h", false),
            ("https://h/?a=1", false),
            ("https://h/#a", false),
        ] {
            assert_eq!(read(&format!("dev --public-url {url}")).is_ok(), good, "{url}");
        }
    }

    #[test]
    fn no_command_is_dev() {
        let program = read("--log debug").unwrap();
        let Some(Command::Dev(args)) = program.command else { panic!("not dev") };
        assert_eq!(program.log.as_deref(), Some("debug"));
        assert_eq!(args.data, PathBuf::from(".phasegate"));
    }
}

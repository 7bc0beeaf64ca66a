//! `phasegate admin`: looks after an installation, mostly directly in its databases.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::serve;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring the databases of services to what this program needs. `serve` only checks that this was done.
    Migrate(Box<MigrateArgs>),
    /// Tenants: the customers of the installation.
    #[command(subcommand)]
    Tenant(Tenant),
    /// What services have set aside: events that they could not take, and mail that was given up.
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Ask a process whether it is ready; for health checks where there is no curl.
    Ready(ReadyArgs),
}

impl Command {
    /// The settings that it reads, from a file, too, and its name.
    pub fn options(&self) -> Option<(&serve::Options, &'static [&'static str])> {
        Some(match self {
            Self::Migrate(args) => (&args.options, &["admin", "migrate"]),
            Self::Tenant(Tenant::Create(args)) => (&args.options, &["admin", "tenant", "create"]),
            Self::Tenant(Tenant::List(args)) => (&args.options, &["admin", "tenant", "list"]),
            Self::DeadLetters(DeadLetters::List(args)) => (&args.options, &["admin", "dead-letters", "list"]),
            Self::DeadLetters(DeadLetters::Replay(args)) => {
                (&args.options, &["admin", "dead-letters", "replay"])
            }
            Self::Ready(_) => return None,
        })
    }
}

/// What to do with what was set aside.
#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List them, service by service, in each the oldest first
    List(Box<DeadLettersListArgs>),
    /// Have them tried anew; what was taken after all changes nothing
    Replay(Box<DeadLettersReplayArgs>),
}

/// Which to list.
#[derive(Debug, Args)]
pub struct DeadLettersListArgs {
    /// Only those of these services; may be repeated
    #[arg(long = "service", value_enum, value_name = "SERVICE")]
    services: Vec<serve::Name>,
    /// Entries at most, up to 500
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500), value_name = "N")]
    limit: u32,
    /// From the end of the list before
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TOKEN")]
    page_token: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: serve::Options,
}

/// Which to try anew.
#[derive(Debug, Args)]
pub struct DeadLettersReplayArgs {
    /// Ids, as the list shows them
    #[arg(required_unless_present = "all", value_name = "ID")]
    ids: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Only those of these services; may be repeated
    #[arg(long = "service", value_enum, value_name = "SERVICE")]
    services: Vec<serve::Name>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: serve::Options,
}

/// What to do with tenants.
#[derive(Debug, Subcommand)]
pub enum Tenant {
    /// Make a tenant and print its first key, which is shown this once and may do everything
    Create(Box<TenantCreateArgs>),
    /// List the tenants
    List(Box<TenantListArgs>),
}

/// The tenant.
#[derive(Debug, Args)]
pub struct TenantCreateArgs {
    /// Lower-case letters, digits, - and _, beginning with a letter
    name: String,
    /// Make a further key for a tenant that is there already: when all of its keys are lost
    #[arg(long)]
    new_key: bool,
    #[command(flatten)]
    options: serve::Options,
}

/// Where they are.
#[derive(Debug, Args)]
pub struct TenantListArgs {
    #[command(flatten)]
    options: serve::Options,
}

/// Which databases.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Services; all without any
    #[arg(value_enum, value_name = "SERVICE")]
    services: Vec<serve::Name>,
    #[command(flatten)]
    options: serve::Options,
}

/// Which process.
#[derive(Debug, Args)]
pub struct ReadyArgs {
    /// Where its probes are answered
    #[arg(default_value = "http://127.0.0.1:9460/readyz", value_name = "URL")]
    url: String,
}

/// Does it.
pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Migrate(args) => migrate(*args).await,
        Command::Tenant(Tenant::Create(args)) => tenant_create(*args).await,
        Command::Tenant(Tenant::List(args)) => tenant_list(*args).await,
        Command::DeadLetters(DeadLetters::List(args)) => dead_letters_list(*args).await,
        Command::DeadLetters(DeadLetters::Replay(args)) => dead_letters_replay(*args).await,
        Command::Ready(args) => ready(args).await,
    }
}

async fn migrate(args: MigrateArgs) -> anyhow::Result<()> {
    let services = if args.services.is_empty() { serve::Name::ALL.to_vec() } else { args.services };
    serve::migrate(&args.options, &services).await
}

/// The key goes to standard output, alone, so that it can be put where it belongs without being seen.
async fn tenant_create(args: TenantCreateArgs) -> anyhow::Result<()> {
    let key = serve::tenant_create(&args.options, &args.name, args.new_key).await?;
    writeln!(std::io::stdout().lock(), "{}", key.expose())?;
    let note = "This key may do everything in the tenant, and is not shown again. Call with it by --key-file or PHASEGATE_KEY.";
    writeln!(std::io::stderr().lock(), "{note}")?;
    Ok(())
}

async fn tenant_list(args: TenantListArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for tenant in serve::tenant_list(&args.options).await? {
        writeln!(out, "{}  {}", tenant.id, tenant.created_at)?;
    }
    Ok(())
}

async fn dead_letters_list(args: DeadLettersListArgs) -> anyhow::Result<()> {
    let services: Vec<_> = args.services.iter().filter_map(|name| name.service()).collect();
    let page = serve::dead_letters_list(&args.options, &services, args.limit, &args.page_token).await?;
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &page)?;
        writeln!(out)?;
        return Ok(());
    }
    for letter in &page.dead_letters {
        let serve::Letter { service, kind, id, tenant_id, instance_id, about, since, tries, .. } = letter;
        // Written by others: whatever would move the cursor is taken out.
        let error: String = letter.error.chars().filter(|letter| !letter.is_control()).collect();
        writeln!(
            out,
            "{service}  {kind} {id}  {about}  {tenant_id}/{instance_id}  {since}  {tries} tries: {error}"
        )?;
    }
    if !page.next_page_token.is_empty() {
        writeln!(std::io::stderr().lock(), "There may be more: --page-token {}", page.next_page_token)?;
    }
    Ok(())
}

async fn dead_letters_replay(args: DeadLettersReplayArgs) -> anyhow::Result<()> {
    let services: Vec<_> = args.services.iter().filter_map(|name| name.service()).collect();
    let replayed = serve::dead_letters_replay(&args.options, &services, &args.ids).await?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::json!({ "replayed": replayed }))?;
    } else {
        writeln!(out, "{replayed} are tried anew within seconds; whatever fails again is back in the list")?;
    }
    anyhow::ensure!(args.all || replayed > 0, "nothing of that name was set aside");
    Ok(())
}

/// Fails unless the process says that it is ready.
async fn ready(args: ReadyArgs) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(3)).build()?;
    let answer =
        client.get(&args.url).send().await.with_context(|| format!("nobody answers at {}", args.url))?;
    anyhow::ensure!(answer.status().is_success(), "{} is not ready: {}", args.url, answer.status());
    Ok(())
}

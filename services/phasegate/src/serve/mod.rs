//! `phasegate serve SERVICE…`: the named services in this process, each on its port, on PostgreSQL and Redis. Any number
//! of copies of each can run; every one of them can be killed at any time.

mod admin;
mod dead_letters;
mod file;
mod limits;
mod places;
mod secret;
mod settings;
#[cfg(test)]
mod table;
mod tenant;
mod time;
mod tls;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use phasegate_bus::{Bus, Confirmations};
use phasegate_clock::{FollowingClock, SharedClock, SystemClock};
use phasegate_database::{Opening, Settings as Database};
use phasegate_principal::Signer;
use phasegate_serve::{Context, Keys, Listener, Peers, Service, Tls};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use dead_letters::{Letter, Letters, dead_letters_list, dead_letters_replay};
pub use file::with_file;
pub use limits::LimitOptions;
pub use settings::{Name, Options, Settings, SmtpTls};
pub use tenant::{tenant_create, tenant_list};

/// From not being ready to the end of streams: for as long as it takes others to notice.
const NOTICED_WITHIN: Duration = Duration::from_millis(1_500);
/// From the end of streams to the end of the process.
const STOPPED_WITHIN: Duration = Duration::from_secs(8);

/// The services of this process, running.
#[derive(Debug)]
pub struct Serve {
    /// Answers probes to the last.
    _admin: AbortOnDropHandle<()>,
    tasks: Tasks,
    /// Those that have not ended.
    running: BTreeSet<&'static str>,
    stop: Stop,
}

/// What runs, each with its name.
type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// The two steps of stopping.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Not ready any more; what comes in is still done.
    pub draining: CancellationToken,
    /// Streams end, calls finish, claims are given back.
    pub shutdown: CancellationToken,
}

impl Serve {
    /// Opens everything, and returns once all ports answer. [`Stop::stop`] stops it.
    pub async fn start(settings: &Settings, stop: Stop) -> anyhow::Result<Self> {
        let clock = Arc::new(FollowingClock::default());
        let (context, confirmations) = context(settings, &stop, &clock)?;
        let mut tasks = JoinSet::new();
        let mut opened = Vec::new();
        for (name, address) in &settings.listen {
            let opening = Opened::open(*name, settings, &context).await;
            let opened_service = opening.with_context(|| format!("{} cannot start", name.text()))?;
            opened.push((opened_service, bind(*name, *address).await?));
        }
        let admin = TcpListener::bind(settings.options().admin_listen)
            .await
            .with_context(|| format!("cannot listen on {}", settings.options().admin_listen))?;
        let open = CancellationToken::new();
        let readiness = admin::Readiness {
            open: open.clone(),
            draining: stop.draining.clone(),
            databases: opened.iter().filter_map(|(service, _)| service.database().cloned()).collect(),
            heard: tokio::sync::Mutex::default(),
        };
        if let Some(database) = readiness.databases.first().cloned() {
            // Before anything is done that depends on the time.
            time::ask(&clock, &database).await;
            let following = time::follow(clock, database, stop.shutdown.clone());
            tasks.spawn(async move {
                following.await;
                ("clock", Ok(()))
            });
        }
        let probes = tokio::spawn(admin::run(admin, Arc::new(readiness)));
        // The bus begins once everybody has subscribed.
        background(&context, confirmations, &mut tasks);
        let files = watch_files(settings, &context);
        tasks.spawn(async move { ("secrets", files.await) });
        let running = opened.iter().map(|(service, _)| service.name()).chain(BACKGROUND).collect();
        for (service, listener) in opened {
            service.run(listener, settings.tls.clone(), &mut tasks);
        }
        open.cancel();
        Ok(Self { _admin: AbortOnDropHandle::new(probes), tasks, running, stop })
    }

    /// Returns once everything has stopped: because it was told to, or because a part failed, which stops the rest. What
    /// is still under way [`STOPPED_WITHIN`] after the end was decided is broken off: whatever it was can be done again.
    pub async fn finished(mut self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        let shutdown = self.stop.shutdown.clone();
        let deadline = async {
            shutdown.cancelled().await;
            tokio::time::sleep(STOPPED_WITHIN).await;
        };
        tokio::pin!(deadline);
        loop {
            let ended = tokio::select! {
                ended = self.tasks.join_next() => ended,
                () = &mut deadline => {
                    let running = &self.running;
                    tracing::warn!(?running, "something was still under way when the time to stop ran out");
                    None
                }
            };
            let Some(ended) = ended else { return outcome };
            let ended = match ended {
                Ok((name, ended)) => {
                    self.running.remove(name);
                    ended
                }
                Err(panic) => Err(panic.into()),
            };
            if outcome.is_ok() {
                outcome = ended;
            }
            self.stop.draining.cancel();
            self.stop.shutdown.cancel();
        }
    }
}

impl Stop {
    /// Stops in order.
    pub async fn stop(&self) {
        self.draining.cancel();
        tokio::time::sleep(NOTICED_WITHIN).await;
        self.shutdown.cancel();
    }
}

/// Brings the databases of services to what this program needs.
pub async fn migrate(options: &Options, services: &[Name]) -> anyhow::Result<()> {
    for service in services.iter().filter_map(|name| name.service()) {
        let database = options.database(service, Opening::Migrate)?;
        migrate_one(service, &database)
            .await
            .with_context(|| format!("the database of {} cannot be migrated", service.name()))?;
        tracing::info!(service = service.name(), "migrated");
    }
    Ok(())
}

async fn migrate_one(service: Service, database: &Database) -> anyhow::Result<()> {
    match service {
        Service::Definition => phasegate_definition::migrate(database).await?,
        Service::Instance => phasegate_instance::migrate(database).await?,
        Service::Approval => phasegate_approval::migrate(database).await?,
        Service::Artifact => phasegate_artifact::migrate(database).await?,
        Service::Participant => phasegate_participant::migrate(database).await?,
        Service::Notification => phasegate_notification::migrate(database).await?,
    }
    Ok(())
}

fn context(
    settings: &Settings,
    stop: &Stop,
    clock: &Arc<FollowingClock>,
) -> anyhow::Result<(Context, Confirmations)> {
    let secret = settings.secrets.first().context("there is no secret")?;
    let keys = Keys::derive(secret);
    keys.replace(&settings.secrets);
    let clock: SharedClock = clock.clone();
    let signer = Signer::new(&keys.principal, SystemClock::shared());
    let (bus, confirmations) = Bus::redis(&settings.redis, keys.event.clone())?;
    let peers = Peers::over_network(settings.peers.clone(), settings.tls.as_ref(), signer);
    let public_url = settings.public_url.clone();
    let Stop { draining, shutdown } = stop.clone();
    let limits = settings.options().limits.service();
    Ok((Context { clock, peers, bus, keys, public_url, limits, draining, shutdown }, confirmations))
}

async fn bind(name: Name, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("{} cannot listen on {address}", name.text()))?;
    tracing::info!(service = name.text(), %address, "listens");
    Ok(listener)
}

/// Looks for new secrets and certificates.
fn watch_files(settings: &Settings, context: &Context) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let (options, tls) = (settings.options().clone(), settings.tls.clone());
    let (known, keys, shutdown) = (settings.secrets.clone(), context.keys.clone(), context.shutdown.clone());
    async move {
        let file = options.secret_file.clone().unwrap_or_default();
        let secrets = secret::watch(&file, known, &keys, shutdown.clone());
        tokio::join!(secrets, tls::watch(&options, tls, shutdown));
        Ok(())
    }
}

/// What runs beside the services.
const BACKGROUND: [&str; 4] = ["bus", "peers", "confirmations", "secrets"];

/// Starts the first three of them.
fn background(context: &Context, confirmations: Confirmations, tasks: &mut Tasks) {
    // Takes no new events once it is known that the process stops: others have more time for them.
    let Context { bus, draining, shutdown, .. } = context.clone();
    tasks.spawn(async move {
        if let Some(warning) = bus.warning().await {
            tracing::warn!("{warning}");
        }
        bus.run(draining).await;
        // Whatever ends ends the rest; and who receives nothing is done at once.
        shutdown.cancelled().await;
        ("bus", Ok(()))
    });
    let (peers, shutdown) = (context.peers.clone(), context.shutdown.clone());
    tasks.spawn(async move {
        peers.watch(shutdown).await;
        ("peers", Ok(()))
    });
    let (peers, shutdown) = (context.peers.clone(), context.shutdown.clone());
    tasks.spawn(async move {
        phasegate_serve::confirm(peers, confirmations, shutdown).await;
        ("confirmations", Ok(()))
    });
}

/// A service that is open and does not serve yet.
enum Opened {
    Gateway(Box<phasegate_gateway::Service>),
    Definition(phasegate_definition::Service),
    Instance(phasegate_instance::Service),
    Approval(phasegate_approval::Service),
    Artifact(phasegate_artifact::Service),
    Participant(phasegate_participant::Service),
    Notification(Box<phasegate_notification::Service>),
}

impl Opened {
    async fn open(name: Name, settings: &Settings, context: &Context) -> anyhow::Result<Self> {
        let options = settings.options();
        let database = |service| options.database(service, Opening::Check);
        let context = context.clone();
        Ok(match name {
            Name::Gateway => {
                let portal = phasegate_gateway::portal::router(context.clone(), false);
                let config = phasegate_gateway::Config {
                    oidc: settings.oidc.clone(),
                    limits: options.limits.gateway(),
                    rates: options.limits.rates(&settings.redis),
                    ..Default::default()
                };
                Self::Gateway(Box::new(phasegate_gateway::Service::open(config, context, portal)?))
            }
            Name::Definition => {
                let config = phasegate_definition::Config::new(database(Service::Definition)?);
                Self::Definition(phasegate_definition::Service::open(config, context).await?)
            }
            Name::Instance => {
                let config = phasegate_instance::Config::new(database(Service::Instance)?);
                Self::Instance(phasegate_instance::Service::open(config, context).await?)
            }
            Name::Approval => {
                let config = phasegate_approval::Config::new(database(Service::Approval)?);
                Self::Approval(phasegate_approval::Service::open(config, context).await?)
            }
            Name::Artifact => {
                let config = phasegate_artifact::Config::new(database(Service::Artifact)?);
                Self::Artifact(phasegate_artifact::Service::open(config, context).await?)
            }
            Name::Participant => {
                let config = phasegate_participant::Config::new(database(Service::Participant)?);
                Self::Participant(phasegate_participant::Service::open(config, context).await?)
            }
            Name::Notification => {
                let config = mail(settings, database(Service::Notification)?);
                Self::Notification(Box::new(phasegate_notification::Service::open(config, context).await?))
            }
        })
    }

    /// The database, where it has one.
    fn database(&self) -> Option<&phasegate_database::Database> {
        match self {
            Self::Gateway(_) => None,
            Self::Definition(service) => Some(service.database()),
            Self::Instance(service) => Some(service.database()),
            Self::Approval(service) => Some(service.database()),
            Self::Artifact(service) => Some(service.database()),
            Self::Participant(service) => Some(service.database()),
            Self::Notification(service) => Some(service.database()),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Gateway(_) => "gateway",
            Self::Definition(_) => "definition",
            Self::Instance(_) => "instance",
            Self::Approval(_) => "approval",
            Self::Artifact(_) => "artifact",
            Self::Participant(_) => "participant",
            Self::Notification(_) => "notification",
        }
    }

    fn run(self, socket: TcpListener, tls: Option<Tls>, tasks: &mut Tasks) {
        let name = self.name();
        tasks.spawn(async move { (name, Box::pin(self.serve(socket, tls)).await) });
    }

    async fn serve(self, socket: TcpListener, tls: Option<Tls>) -> anyhow::Result<()> {
        // What is outside the gateway comes through whatever keeps the certificate of its name.
        let listener = |socket| match tls {
            Some(tls) => Listener::Tls(socket, tls),
            None => Listener::Tcp(socket),
        };
        match self {
            Self::Gateway(service) => Ok(service.run(socket).await?),
            Self::Definition(service) => Ok(Box::pin(service.run(listener(socket))).await?),
            Self::Instance(service) => Ok(Box::pin(service.run(listener(socket))).await?),
            Self::Approval(service) => Ok(Box::pin(service.run(listener(socket))).await?),
            Self::Artifact(service) => Ok(Box::pin(service.run(listener(socket))).await?),
            Self::Participant(service) => Ok(Box::pin(service.run(listener(socket))).await?),
            Self::Notification(service) => Ok(Box::pin(service.run(listener(socket))).await?),
        }
    }
}

fn mail(settings: &Settings, database: Database) -> phasegate_notification::Config {
    let options = settings.options();
    phasegate_notification::Config {
        smtp_host: options.smtp_host.clone(),
        smtp_port: options.smtp_port,
        smtp_tls: match options.smtp_tls {
            SmtpTls::None => phasegate_notification::Tls::None,
            SmtpTls::Upgraded => phasegate_notification::Tls::Upgraded,
            SmtpTls::Implicit => phasegate_notification::Tls::Implicit,
        },
        smtp_from: options.mail_from.clone(),
        smtp_credentials: settings.smtp_credentials.clone(),
        ..phasegate_notification::Config::new(database)
    }
}

//! `phasegate serve SERVICE…`: the named services in this process, each on its port, on PostgreSQL and Redis. Any number
//! of copies of each can run; every one of them can be killed at any time.

mod admin;
mod file;
mod places;
mod secret;
mod settings;
mod tenant;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use phasegate_bus::{Bus, Confirmations};
use phasegate_clock::SystemClock;
use phasegate_database::{Opening, Settings as Database};
use phasegate_principal::Signer;
use phasegate_serve::{Context, Keys, Listener, Peers, Service, Tls};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use file::with_file;
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
    tasks: JoinSet<anyhow::Result<()>>,
    stop: Stop,
}

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
        let (context, confirmations) = context(settings, &stop)?;
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
        let probes = tokio::spawn(admin::run(admin, Arc::new(readiness)));
        // The bus begins once everybody has subscribed.
        tasks.spawn(background(context.clone(), confirmations));
        tasks.spawn(watch_files(settings, &context));
        for (service, listener) in opened {
            service.run(listener, settings.tls.clone(), &mut tasks);
        }
        open.cancel();
        Ok(Self { _admin: AbortOnDropHandle::new(probes), tasks, stop })
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
                    tracing::warn!("something was still under way when the time to stop ran out");
                    None
                }
            };
            let Some(ended) = ended else { return outcome };
            let ended = ended.unwrap_or_else(|panic| Err(panic.into()));
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

fn context(settings: &Settings, stop: &Stop) -> anyhow::Result<(Context, Confirmations)> {
    let secret = settings.secrets.first().context("there is no secret")?;
    let keys = Keys::derive(secret);
    keys.replace(&settings.secrets);
    let clock = SystemClock::shared();
    let signer = Signer::new(&keys.principal, clock.clone());
    let (bus, confirmations) = Bus::redis(&settings.redis)?;
    let peers = Peers::over_network(settings.peers.clone(), settings.tls.as_ref(), signer);
    let public_url = settings.public_url.clone();
    let Stop { draining, shutdown } = stop.clone();
    Ok((Context { clock, peers, bus, keys, public_url, draining, shutdown }, confirmations))
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
async fn background(context: Context, confirmations: Confirmations) -> anyhow::Result<()> {
    let Context { bus, peers, shutdown, .. } = context;
    if let Some(warning) = bus.warning().await {
        tracing::warn!("{warning}");
    }
    tokio::join!(
        bus.run(shutdown.clone()),
        peers.watch(shutdown.clone()),
        phasegate_serve::confirm(peers.clone(), confirmations, shutdown),
    );
    Ok(())
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
                let config = phasegate_gateway::Config { oidc: settings.oidc.clone(), ..Default::default() };
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

    fn run(self, socket: TcpListener, tls: Option<Tls>, tasks: &mut JoinSet<anyhow::Result<()>>) {
        // What is outside the gateway comes through whatever keeps the certificate of its name.
        let listener = |socket| match tls {
            Some(tls) => Listener::Tls(socket, tls),
            None => Listener::Tcp(socket),
        };
        match self {
            Self::Gateway(service) => tasks.spawn(async move { Ok(service.run(socket).await?) }),
            Self::Definition(service) => {
                let listener = listener(socket);
                tasks.spawn(async move { Ok(service.run(listener).await?) })
            }
            Self::Instance(service) => {
                let listener = listener(socket);
                tasks.spawn(async move { Ok(service.run(listener).await?) })
            }
            Self::Approval(service) => {
                let listener = listener(socket);
                tasks.spawn(async move { Ok(service.run(listener).await?) })
            }
            Self::Artifact(service) => {
                let listener = listener(socket);
                tasks.spawn(async move { Ok(service.run(listener).await?) })
            }
            Self::Participant(service) => {
                let listener = listener(socket);
                tasks.spawn(async move { Ok(service.run(listener).await?) })
            }
            Self::Notification(service) => {
                let listener = listener(socket);
                tasks.spawn(async move { Ok(service.run(listener).await?) })
            }
        };
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

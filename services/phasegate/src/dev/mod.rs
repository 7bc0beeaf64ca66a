//! `phasegate dev`: all services in one process, calls between them straight to the routes, one SQLite file for each (or a
//! PostgreSQL database), the bus in process, and a mail catcher. No server, no flag needed, and nothing for production:
//! it listens on loopback only, and takes calls without a key as the operator `dev`.

mod folder;
pub mod mail_catcher;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use phasegate_bus::Bus;
use phasegate_clock::SharedClock;
use phasegate_database::{Opening, Settings as Database};
use phasegate_principal::Signer;
use phasegate_serve::{Context, Listener, Peers, Service, direct};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use folder::{Error as FolderError, Folder};

/// Connections of one service to PostgreSQL.
const CONNECTIONS_MAX: u32 = 8;

/// How to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the data is; made where it is missing.
    pub folder: PathBuf,
    /// Port on the loopback address; 0 for any free one.
    pub port: u16,
    /// `postgres://…`, to keep the data there instead of in SQLite files. Each service gets a schema of its own.
    pub database_url: Option<String>,
    /// Begins links; `http://127.0.0.1:<port>` when absent.
    pub public_url: Option<String>,
    /// Tells the time.
    pub clock: SharedClock,
}

/// A running Phasegate.
#[derive(Debug)]
pub struct Dev {
    address: SocketAddr,
    shutdown: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
    _folder: Folder,
}

impl Dev {
    /// Starts everything, and returns once the port answers. Cancelling `shutdown` stops it.
    pub async fn start(settings: Settings, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let folder = Folder::open(&settings.folder)?;
        let keys = folder.keys()?;
        let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, settings.port))
            .await
            .with_context(|| format!("port {} cannot be used; choose another with --port", settings.port))?;
        let address = outside.local_addr()?;
        let public_url = settings.public_url.clone().unwrap_or_else(|| format!("http://{address}"));

        let mut listeners = BTreeMap::new();
        let mut ways = BTreeMap::new();
        for service in Service::ALL {
            let (listener, way) = direct();
            listeners.insert(service, listener);
            ways.insert(service, way);
        }
        let signer = Signer::new(&keys.principal, settings.clock.clone());
        let context = Context {
            clock: settings.clock.clone(),
            peers: Peers::new(ways, signer),
            bus: Bus::local(),
            keys,
            public_url: public_url.trim_end_matches('/').to_owned(),
            limits: phasegate_serve::Limits::default(),
            draining: CancellationToken::new(),
            shutdown: shutdown.clone(),
        };
        let mail = mail_catcher::MailCatcher::start(&settings.folder.join("mail"), shutdown.clone()).await?;

        let mut tasks = JoinSet::new();
        Self::start_services(&settings, &context, &mail, &mut listeners, &mut tasks).await?;
        let extra = phasegate_gateway::portal::router(context.clone(), true)
            .merge(mail.router())
            .merge(crate::scrape::router());
        let gateway = phasegate_gateway::Config { dev: true, ..phasegate_gateway::Config::default() };
        let gateway = phasegate_gateway::Service::open(gateway, context, extra)?;
        tasks.spawn(async move { Ok(gateway.run(outside).await?) });
        tasks.spawn(async move { Ok(mail.run().await?) });
        Ok(Self { address, shutdown, tasks, _folder: folder })
    }

    /// Opens all before any runs, so that no event is sent before everybody listens.
    async fn start_services(
        settings: &Settings,
        context: &Context,
        mail: &mail_catcher::MailCatcher,
        listeners: &mut BTreeMap<Service, Listener>,
        tasks: &mut JoinSet<anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let database = |service| settings.database(service);
        let mut listener = |service: Service| listeners.remove(&service).context("each service listens once");

        let config = phasegate_definition::Config::new(database(Service::Definition));
        let definition = phasegate_definition::Service::open(config, context.clone()).await?;
        let config = phasegate_instance::Config::new(database(Service::Instance));
        let instance = phasegate_instance::Service::open(config, context.clone()).await?;
        let config = phasegate_approval::Config::new(database(Service::Approval));
        let approval = phasegate_approval::Service::open(config, context.clone()).await?;
        let config = phasegate_artifact::Config::new(database(Service::Artifact));
        let artifact = phasegate_artifact::Service::open(config, context.clone()).await?;
        let config = phasegate_participant::Config::new(database(Service::Participant));
        let participant = phasegate_participant::Service::open(config, context.clone()).await?;
        let mut config = phasegate_notification::Config::new(database(Service::Notification));
        config.smtp_host = mail.smtp_address().ip().to_string();
        config.smtp_port = mail.smtp_address().port();
        let notification = phasegate_notification::Service::open(config, context.clone()).await?;

        let end = listener(Service::Definition)?;
        tasks.spawn(async move { Ok(definition.run(end).await?) });
        let end = listener(Service::Instance)?;
        tasks.spawn(async move { Ok(Box::pin(instance.run(end)).await?) });
        let end = listener(Service::Approval)?;
        tasks.spawn(async move { Ok(Box::pin(approval.run(end)).await?) });
        let end = listener(Service::Artifact)?;
        tasks.spawn(async move { Ok(artifact.run(end).await?) });
        let end = listener(Service::Participant)?;
        tasks.spawn(async move { Ok(participant.run(end).await?) });
        let end = listener(Service::Notification)?;
        tasks.spawn(async move { Ok(Box::pin(notification.run(end)).await?) });
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns once everything has stopped: because `shutdown` was cancelled, or because a part failed, which stops the
    /// rest.
    pub async fn finished(mut self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let ended = ended.unwrap_or_else(|panic| Err(panic.into()));
            if outcome.is_ok() {
                outcome = ended;
            }
            self.shutdown.cancel();
        }
        outcome
    }
}

impl Settings {
    fn database(&self, service: Service) -> Database {
        match &self.database_url {
            Some(url) => Database::Postgres {
                url: url.clone(),
                schema: format!("phasegate_{}", service.name()),
                max_connections: CONNECTIONS_MAX,
                opening: Opening::Migrate,
            },
            None => Database::Sqlite { path: self.folder.join(format!("{}.db", service.name())) },
        }
    }
}

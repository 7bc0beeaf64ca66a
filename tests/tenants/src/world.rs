//! All services on ports of their own behind a gateway that wants credentials, as in production, in one process.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use phasegate_bus::Bus;
use phasegate_clock::{Clock as _, SystemClock};
use phasegate_principal::{ApiKey, Signer};
use phasegate_serve::{Channel, Context, Keys, Listener, Peers, Service, Tls};
use phasegate_test_database::TestDatabase;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::{self, Endpoint};
use tonic::{Code, Status};

use crate::call::{call, named};

/// How long anything may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running Phasegate.
#[derive(Debug)]
pub struct World {
    /// Base of every URL of the gateway.
    pub address: String,
    /// The gateway, over gRPC.
    pub gateway: transport::Channel,
    /// The port of each service.
    pub ports: BTreeMap<Service, Channel>,
    /// Where each service is: `https://127.0.0.1:port`, or `http://`.
    pub addresses: BTreeMap<Service, String>,
    /// What the services run with.
    pub context: Context,
    /// Where the data of the participant service is.
    pub people: phasegate_database::Settings,
}

impl World {
    /// Starts one on a fresh database.
    pub async fn start(
        database: &TestDatabase,
        oidc: Option<phasegate_gateway::Oidc>,
    ) -> anyhow::Result<Self> {
        Self::start_with(database, oidc, None).await
    }

    /// Starts one on a fresh database whose services show each other certificates, if there are any.
    pub async fn start_with(
        database: &TestDatabase,
        oidc: Option<phasegate_gateway::Oidc>,
        tls: Option<Tls>,
    ) -> anyhow::Result<Self> {
        let mut listeners = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for service in Service::ALL {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let scheme = if tls.is_some() { "https" } else { "http" };
            addresses.insert(service, format!("{scheme}://{}", listener.local_addr()?));
            listeners.insert(service, listener);
        }
        let outside = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", outside.local_addr()?);
        let keys = Keys::derive(&[1; 32]);
        let clock = SystemClock::shared();
        let mut places = BTreeMap::new();
        for (service, address) in &addresses {
            places.insert(*service, vec![address.parse()?]);
        }
        let peers = Peers::over_network(places, tls.as_ref(), Signer::new(&keys.principal, clock.clone()));
        let ports = Service::ALL.into_iter().map(|service| (service, peers.channel(service))).collect();
        let context = Context {
            peers,
            clock,
            bus: Bus::local(),
            keys,
            public_url: address.clone(),
            limits: phasegate_serve::Limits::default(),
            draining: CancellationToken::new(),
            shutdown: CancellationToken::new(),
        };
        serve(database, &context, listeners, tls).await?;
        let (peers, shutdown) = (context.peers.clone(), context.shutdown.clone());
        tokio::spawn(async move { peers.watch(shutdown).await });
        let portal = phasegate_gateway::portal::router(context.clone(), false);
        let config = phasegate_gateway::Config { oidc, ..phasegate_gateway::Config::default() };
        let gateway = phasegate_gateway::Service::open(config, context.clone(), portal)?;
        tokio::spawn(gateway.run(outside));
        let gateway = Endpoint::from_shared(address.clone())?.connect_lazy();
        let people = database.settings_named(Service::Participant.name());
        Ok(Self { address, gateway, ports, addresses, context, people })
    }

    /// Makes a tenant, as `phasegate admin tenant create` does, and returns its first key.
    pub async fn tenant(&self, name: &str) -> anyhow::Result<ApiKey> {
        Ok(phasegate_participant::tenant_create(&self.people, name, false, SystemClock.now()).await?)
    }

    /// Calls a public method with a key.
    pub async fn call(
        &self,
        key: &str,
        method: &str,
        message: &Value,
    ) -> anyhow::Result<Result<Value, Status>> {
        call(self.gateway.clone(), &named(method)?, message, bearer(key)?).await
    }

    /// Calls a public method with a key, and again while a service has not heard of something yet; anything else but success
    /// is an error.
    pub async fn done(&self, key: &str, method: &str, message: Value) -> anyhow::Result<Value> {
        self.eventually(method, async || match self.call(key, method, &message).await? {
            Ok(answer) => Ok(Some(answer)),
            Err(status) if status.code() == Code::Unavailable => Ok(None),
            Err(status) => bail!("{method} {message}: {status}"),
        })
        .await
    }

    /// Waits for something that happens by itself.
    pub async fn eventually<T>(
        &self,
        what: &str,
        look: impl AsyncFn() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let end = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < end {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        bail!("{what} did not come within {} s", PATIENCE.as_secs())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

/// What says who calls; nothing for an empty key.
pub fn bearer(key: &str) -> anyhow::Result<MetadataMap> {
    let mut metadata = MetadataMap::new();
    if !key.is_empty() {
        metadata.insert("authorization", format!("Bearer {key}").parse()?);
    }
    Ok(metadata)
}

/// Opens all before any runs, so that no event is sent before everybody listens.
async fn serve(
    database: &TestDatabase,
    context: &Context,
    mut listeners: BTreeMap<Service, TcpListener>,
    tls: Option<Tls>,
) -> anyhow::Result<()> {
    let settings = |service: Service| database.settings_named(service.name());
    let mut listener = |service| {
        let listener = listeners.remove(&service).context("each service listens once")?;
        anyhow::Ok(match &tls {
            Some(tls) => Listener::Tls(listener, tls.clone()),
            None => Listener::Tcp(listener),
        })
    };
    let config = phasegate_definition::Config::new(settings(Service::Definition));
    let definition = phasegate_definition::Service::open(config, context.clone()).await?;
    let config = phasegate_instance::Config::new(settings(Service::Instance));
    let instance = phasegate_instance::Service::open(config, context.clone()).await?;
    let config = phasegate_approval::Config::new(settings(Service::Approval));
    let approval = phasegate_approval::Service::open(config, context.clone()).await?;
    let config = phasegate_artifact::Config::new(settings(Service::Artifact));
    let artifact = phasegate_artifact::Service::open(config, context.clone()).await?;
    let config = phasegate_participant::Config::new(settings(Service::Participant));
    let participant = phasegate_participant::Service::open(config, context.clone()).await?;
    let mut config = phasegate_notification::Config::new(settings(Service::Notification));
    // Nobody takes mail there: it stays queued, which is all that is asked of it here.
    (config.smtp_host, config.smtp_port) = ("127.0.0.1".to_owned(), 9);
    let notification = phasegate_notification::Service::open(config, context.clone()).await?;
    tokio::spawn(definition.run(listener(Service::Definition)?));
    tokio::spawn(instance.run(listener(Service::Instance)?));
    tokio::spawn(approval.run(listener(Service::Approval)?));
    tokio::spawn(artifact.run(listener(Service::Artifact)?));
    tokio::spawn(participant.run(listener(Service::Participant)?));
    tokio::spawn(notification.run(listener(Service::Notification)?));
    Ok(())
}

//! People of an instance, their magic links and portal sessions: the participant service.
//!
//! It owns names and addresses, links and sessions, and nobody else reads its tables. A link is a row; its token is a
//! short JWT that names the row and proves that we made it, signed anew whenever it is needed. What a link may do is
//! looked up on every use, so that a withdrawal holds from the next request on. Opening a link changes nothing and
//! counts nothing, because mail scanners open links: limits begin with the first request that writes.
//!
//! Nothing happens outside that is not first written inside; whatever was written will happen at least once; whoever
//! receives it must tolerate twice. Read `domain` first, then `app`, then `store`; `grpc` converts, `reconcile` sweeps.

pub mod app;
mod config;
pub mod domain;
mod grpc;
pub mod reconcile;
pub mod store;

use std::sync::Arc;

use phasegate_bus::Receiver;
use phasegate_database::Settings;
use phasegate_outbox::{Guard, Relay};
use phasegate_page_token::PageTokens;
use phasegate_serve::{Context, Listener};
use tonic::service::Routes;

pub use config::Config;

use crate::app::App;
use crate::app::receive::CONSUMER;
use crate::app::token::Tokens;
use crate::reconcile::sweep;
use crate::store::Store;

/// The service, opened.
#[derive(Debug)]
pub struct Service {
    context: Context,
    relay: Relay,
    guard: Guard,
    app: App,
}

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be used.
    #[error("the database of the participant service cannot be opened")]
    Database(#[from] phasegate_database::Error),
    /// The server failed.
    #[error(transparent)]
    Serve(#[from] phasegate_serve::Error),
}

/// Brings a database to the tables of this service: for the job that migrates.
pub async fn migrate(database: &Settings) -> Result<(), Error> {
    Store::open(database).await?.db().close().await;
    Ok(())
}

/// Makes a tenant with its first key, which may do everything, directly in a database that has been migrated. With
/// `again`, makes such a key for a tenant that is there already: when all of its keys are lost.
pub async fn tenant_create(
    database: &Settings,
    tenant: &str,
    again: bool,
    now: phasegate_clock::Timestamp,
) -> Result<phasegate_principal::ApiKey, app::tenant::Error> {
    let store = Store::open(database).await.map_err(store::Error::Database)?;
    let made = app::tenant::create(&store, tenant, again, now).await;
    store.db().close().await;
    made
}

/// The tenants of an installation, by name.
pub async fn tenant_list(database: &Settings) -> Result<Vec<app::tenant::Tenant>, app::tenant::Error> {
    let store = Store::open(database).await.map_err(store::Error::Database)?;
    let listed = store.tenant_list().await;
    store.db().close().await;
    Ok(listed?)
}

// === impl Service ===

impl Service {
    /// Opens the store, bringing it to the schema, and listens to the bus.
    pub async fn open(config: Config, context: Context) -> Result<Self, Error> {
        let store = Store::open(&config.database).await?;
        let (db, clock) = (store.db().clone(), context.clock.clone());
        let relay = Relay::new(CONSUMER, &db, context.bus.clone(), clock.clone());
        let tokens = Tokens::new(&context.keys.link, &context.public_url);
        let app = App::new(store, context.peers.clone(), relay.clone(), context.clock.clone(), tokens);
        let guard = Guard::new(db, Receiver::Participant, Arc::new(app.clone()), clock);
        context.bus.subscribe(Receiver::Participant, Arc::new(guard.clone()));
        Ok(Self { context, relay, guard, app })
    }

    /// Relays events, sweeps and serves until shutdown.
    pub async fn run(self, listener: Listener) -> Result<(), Error> {
        let shutdown = self.context.shutdown.clone();
        let relay = self.relay.clone();
        let relaying = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { relay.run(shutdown).await }
        });
        let guard = self.guard.clone();
        let guarding = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { guard.run(shutdown).await }
        });
        let sweeping =
            tokio::spawn(sweep::run(self.app.store().clone(), self.context.clock.clone(), shutdown));
        let served = phasegate_serve::serve_while(
            phasegate_serve::Service::Participant,
            self.routes().add_service(phasegate_outbox::event_service(self.app.store().db().clone())),
            &self.context,
            listener,
            self.database().answers(),
        )
        .await;
        for task in [relaying, guarding, sweeping] {
            if let Err(error) = task.await {
                tracing::error!(%error, "a loop of the participant service ended before its time");
            }
        }
        Ok(served?)
    }

    /// The database, for whoever asks whether it answers.
    pub fn database(&self) -> &phasegate_database::Database {
        self.app.store().db()
    }

    /// The routes alone, for tests: without verification of principals.
    pub fn routes(&self) -> Routes {
        grpc::routes(self.app.clone(), PageTokens::new(&self.context.keys.page))
    }
}

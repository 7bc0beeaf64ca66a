//! Shared storage of an instance, and comments: the artifact service.
//!
//! It owns the versions of every key and the comment threads, and nobody else reads its tables. Whether an instance
//! exists, and whose lease a write comes under, it asks the instance service: a confirmed lease is not given to
//! somebody else for five seconds, and a write that has not been committed after three is given up, so that a worker
//! who lost its task stores nothing.
//!
//! Nothing happens outside that is not first written inside; whatever was written will happen at least once; whoever
//! receives it must tolerate twice. Read `domain` first, then `app`, then `store`; `grpc` converts, and
//! `reconcile` runs the relay.

pub mod app;
mod config;
pub mod domain;
mod grpc;
pub mod reconcile;
pub mod store;

use phasegate_database::{Database, Settings};
use phasegate_outbox::Relay;
use phasegate_page_token::PageTokens;
use phasegate_serve::{Context, Listener};
use tonic::service::Routes;

pub use config::Config;

use crate::app::App;
use crate::store::Store;

/// The service, opened.
#[derive(Debug)]
pub struct Service {
    context: Context,
    relay: Relay,
    db: Database,
    app: App,
}

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be used.
    #[error("the database of the artifact service cannot be opened")]
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

// === impl Service ===

impl Service {
    /// Opens the store, bringing it to the schema.
    pub async fn open(config: Config, context: Context) -> Result<Self, Error> {
        let store = Store::open(&config.database).await?;
        let db = store.db().clone();
        let name = phasegate_serve::Service::Artifact.name();
        let relay = Relay::new(name, &db, context.bus.clone(), context.clock.clone());
        let app = App::new(store, context.peers.clone(), relay.clone(), context.clock.clone());
        Ok(Self { context, relay, db, app })
    }

    /// Relays events and serves until shutdown.
    pub async fn run(self, listener: Listener) -> Result<(), Error> {
        let shutdown = self.context.shutdown.clone();
        let relaying = tokio::spawn(reconcile::run(self.relay.clone(), shutdown));
        let served = phasegate_serve::serve_while(
            phasegate_serve::Service::Artifact,
            self.routes().add_service(phasegate_outbox::event_service(self.db.clone())),
            &self.context,
            listener,
            self.database().answers(),
        )
        .await;
        if let Err(error) = relaying.await {
            tracing::error!(%error, "the relay of the artifact service ended before its time");
        }
        Ok(served?)
    }

    /// The database, for whoever asks whether it answers.
    pub fn database(&self) -> &phasegate_database::Database {
        &self.db
    }

    /// The routes alone, for tests: without verification of principals.
    pub fn routes(&self) -> Routes {
        grpc::routes(self.app.clone(), PageTokens::new(&self.context.keys.page))
    }
}

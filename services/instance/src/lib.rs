//! The engine: running processes, their tasks, leases, timers and audit trail.
//!
//! Owns what happens in an instance, and its whole record: the events of the other services become part of it, once.
//! Read `domain` first (what may happen, pure), then `app` (load, decide, append), `store` (what is kept), `grpc`.

mod app;
mod config;
pub mod domain;
mod grpc;
mod reconcile;
mod store;
#[cfg(test)]
mod tests;

use phasegate_bus::Receiver;
use phasegate_database::Settings;
use phasegate_outbox::{Guard, Relay};
use phasegate_serve::{Context, Listener};
use std::sync::Arc;

pub use app::unwired;
pub use config::Config;

use app::App;

/// The instance service, opened and not yet running.
#[derive(Debug)]
pub struct Service {
    app: App,
    relay: Relay,
    guard: Guard,
    context: Context,
    config: Config,
}

/// Why the service cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be used.
    #[error("the database of the instance service cannot be used")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server failed.
    #[error(transparent)]
    Serve(#[from] phasegate_serve::Error),
}

/// Brings a database to the tables of this service: for the job that migrates.
pub async fn migrate(database: &Settings) -> Result<(), Error> {
    let store = store::Store::open(database).await.map_err(|error| Error::Store(Box::new(error)))?;
    store.database().close().await;
    Ok(())
}

impl Service {
    /// Opens the store, migrating or checking it as the settings say, and begins to listen to the other services.
    pub async fn open(config: Config, context: Context) -> Result<Self, Error> {
        let store = store::Store::open(&config.database).await;
        let store = store.map_err(|error| Error::Store(Box::new(error)))?;
        let (db, clock) = (store.database().clone(), context.clock.clone());
        let relay = Relay::new(app::CONSUMER, &db, context.bus.clone(), clock.clone());
        let app = App::new(store, relay.clone(), context.clone(), &config);
        let guard = Guard::new(db, Receiver::Instance, Arc::new(app::Inbox(app.clone())), clock);
        context.bus.subscribe(Receiver::Instance, Arc::new(guard.clone()));
        Ok(Self { app, relay, guard, context, config })
    }

    /// Runs the relay and the reconciler, and serves until shutdown.
    pub async fn run(self, listener: Listener) -> Result<(), Error> {
        let shutdown = &self.context.shutdown;
        let relay = self.relay.run(shutdown.clone());
        let leases = reconcile::expire_leases(&self.app, self.config.lease_scan);
        let chains = reconcile::check_chains(&self.app);
        let _told = phasegate_telemetry::metrics::observe(Arc::new(self.app.clone()));
        let serving = async {
            let service = phasegate_serve::Service::Instance;
            let routes = self
                .routes()
                .add_service(phasegate_outbox::event_service(self.app.store().database().clone()));
            let answers = self.database().answers();
            let served =
                phasegate_serve::serve_while(service, routes, &self.context, listener, answers).await;
            // A server that failed takes the loops with it.
            shutdown.cancel();
            served
        };
        let guard = self.guard.run(shutdown.clone());
        let (served, (), (), (), ()) = tokio::join!(serving, relay, guard, leases, chains);
        Ok(served?)
    }

    /// The database, for whoever asks whether it answers.
    pub fn database(&self) -> &phasegate_database::Database {
        self.app.store().database()
    }

    /// The routes alone, without verification of principals.
    pub fn routes(&self) -> tonic::service::Routes {
        grpc::routes(&self.app, &self.context)
    }
}

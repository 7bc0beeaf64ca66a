//! Requests for a decision, and their decisions. This service owns what was decided about which content; whether a gate
//! opens because of it is for the instance service to say.
//!
//! Nothing happens outside that is not first written inside; whatever was written will happen at least once; whoever
//! receives it must tolerate twice.
//!
//! Read `domain` first: it holds the rules and knows nothing else. `app` loads, decides and writes; `store` is the
//! tables; `grpc` is the door for callers and `app::Inbox` the one for events; `reconcile` makes time pass.

pub mod app;
mod config;
pub mod domain;
pub mod grpc;
pub mod reconcile;
pub mod store;

use std::sync::Arc;

use phasegate_bus::Receiver;
use phasegate_database::Settings;
use phasegate_outbox::{Guard, Relay};
use phasegate_page_token::PageTokens;
use phasegate_serve::{Context, Listener};
use tonic::service::Routes;

use app::{App, Inbox, Neighbours};
use grpc::{Api, Watching};
use store::Store;

pub use config::Config;

/// The service, open and not yet serving.
#[derive(Debug)]
pub struct Service {
    app: App,
    relay: Relay,
    guard: Guard,
    config: Config,
    context: Context,
}

/// Why the service did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tables could not be opened.
    #[error("could not open the database of the approval service")]
    Store(#[from] store::Error),
    /// The server failed.
    #[error(transparent)]
    Serve(#[from] phasegate_serve::Error),
}

/// Brings a database to the tables of this service: for the job that migrates.
pub async fn migrate(database: &Settings) -> Result<(), Error> {
    Store::open(database).await?.database().close().await;
    Ok(())
}

impl Service {
    /// Opens the tables and brings them up to date, and begins to take events.
    pub async fn open(config: Config, context: Context) -> Result<Self, Error> {
        let store = Store::open(&config.database).await?;
        let (db, clock) = (store.database().clone(), context.clock.clone());
        let relay = Relay::new(app::CONSUMER, &db, context.bus.clone(), clock.clone());
        let neighbours = Neighbours::new(context.peers.clone());
        let app = App::new(store, context.clock.clone(), neighbours, relay.clone());
        let guard = Guard::new(db, Receiver::Approval, Arc::new(Inbox::new(app.clone())), clock);
        context.bus.subscribe(Receiver::Approval, Arc::new(guard.clone()));
        Ok(Self { app, relay, guard, config, context })
    }

    /// The database, for whoever asks whether it answers.
    pub fn database(&self) -> &phasegate_database::Database {
        self.app.store().database()
    }

    /// The routes alone, without verification of principals.
    pub fn routes(&self) -> Routes {
        let watching = Watching {
            checkpoint_interval: self.config.checkpoint_interval,
            shutdown: self.context.shutdown.clone(),
        };
        let pages = PageTokens::new(&self.context.keys.page);
        Routes::new(Api::new(self.app.clone(), pages, watching).into_server())
    }

    /// The application, for tests that wind the clock.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Sends events, fires timers and serves until shutdown.
    pub async fn run(self, listener: Listener) -> Result<(), Error> {
        let shutdown = &self.context.shutdown;
        let _told = phasegate_telemetry::metrics::observe(Arc::new(self.app.clone()));
        let timers = reconcile::run(self.app.clone(), self.config.timer_interval, shutdown.clone());
        let serving = async {
            let served = phasegate_serve::serve_while(
                phasegate_serve::Service::Approval,
                self.routes()
                    .add_service(phasegate_outbox::event_service(self.app.store().database().clone())),
                &self.context,
                listener,
                self.database().answers(),
            )
            .await;
            // Where the server fails, the rest has nothing left to do.
            shutdown.cancel();
            served
        };
        let guard = self.guard.run(shutdown.clone());
        let (served, (), (), ()) = tokio::join!(serving, self.relay.run(shutdown.clone()), guard, timers);
        Ok(served?)
    }
}

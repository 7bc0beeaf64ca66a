//! Mail to people: requests for their decision, reminders, receipts, and the news that they are to be told.
//!
//! The service hears what happened from the events of the others, prepares one message for each person, and hands it to a mail
//! server until it is taken. At least once, under one Message-ID, always with the same bytes; what people were asked and have
//! settled meanwhile is not sent any more. The link in a message is never stored: it is signed each time the message is handed
//! over. Who the people are, and what a link allows, is the participant service's to know.
//!
//! To read it: `domain` says who hears what, `app::receive` prepares, `app::deliver` hands over, `store` keeps.

mod app;
mod config;
mod domain;
mod grpc;
mod reconcile;
mod smtp;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_database::Settings;
use phasegate_id::NotificationId;
use phasegate_outbox::{Guard, Relay};
use phasegate_page_token::PageTokens;
use phasegate_proto::notification::v1::notification_service_server::NotificationServiceServer;
use phasegate_serve::{Context, Listener};
use tokio::sync::Notify;
use tonic::service::Routes;

pub use config::{Config, Tls};
pub use domain::RetryPolicy;
pub use store::{GivenUp, GivenUpPosition};

pub use app::unwired;

use app::{Courier, Directory, PeerDirectory, Receiver};
use store::Store;

/// Why the service did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mail server's settings cannot be used.
    #[error("the settings of the mail server cannot be used")]
    Settings(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store does not open.
    #[error("the notification store does not open")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server failed.
    #[error(transparent)]
    Serve(#[from] phasegate_serve::Error),
}

/// The notification service.
pub struct Service {
    context: Context,
    store: Store,
    guard: Guard,
    courier: Arc<Courier>,
    /// Rings when messages were added.
    added: Arc<Notify>,
    /// Rings when outcomes were stored.
    settled: Arc<Notify>,
}

/// Brings a database to the tables of this service: for the job that migrates.
pub async fn migrate(database: &Settings) -> Result<(), Error> {
    let store = Store::open(database).await.map_err(|error| Error::Store(Box::new(error)))?;
    store.database().close().await;
    Ok(())
}

/// Messages that were given up, over all tenants, the oldest first, behind the given one.
pub async fn given_up_list(
    database: &Settings,
    after: Option<&GivenUpPosition>,
    limit: u32,
) -> Result<Vec<GivenUp>, Error> {
    let store = Store::open(database).await.map_err(failed)?;
    let listed = store.given_up_list(after, limit).await;
    store.database().close().await;
    listed.map_err(failed)
}

/// Queues messages anew that were given up: one, or all without an id. How many.
pub async fn given_up_replay(
    database: &Settings,
    id: Option<NotificationId>,
    now: Timestamp,
) -> Result<u64, Error> {
    let store = Store::open(database).await.map_err(failed)?;
    let replayed = store.given_up_replay(id, now).await;
    store.database().close().await;
    replayed.map_err(failed)
}

fn failed(error: store::Error) -> Error {
    Error::Store(Box::new(error))
}

impl Service {
    /// Opens the store, migrating it, and subscribes to the bus.
    pub async fn open(config: Config, context: Context) -> Result<Service, Error> {
        let directory = Arc::new(PeerDirectory::new(context.peers.clone()));
        Service::open_with(config, context, directory).await
    }

    async fn open_with(
        config: Config,
        context: Context,
        directory: Arc<dyn Directory>,
    ) -> Result<Service, Error> {
        let from = smtp::sender(&config.smtp_from).map_err(|error| Error::Settings(Box::new(error)))?;
        let mailer = smtp::Mailer::new(&config).map_err(|error| Error::Settings(Box::new(error)))?;
        let store = Store::open(&config.database).await.map_err(|error| Error::Store(Box::new(error)))?;
        let added = Arc::new(Notify::new());
        let settled = Arc::new(Notify::new());
        let receiver = Receiver::new(
            store.clone(),
            Arc::clone(&directory),
            context.clock.clone(),
            from.email.domain().to_owned(),
            Arc::clone(&added),
        );
        let guard = Guard::new(
            store.database().clone(),
            phasegate_bus::Receiver::Notification,
            Arc::new(receiver),
            context.clock.clone(),
        );
        context.bus.subscribe(phasegate_bus::Receiver::Notification, Arc::new(guard.clone()));
        let courier = Arc::new(Courier {
            store: store.clone(),
            directory,
            mailer,
            from,
            retry: config.retry,
            clock: context.clock.clone(),
            settled: Arc::clone(&settled),
            shutdown: context.shutdown.clone(),
        });
        Ok(Service { context, store, guard, courier, added, settled })
    }

    /// Delivers, relays events and serves until shutdown.
    pub async fn run(self, listener: Listener) -> Result<(), Error> {
        let shutdown = self.context.shutdown.clone();
        let database = self.store.database().clone();
        let (bus, clock) = (self.context.bus.clone(), self.context.clock.clone());
        let relay = Relay::new(store::CONSUMER, &database, bus, clock);
        let deliver = reconcile::deliver_due(Arc::clone(&self.courier), self.added.clone(), shutdown.clone());
        let wake = async {
            loop {
                self.settled.notified().await;
                relay.wake();
            }
        };
        let serve = phasegate_serve::serve_while(
            phasegate_serve::Service::Notification,
            self.routes().add_service(phasegate_outbox::event_service(database)),
            &self.context,
            listener,
            self.database().answers(),
        );
        let work = async {
            tokio::join!(serve, deliver, relay.run(shutdown.clone()), self.guard.run(shutdown.clone())).0
        };
        tokio::select! {
            served = work => served.map_err(Error::from),
            () = wake => Ok(()),
        }
    }

    /// The database, for whoever asks whether it answers.
    pub fn database(&self) -> &phasegate_database::Database {
        self.store.database()
    }

    /// The routes alone, without verification of principals.
    pub fn routes(&self) -> Routes {
        let tokens = PageTokens::new(&self.context.keys.page);
        let api = grpc::Api::new(self.store.clone(), self.context.peers.clone(), tokens);
        Routes::new(phasegate_serve::bounded!(NotificationServiceServer::new(api)))
    }
}

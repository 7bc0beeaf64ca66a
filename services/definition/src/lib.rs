//! Process definitions, team templates and teams: the definition service.
//!
//! It owns what authors wrote, as they wrote it. Whether that is sound is for `phasegate_process` to say, which the
//! instance service uses, too; this service adds that a published version never changes. It asks no other service and
//! sends no event: an instance fetches the bytes of its version once and keeps them.
//!
//! Read `domain` first, then `app`, then `store`; `grpc` converts. There are no loops: nothing here falls due.

pub mod app;
mod config;
pub mod domain;
mod grpc;
pub mod store;

use phasegate_database::Settings;
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
    app: App,
}

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be used.
    #[error("the database of the definition service cannot be opened")]
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
        let app = App::new(store, context.clock.clone());
        Ok(Self { context, app })
    }

    /// Serves until shutdown.
    pub async fn run(self, listener: Listener) -> Result<(), Error> {
        let _told = self.database().observe("definition");
        let routes = self.routes();
        let name = phasegate_serve::Service::Definition;
        let answers = self.database().answers();
        Ok(phasegate_serve::serve_while(name, routes, &self.context, listener, answers).await?)
    }

    /// The database, for whoever asks whether it answers.
    pub fn database(&self) -> &phasegate_database::Database {
        self.app.database()
    }

    /// The routes alone, for tests: without verification of principals.
    pub fn routes(&self) -> Routes {
        grpc::routes(self.app.clone(), PageTokens::new(&self.context.keys.page))
    }
}

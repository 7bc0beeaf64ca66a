//! The one port for everything outside: gRPC, REST, events, documents and pages.
//!
//! The gateway finds out who calls, bounds what comes in, and passes calls on. gRPC goes through undecoded; REST is made
//! from the contracts' HTTP annotations by descriptor, so that a method is there the day it is written. No rule of the
//! product stands here: what a call may do is for the service that it reaches.

mod affinity;
mod caller;
mod comment;
mod config;
mod document;
mod door;
mod error;
mod foreign;
mod grpc;
mod guard;
mod method;
mod oidc;
mod page;
pub mod portal;
mod rate;
mod refusal;
mod rest;
mod room;
mod server;
mod stream;
mod upstream;

use std::sync::Arc;

use axum::Router;
use phasegate_serve::Context;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use self::caller::Callers;
use self::door::Door;
use self::grpc::Grpc;
use self::guard::Guard;
use self::method::Methods;
use self::page::Pages;
use self::rate::Ledger;
use self::rest::Rest;
use self::rest::route::Routes;
use self::room::Room;
use self::stream::Streams;
use self::upstream::Upstream;

pub use self::config::{Config, Limits};
pub use self::error::Error;
pub use self::oidc::Settings as Oidc;
pub use self::rate::{Rate, Rates};

/// The gateway, ready to listen.
#[derive(Debug)]
pub struct Service {
    config: Config,
    context: Context,
    door: Arc<Door>,
    ledger: Arc<Ledger>,
    health: HealthReporter,
}

impl Service {
    /// Reads the contracts. `pages` are served beside: the portal, and in `dev` the caught mail.
    pub fn open(config: Config, context: Context, pages: Router) -> Result<Self, Error> {
        let methods = Arc::new(Methods::read(&config.limits)?);
        let routes = Arc::new(Routes::read(&methods)?);
        let (local, health) = grpc::local::routes(&context.public_url, &config.limits)?;
        let upstream = Upstream::new(context.peers.clone(), local, context.shutdown.clone());
        let ledger = Arc::new(Ledger::new(config.rates.clone())?);
        let room = Room::new(&config.limits);
        let callers = Callers::new(&config, &context, ledger.clone()).map_err(Error::Http)?;
        let callers = Arc::new(callers);
        let streams = Streams::new(config.limits.streams_max, callers.clone(), context.shutdown.clone());
        let door = Door {
            guard: Guard::new(config.dev, &context.public_url, &config.limits),
            grpc: Grpc {
                methods,
                upstream: upstream.clone(),
                callers: callers.clone(),
                config: config.clone(),
                streams: streams.clone(),
                room: room.clone(),
            },
            pages: Pages::new(
                &routes,
                config.dev,
                &context.public_url,
                context.peers.clone(),
                context.shutdown.clone(),
            ),
            rest: Rest { routes, upstream, callers, config: config.clone(), streams, room: room.clone() },
            extra: pages.fallback(door::nowhere),
            calls: TaskTracker::new(),
            ledger: ledger.clone(),
            room,
            is_https: context.public_url.starts_with("https://"),
        };
        Ok(Self { config, context, door: Arc::new(door), ledger, health })
    }

    /// Serves until the context says shutdown. In `dev` only on loopback: there, whoever calls is the operator.
    pub async fn run(self, listener: TcpListener) -> Result<(), Error> {
        let address = listener.local_addr().map_err(Error::Listen)?;
        if self.config.dev && !address.ip().is_loopback() {
            return Err(Error::NotLoopback(address));
        }
        let _told = phasegate_telemetry::build_info("gateway");
        self.health.set_service_status("", ServingStatus::Serving).await;
        let stopping = async {
            tokio::select! {
                () = self.context.draining.cancelled() => {}
                () = self.context.shutdown.cancelled() => {}
            }
            self.health.set_service_status("", ServingStatus::NotServing).await;
        };
        let serving = server::serve(self.door, listener, &self.config.limits, self.context.shutdown.clone());
        tokio::select! {
            (served, ()) = async { tokio::join!(serving, stopping) } => served,
            () = self.ledger.watch() => Ok(()),
        }
    }
}

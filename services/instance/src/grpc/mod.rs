//! The calls of the service: convert, execute, convert.

mod convert;
mod event;
mod instance;
mod internal;
mod record;
mod refusal;
mod task;
mod view;
mod worker;

use phasegate_page_token::PageTokens;
use phasegate_proto::instance::v1::event_service_server::EventServiceServer;
use phasegate_proto::instance::v1::instance_service_server::InstanceServiceServer;
use phasegate_proto::instance::v1::task_service_server::TaskServiceServer;
use phasegate_proto::internal::instance::v1::instance_internal_service_server::InstanceInternalServiceServer;
use phasegate_proto::worker::v1::worker_service_server::WorkerServiceServer;
use phasegate_serve::{Context, MESSAGE_BYTES_MAX, bounded};
use tonic::service::Routes;

use crate::app::App;

/// Answers all calls.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    app: App,
    pages: PageTokens,
}

/// The routes of the service.
pub(crate) fn routes(app: &App, context: &Context) -> Routes {
    let api = Api { app: app.clone(), pages: PageTokens::new(&context.keys.page) };
    let mut routes = Routes::builder();
    routes
        .add_service(bounded!(InstanceServiceServer::new(api.clone()), MESSAGE_BYTES_MAX))
        .add_service(bounded!(TaskServiceServer::new(api.clone())))
        .add_service(bounded!(EventServiceServer::new(api.clone())))
        .add_service(bounded!(WorkerServiceServer::new(api.clone()), MESSAGE_BYTES_MAX))
        .add_service(bounded!(InstanceInternalServiceServer::new(api)));
    routes.routes()
}

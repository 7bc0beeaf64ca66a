//! The port for probes: whether the process lives, and whether it may be given work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Answers for as long as the process lives. Not ready before everything is open, and from the first sign of the end.
pub(super) async fn run(listener: TcpListener, is_ready: Arc<AtomicBool>, draining: CancellationToken) {
    let readiness = move || {
        let is_ready = is_ready.load(Ordering::Relaxed) && !draining.is_cancelled();
        std::future::ready(if is_ready {
            (StatusCode::OK, "ready\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
        })
    };
    let router = Router::new()
        .route("/healthz", get(|| std::future::ready("alive\n")))
        .route("/readyz", get(readiness));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "probes are no longer answered");
    }
}

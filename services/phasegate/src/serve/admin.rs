//! The port for probes and for Prometheus: whether the process lives, whether it may be given work, and what it counts.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use phasegate_database::Database;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::scrape;

/// What was heard of the databases stays good for this long, however many ask.
const FRESH: Duration = Duration::from_secs(2);
/// A database that takes longer to answer is away.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the process may be given work: everything is open, its databases answer, and it is not about to stop.
/// Services of other processes do not count: calls that need one that is away are refused, the others are answered.
#[derive(Debug)]
pub(super) struct Readiness {
    /// Cancelled once everything is open.
    pub(super) open: CancellationToken,
    pub(super) draining: CancellationToken,
    pub(super) databases: Vec<Database>,
    pub(super) heard: Mutex<Option<(Instant, bool)>>,
}

impl Readiness {
    async fn is_ready(&self) -> bool {
        self.open.is_cancelled() && !self.draining.is_cancelled() && self.databases_answer().await
    }

    async fn databases_answer(&self) -> bool {
        let mut heard = self.heard.lock().await;
        if let Some((at, answered)) = *heard
            && at.elapsed() < FRESH
        {
            return answered;
        }
        let pings = futures::future::try_join_all(self.databases.iter().map(Database::ping));
        let answered = matches!(tokio::time::timeout(PATIENCE, pings).await, Ok(Ok(_)));
        // That a database does not answer it says itself; here only what follows from it, once.
        if !answered && heard.is_none_or(|(_, before)| before) {
            tracing::warn!("this process is not ready until its database answers");
        }
        if answered && heard.is_some_and(|(_, before)| !before) {
            tracing::info!("this process is ready again");
        }
        *heard = Some((Instant::now(), answered));
        answered
    }
}

/// Answers for as long as the process lives.
pub(super) async fn run(listener: TcpListener, readiness: Arc<Readiness>) {
    let router = Router::new()
        .route("/healthz", get(|| std::future::ready("alive\n")))
        .route("/readyz", get(ready))
        .with_state(readiness)
        .merge(scrape::router());
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "probes are no longer answered");
    }
}

async fn ready(State(readiness): State<Arc<Readiness>>) -> (StatusCode, &'static str) {
    if readiness.is_ready().await {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

#[cfg(test)]
mod tests {
    use phasegate_database::Settings;

    use super::*;

    #[tokio::test]
    async fn a_process_is_ready_between_its_opening_and_its_end_while_its_databases_answer() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::Sqlite { path: folder.path().join("a.db") };
        let database = Database::open(&settings, &[]).await.unwrap();
        let readiness = Readiness {
            open: CancellationToken::new(),
            draining: CancellationToken::new(),
            databases: vec![database.clone()],
            heard: Mutex::default(),
        };
        assert!(!readiness.is_ready().await);
        readiness.open.cancel();
        assert!(readiness.is_ready().await);
        database.close().await;
        assert!(readiness.is_ready().await, "what was heard a moment ago is good");
        *readiness.heard.lock().await = None;
        assert!(!readiness.is_ready().await);

        let alone = Readiness { databases: Vec::new(), heard: Mutex::default(), ..readiness };
        assert!(alone.is_ready().await);
        alone.draining.cancel();
        assert!(!alone.is_ready().await);
    }
}

//! Connections: HTTP/1.1 and HTTP/2 without TLS on one port, each bounded in size, number and time.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Limits;
use crate::door::Door;
use crate::error::Error;
use crate::rate::Peer;

/// How an HTTP/2 connection begins.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What the protocol itself takes of headers; the guard refuses from less on, with a reason.
const HEADER_BYTES_HARD_MAX: usize = 64 * 1024;
const HEADERS_HARD_MAX: usize = 400;
/// HTTP/2 streams that are opened and reset at once are a known attack.
const RESETS_PENDING_MAX: usize = 20;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what is under way on a connection that has grown old may still take: as long as any stream of a caller whom
/// we know, and no longer for those whom we do not.
const GRACE: Duration = phasegate_serve::STREAM_AGE_MAX;
/// After a failed accept, mostly for want of file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// After this long, what has not finished is dropped.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(phasegate_serve::DRAIN_SECONDS);

/// Serves until told to stop, and returns once the calls under way are done, or the time for that is over.
pub(crate) async fn serve(
    door: Arc<Door>,
    listener: TcpListener,
    limits: &Limits,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let calls = door.calls.clone();
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let connections = TaskTracker::new();
    let dropped = CancellationToken::new();
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            () = shutdown.cancelled() => break,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { break };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => (stream, peer.ip()),
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        let connection = connection(door.clone(), stream, peer, limits.clone(), shutdown.clone());
        let dropped = dropped.clone();
        connections.spawn(async move {
            let _place = place;
            tokio::select! {
                () = connection => {}
                () = dropped.cancelled() => {}
            }
        });
    }
    connections.close();
    // A client that is idle, or that does not answer, is not waited for.
    let done = async {
        tokio::select! {
            () = connections.wait() => {}
            () = phasegate_serve::drained(&calls) => {}
        }
    };
    if tokio::time::timeout(DRAIN_TIME_MAX, done).await.is_err() {
        tracing::warn!("calls from outside were still under way when the time to stop ran out");
    }
    dropped.cancel();
    Ok(())
}

async fn connection(
    door: Arc<Door>,
    stream: TcpStream,
    peer: IpAddr,
    limits: Limits,
    shutdown: CancellationToken,
) {
    // Small answers must not wait for the acknowledgement of earlier ones.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection broke at once");
        return;
    }
    let is_http2 = tokio::select! {
        is_http2 = tokio::time::timeout(limits.arrival_time_max, begins_http2(&stream)) => is_http2,
        () = shutdown.cancelled() => return,
    };
    let Ok(Some(is_http2)) = is_http2 else { return };
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        let door = door.clone();
        async move { Ok::<Response<Body>, Infallible>(door.enter(request.map(Body::new)).await) }
    });
    let io = TokioIo::new(stream);
    // Callers that came together do not have to come back together.
    let age_max = limits.connection_age_max.mul_f64(rand::random_range(0.8..1.2));
    let leaves = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(age_max) => {}
        }
    };
    let ended = if is_http2 {
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.calls_per_connection_max)
            .max_header_list_size(u32::try_from(HEADER_BYTES_HARD_MAX).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .serve_connection(io, service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = leaves => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
            }
        }
    } else {
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_time_max)
            .max_buf_size(HEADER_BYTES_HARD_MAX)
            .max_headers(HEADERS_HARD_MAX)
            .half_close(false)
            .serve_connection(io, service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = leaves => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Looks at the first bytes without taking them; nothing if the other side has gone.
async fn begins_http2(stream: &TcpStream) -> Option<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut first).await.ok()?;
        let begun = first.get(..count).filter(|begun| !begun.is_empty())?;
        if !PREFACE.starts_with(begun) {
            return Some(false);
        }
        if count == PREFACE.len() {
            return Some(true);
        }
        // What has been seen is seen again at once: there is nothing to wait upon but time.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

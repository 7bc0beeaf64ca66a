//! A connection in memory: gRPC between services of one process, without a socket.

use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::Listener;

/// Bytes that wait in one direction of a connection.
const BUFFER_BYTES: usize = 256 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 16;

/// A listener, and the channel that reaches it.
pub fn pipe() -> (Listener, Channel) {
    let (sender, receiver) = mpsc::channel::<DuplexStream>(BACKLOG);
    let connector = tower::service_fn(move |_: Uri| {
        let sender = sender.clone();
        async move {
            let (near, far) = tokio::io::duplex(BUFFER_BYTES);
            let sent = sender.send(far).await;
            sent.map_err(|_| {
                std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "the service has stopped")
            })?;
            Ok::<_, std::io::Error>(TokioIo::new(near))
        }
    });
    let channel = Endpoint::from_static("http://pipe.invalid")
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .connect_with_connector_lazy(connector);
    (Listener::Pipe(receiver), channel)
}

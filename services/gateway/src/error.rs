//! Why the gateway does not start, or stops.

/// Why the gateway does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A package of `proto/` that no service serves.
    #[error("no service serves the package {0}")]
    Homeless(String),
    /// A method whose requests are a stream, which the gateway does not pass on.
    #[error("the method {0} takes a stream of requests, which the gateway does not pass on")]
    ClientStreaming(String),
    /// A method whose name is no path.
    #[error("{0} is not a path")]
    Path(String),
    /// A route that says what cannot be.
    #[error("the route of {method} cannot be served: {why}")]
    Route {
        /// Method.
        method: String,
        /// What is wrong with it.
        why: String,
    },
    /// The descriptors cannot be served for reflection.
    #[error("the descriptors cannot be reflected")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// In `dev`, everybody is the operator: only this machine may reach it.
    #[error("a development server listens on loopback addresses only, not on {0}")]
    NotLoopback(std::net::SocketAddr),
    /// No client for HTTP can be made.
    #[error("the keys of the issuer cannot be asked for")]
    Http(#[source] reqwest::Error),
    /// A Redis that cannot be meant.
    #[error("the URL of Redis cannot be used: {0}")]
    Redis(String),
    /// The listener is broken.
    #[error("the port cannot be listened on")]
    Listen(#[source] std::io::Error),
}

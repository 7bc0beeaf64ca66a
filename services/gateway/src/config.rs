//! Settings of the gateway. Every limit is a field, so that none hides in the code that keeps it.

use std::time::Duration;

use crate::oidc;
use crate::rate::Rates;

/// Settings of the gateway.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// On the developer's own machine: loopback only, and a call without a key is the operator `dev`.
    pub dev: bool,
    /// Whose access tokens operators bring, besides keys.
    pub oidc: Option<oidc::Settings>,
    /// What it takes at most.
    pub limits: Limits,
    /// How often somebody may call.
    pub rates: Rates,
}

/// What the gateway takes at most.
#[derive(Debug, Clone)]
#[expect(clippy::struct_field_names, reason = "each says what it bounds, and that it does")]
pub struct Limits {
    /// Connections at a time.
    pub connections_max: usize,
    /// A connection is given up after about this long, so that callers spread over copies that have come since. Calls and
    /// streams that are under way on it come to their end.
    pub connection_age_max: Duration,
    /// Calls at a time on one HTTP/2 connection.
    pub calls_per_connection_max: u32,
    /// Calls at a time, over all connections; long polls and streams do not count.
    pub calls_max: usize,
    /// Long polls at a time, over all connections.
    pub polls_max: usize,
    /// Open streams of events, over all connections.
    pub streams_max: usize,
    /// Headers of one call, names and values together.
    pub header_bytes_max: usize,
    /// Headers of one call.
    pub headers_max: usize,
    /// Body of a REST call.
    pub body_bytes_max: usize,
    /// Body of a REST call that stores an artifact: the largest content in base64, and what goes with it.
    pub store_body_bytes_max: usize,
    /// Message of a gRPC call.
    pub message_bytes_max: usize,
    /// How long a caller may take to begin, and for the body of a call.
    pub arrival_time_max: Duration,
    /// How long a connection of HTTP/1.1 may take from one call to the headers of the next.
    pub header_time_max: Duration,
    /// How long an answer may take where the caller gives no deadline.
    pub answer_time_max: Duration,
    /// The same for a long poll, which waits up to a minute by itself.
    pub poll_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            connection_age_max: Duration::from_mins(10),
            calls_per_connection_max: 256,
            calls_max: 1024,
            polls_max: 4096,
            streams_max: 1000,
            header_bytes_max: 16 * 1024,
            headers_max: 100,
            body_bytes_max: 1024 * 1024,
            store_body_bytes_max: 12 * 1024 * 1024,
            message_bytes_max: 4 * 1024 * 1024,
            arrival_time_max: Duration::from_secs(10),
            header_time_max: Duration::from_secs(30),
            answer_time_max: Duration::from_secs(30),
            poll_time_max: Duration::from_secs(75),
        }
    }
}

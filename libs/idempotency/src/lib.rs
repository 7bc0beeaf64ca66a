//! The first answer to a request id.

//! Requests for a decision, and their decisions.

pub mod domain;
pub mod store;

//! Requests for a decision, and their decisions.

pub mod app;
pub mod domain;
pub mod store;

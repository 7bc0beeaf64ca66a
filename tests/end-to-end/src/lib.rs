//! Starts the real `phasegate` program for tests, and talks to it as its users do. It must have been built:
//! `tests/run` and `cargo build --workspace` do.

mod production;
mod rest;
mod server;

pub use production::Production;
pub use rest::Rest;
pub use server::{Server, Storage, program};

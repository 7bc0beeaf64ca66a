//! Servers of a run's own, and the processes of production, all on this machine.

mod port;
mod postgres;
mod service;
mod signal;

pub use port::Ports;
pub use postgres::Postgres;
pub use service::{Machine, Places, Process, SERVICES};

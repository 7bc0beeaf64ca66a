//! What a run breaks: servers of its own, and the processes of production, all on this machine.

mod port;
mod postgres;
mod service;
mod signal;

pub(crate) use port::Ports;
pub(crate) use postgres::Postgres;
pub(crate) use service::{Machine, Places, SERVICES};

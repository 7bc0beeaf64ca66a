//! Events written with the change, relayed after it, applied once. What the events mean is never here.
//!
//! A service appends an event in the transaction of its change with [`append`]. A [`Relay`] claims what was not sent
//! and gives it to the bus: at once when it is woken after the commit, and by a timer for what got stuck. Rows are
//! claimed by the mark "not sent" and never by "greater than the last position", because a transaction with a lower
//! position may commit later. Events of one instance are sent in order; instances go in parallel.
//!
//! What is on its way over a bus that may lose it is sent again until each receiver has confirmed it to
//! [`event_service`].
//!
//! A [`Guard`] stands before each receiver and sets aside what it cannot take. A receiver calls [`inbox_receive`] in the
//! transaction of the effect, so that an event which arrives twice takes effect once.

mod append;
mod confirmations;
mod dead_letter;
mod guard;
mod inbox;
mod outgoing;
mod relay;
mod seen;
mod store;

use phasegate_database::Migration;

pub use append::{append, append_all, event};
pub use confirmations::event_service;
pub use dead_letter::{DeadLetter, DeadLetterPosition, dead_letters, replay};
pub use guard::Guard;
pub use inbox::inbox_receive;
pub use outgoing::Outgoing;
pub use relay::Relay;
pub use store::confirm;

/// The tables of this crate. The first migration of every service.
pub const MIGRATION: Migration = Migration {
    version: 1,
    name: "outbox",
    postgres: include_str!("../migrations/postgres/0001_outbox.sql"),
    sqlite: include_str!("../migrations/sqlite/0001_outbox.sql"),
};

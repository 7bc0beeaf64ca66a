//! Wrong input over every door: what is refused, exactly how, and that nothing has changed by it.
//!
//! `list.txt` has a row for every kind of wrong input that we know of. The tests are in `tests/it`, one module for each part of
//! the product; all of them run over gRPC and over REST, on SQLite and on PostgreSQL, in a whole Phasegate that they share.

mod case;
mod contract;
mod door;
mod rows;
mod scene;
mod world;

pub use case::{Case, Check};
pub use contract::Contract;
pub use door::{Answer, Doors, Refusal, RestCall, find, message, rest_call, with_number};
pub use rows::{Rows, Standing};
pub use scene::{Scene, crew, launch};
pub use world::{Kind, World, alone, on_both, on_postgres};

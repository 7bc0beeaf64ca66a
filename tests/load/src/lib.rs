//! Clients that drive whole instances through the REST face: operators, agents, people who decide, watchers. They repeat
//! what got no answer, and remember what they were told; the checker compares it with what is there in the end.
//!
//! The tests that break things while the clients work are others' (`tests/end-to-end`, `tests/faults`).

pub mod agent;
pub mod approver;
pub mod check;
mod entry;
pub mod ledger;
pub mod machine;
pub mod meter;
pub mod operator;
pub mod process;
pub mod run;
pub mod sink;
pub mod waiting;
pub mod watcher;
pub mod window;

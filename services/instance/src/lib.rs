//! The engine: running processes, their tasks, leases, timers and audit trail.

pub mod domain;

//! The one port for everything outside.

pub mod portal;

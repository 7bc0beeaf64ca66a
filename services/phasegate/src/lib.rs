//! The one binary, as a library: `phasegate dev`, `phasegate demo` and the command line. Services are crates of their
//! own; what stands here starts them and talks to them.

pub mod admin;
pub mod cli;
pub mod demo;
pub mod dev;
mod scrape;
pub mod serve;

//! A whole Phasegate in the test's own process, with a clock that can be moved, and a browser to walk its portal with.

mod browser;
mod world;

pub use browser::{Browser, Form, Page};
pub use world::{World, on_both};

//! The service over a pipe, beside small peers that say what a test tells them to: for each method done, refused and
//! repeated, and what events and time do.

mod ask;
mod decide;
mod events;
mod fakes;
mod read;
mod time;
mod watch;
mod world;

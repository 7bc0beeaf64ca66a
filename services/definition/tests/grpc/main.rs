//! The service over an in-memory pipe, on both databases: for each method what it does, what it refuses, and what it
//! answers when it is asked again.

mod definition;
mod list;
mod refused;
mod template;
mod world;

//! The gateway as its callers meet it: over real HTTP, in front of services that answer what a test lays ready.

mod backend;
mod bad_input;
mod events;
mod golden;
mod limits;
mod passing;
mod surroundings;

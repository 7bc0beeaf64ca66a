//! Each method over a pipe: done, refused without a trace, repeated; on both databases.

mod calls;
mod link;
mod mailed;
mod person;
mod session;
mod world;

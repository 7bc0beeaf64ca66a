//! Each method over a pipe: done, refused without a trace, repeated; on both databases.

mod approval;
mod calls;
mod comment;
mod read;
mod store;
mod world;

//! The service as others meet it: real calls over a pipe, a real database of each kind, and small stand-ins for the
//! services that it asks.

mod bad;
mod hang_up;
mod house;
mod lease;
mod record;
mod review;
mod start;
mod two;

//! The rules of people, their links and the keys of programs: who may have one, what it lets its holder do, when it ends, and what a portal
//! session of it may still do. Pure: rows and the time are passed in; tokens, hashes and randomness are in `app`.

pub mod key;
pub mod link;
pub mod permission;
pub mod person;
pub mod session;

/// Who did something, as the contract's message encodes it. Opaque here: no rule looks into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author(pub Vec<u8>);

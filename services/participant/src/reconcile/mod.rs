//! Loops that act on state. They take no input, so that whatever was missed is found by the next round.

pub mod sweep;

//! The `phasegate` program.

fn main() {}

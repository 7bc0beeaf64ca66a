//! What time it is, as an input.

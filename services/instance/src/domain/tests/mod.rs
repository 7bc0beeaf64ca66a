//! What the tests of the concerns share, and tests of the whole.

pub(super) mod play;
mod properties;
mod whole;

//! The definition graph and its validity.

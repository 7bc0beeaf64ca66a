//! Mail to people.

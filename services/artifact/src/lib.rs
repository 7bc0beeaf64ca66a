//! Shared storage of an instance, and comments.

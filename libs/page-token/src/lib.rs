//! Where the next page of a list begins.

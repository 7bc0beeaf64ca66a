//! One newtype per noun.

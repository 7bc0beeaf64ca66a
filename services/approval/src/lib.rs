//! Requests for a decision, and their decisions.

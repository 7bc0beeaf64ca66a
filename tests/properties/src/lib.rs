//! Random processes, run by the engine and by a plain model of the rules; whatever differs is a fault of one of them.
//!
//! [`reference`] is the model, written from the rules alone: it keeps words and numbers where the engine keeps events,
//! and shares nothing with it but the definition types. [`generate`] makes definitions, [`execute`] plays one against
//! both, with people who answer, workers that die and messages that come late, and [`cover`] counts what was met,
//! because a generator that never makes the interesting case proves nothing.
//!
//! Everything hangs on one number: a seed makes the same definition and the same play, on every machine.

pub mod chance;
pub mod cover;
pub mod execute;
pub mod generate;
pub mod reference;

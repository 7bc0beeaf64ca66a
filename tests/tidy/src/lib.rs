//! The rules of the house, as tests: what a reader may rely on everywhere, and a compiler does not check.
//!
//! Each module holds one subject and begins with why it is a rule. A rule that stops being right is changed here, in the same
//! commit as what it forbade. The crate builds on almost nothing, so that it answers before anything else has been compiled.

#[cfg(test)]
mod domain;
#[cfg(test)]
mod layout;
#[cfg(test)]
mod licence;
#[cfg(test)]
mod manifest;
#[cfg(test)]
mod migration;
#[cfg(test)]
mod reason;
#[cfg(test)]
mod source;
#[cfg(test)]
mod supply;
#[cfg(test)]
mod text;
#[cfg(test)]
mod tree;

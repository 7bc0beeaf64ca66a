//! The one binary: `phasegate dev`, `phasegate demo` and the command line.

//! The one port for everything outside.

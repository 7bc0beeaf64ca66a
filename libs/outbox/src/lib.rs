//! Events written with the change, relayed after it, applied once.

//! Runs a gRPC server until it is told to stop, over TCP or a pipe in memory.

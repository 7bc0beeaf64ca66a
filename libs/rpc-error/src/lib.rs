//! How a refusal becomes a gRPC status.

//! Generated messages, clients, servers and the descriptor set of everything in `proto/`.

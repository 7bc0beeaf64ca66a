//! Wrong input over every door: what is refused, exactly how, and that nothing has changed by it.
//!
//! `list.txt` has a row for every kind of wrong input that we know of. The tests are in `tests/it`, one module for each part of
//! the product; all of them run over gRPC and over REST, on SQLite and on PostgreSQL.

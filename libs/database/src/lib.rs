//! PostgreSQL and SQLite behind one set of calls.

//! What can go wrong with a database, and which of it may go right when tried again.

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error("could not {doing}")]
    Statement {
        /// What was being done; the beginning of the statement.
        doing: String,
        /// Why it failed.
        source: sqlx::Error,
    },
    /// A column holds something else than asked for, or does not exist.
    #[error("column {column} {problem}")]
    Column {
        /// The column.
        column: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A setting cannot be used.
    #[error("{0}")]
    Settings(String),
    /// The database could lose what it has acknowledged.
    #[error("the database is not safe to use: {0}")]
    Unsafe(String),
    /// The migrations of the program and those of the database do not belong together.
    #[error("migration {version} ({name}) {problem}")]
    Migration {
        /// Its number.
        version: i64,
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The connection was lost over a commit: whether the transaction took effect, nobody knows.
    #[error("a transaction may or may not have been committed")]
    InDoubt(#[source] sqlx::Error),
    /// The task of a transaction panicked, or ended with the program; the transaction was rolled back. Whoever does it
    /// again panics again.
    #[error("the transaction was aborted: {0}")]
    Aborted(String),
}

// === impl Error ===

impl Error {
    pub(crate) fn statement(sql: &str, source: sqlx::Error) -> Self {
        // Enough to find the statement. Statements hold placeholders only, so no value of anybody is in it.
        let doing: Vec<&str> = sql.split_whitespace().take(12).collect();
        Self::Statement { doing: format!("execute `{}`", doing.join(" ")), source }
    }

    /// Whether a statement named a table that is not there.
    pub(crate) fn is_undefined_table(&self) -> bool {
        let Self::Statement { source: sqlx::Error::Database(error), .. } = self else { return false };
        error.code().as_deref() == Some("42P01")
    }

    /// Whether a statement was not given a lock in time.
    pub(crate) fn is_lock_timeout(&self) -> bool {
        let Self::Statement { source: sqlx::Error::Database(error), .. } = self else { return false };
        error.code().as_deref() == Some("55P03")
    }

    pub(crate) fn doing(doing: &str, source: sqlx::Error) -> Self {
        Self::Statement { doing: doing.to_owned(), source }
    }

    /// What the database refuses to commit is rolled back; where it did not get to say so, the change may be there.
    pub(crate) fn committing(source: sqlx::Error) -> Self {
        let is_refused = if let sqlx::Error::Database(error) = &source {
            error.code().is_none_or(|code| !code.starts_with("57P") && !code.starts_with("08"))
        } else {
            false
        };
        if is_refused { Self::doing("commit a transaction", source) } else { Self::InDoubt(source) }
    }

    /// The change may have taken effect. Whoever tries again must look first.
    pub const fn is_in_doubt(&self) -> bool {
        matches!(self, Self::InDoubt(_))
    }

    /// Nothing was changed, and the same may succeed if it is tried again: somebody wrote the same key first, or the
    /// database was not able to. What may have been committed is none of these, because it must not be done twice.
    pub fn is_passing(&self) -> bool {
        self.is_unique_violation() || (self.is_transient() && !self.is_in_doubt())
    }

    /// The constraint that a statement violated; PostgreSQL only.
    pub fn constraint(&self) -> Option<&str> {
        let Self::Statement { source: sqlx::Error::Database(error), .. } = self else { return None };
        error.constraint()
    }

    /// No connection was to be had in time.
    pub(crate) fn has_no_connection(&self) -> bool {
        matches!(self, Self::Statement { source: sqlx::Error::PoolTimedOut, .. })
    }

    /// The same for another one who waited for the same answer of a database that is away.
    pub fn for_another(&self) -> Self {
        let said = |source: &sqlx::Error| {
            if matches!(source, sqlx::Error::PoolTimedOut) {
                return sqlx::Error::PoolTimedOut;
            }
            sqlx::Error::Protocol(source.to_string())
        };
        match self {
            Self::InDoubt(source) => Self::InDoubt(said(source)),
            Self::Statement { doing, source } => {
                Self::Statement { doing: doing.clone(), source: said(source) }
            }
            Self::Column { .. }
            | Self::Settings(_)
            | Self::Unsafe(_)
            | Self::Migration { .. }
            | Self::Aborted(_) => Self::Aborted(self.to_string()),
        }
    }

    /// A row with that key is there already.
    pub fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Statement { source: sqlx::Error::Database(error), .. } if error.is_unique_violation())
    }

    /// The same may succeed if it is tried again: the database was away, busy, or chose another transaction.
    pub fn is_transient(&self) -> bool {
        let Self::Statement { source, .. } = self else {
            return self.is_in_doubt();
        };
        if let sqlx::Error::Database(error) = source {
            return error.code().is_some_and(|code| is_transient_code(&code));
        }
        // A connection that is cut while it is made is read as an answer that makes no sense.
        matches!(
            source,
            sqlx::Error::Io(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
        )
    }

    /// The database did not answer at all, or said that it starts or stops.
    pub fn is_away(&self) -> bool {
        let source = match self {
            Self::InDoubt(_) => return true,
            Self::Statement { source, .. } => source,
            Self::Column { .. }
            | Self::Settings(_)
            | Self::Unsafe(_)
            | Self::Migration { .. }
            | Self::Aborted(_) => return false,
        };
        if let sqlx::Error::Database(error) = source {
            let is_trouble =
                |code: &str| code.starts_with("57P") || code.starts_with("08") || code == "53300";
            return error.code().is_some_and(|code| is_trouble(&code));
        }
        self.is_transient()
    }
}

/// Tells of something that a loop could not do: a warning, unless the database was away, which has been told.
/// `what` is a whole sentence.
pub fn tell(error: &(dyn std::error::Error + 'static), what: &'static str) {
    let mut cause = Some(error);
    while let Some(known) = cause {
        if known.downcast_ref::<Error>().is_some_and(Error::is_away) {
            tracing::debug!(error, "{what}");
            return;
        }
        cause = known.source();
    }
    tracing::warn!(error, "{what}");
}

/// PostgreSQL: serialization failure, deadlock, lock not available, and the classes of connection trouble, lack of
/// resources and shutdown. SQLite: busy and locked, with their extended forms.
fn is_transient_code(code: &str) -> bool {
    let five = code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if five && !matches!(code, "40001" | "40P01" | "55P03" | "57014" | "57P01" | "57P02" | "57P03") {
        return code.starts_with("08") || code.starts_with("53");
    }
    five || code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6))
}

#[cfg(test)]
mod tests {
    use super::{Error, is_transient_code};

    #[test]
    fn a_connection_that_was_cut_while_it_was_made_is_transient() {
        let source = sqlx::Error::Protocol("unexpected response from SSLRequest: 0x00".to_owned());
        assert!(Error::doing("connect", source).is_transient());
    }

    #[test]
    fn what_may_have_been_committed_does_not_pass() {
        let cut = || sqlx::Error::Protocol("cut".to_owned());
        let refused = Error::Column { column: "x".to_owned(), problem: "is not there".to_owned() };
        for (error, passes) in [
            (Error::doing("connect", cut()), true),
            // What panics once panics again; whoever tried it for ever would never be heard.
            (Error::Aborted("it panicked".to_owned()), false),
            (Error::InDoubt(cut()), false),
            (refused, false),
        ] {
            assert_eq!(error.is_passing(), passes, "{error:?}");
        }
    }

    #[test]
    fn only_what_may_pass_is_transient() {
        for code in ["40001", "40P01", "08006", "53300", "57P01", "5", "6", "517", "261"] {
            assert!(is_transient_code(code), "{code}");
        }
        for code in ["23505", "42P01", "22001", "1", "19", "2067", "1555", "13"] {
            assert!(!is_transient_code(code), "{code}");
        }
    }
}

//! What SQLite refuses, said as the other half says it: what becomes of an error is decided in one place for both.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use rusqlite::ffi;
use sqlx::error::{DatabaseError, ErrorKind};

/// What SQLite answered.
#[derive(Debug)]
struct Refusal {
    message: String,
    /// Extended result code, see <https://sqlite.org/rescode.html>.
    code: i32,
}

/// What SQLite or its driver said.
pub(super) fn refused(error: rusqlite::Error) -> sqlx::Error {
    let refusal = if let rusqlite::Error::SqliteFailure(failure, said) = error {
        Refusal { message: said.unwrap_or_else(|| failure.to_string()), code: failure.extended_code }
    } else if let rusqlite::Error::SqlInputError { error, msg, .. } = error {
        // Without the text of the statement.
        Refusal { message: msg, code: error.extended_code }
    } else {
        return sqlx::Error::Encode(Box::new(error));
    };
    sqlx::Error::Database(Box::new(refusal))
}

/// Another process is in the way, and may not be a moment later.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked))
}

/// It was stopped because it took long.
pub(super) fn was_stopped(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted)
}

// === impl Refusal ===

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(code: {}) {}", self.code, self.message)
    }
}

impl Error for Refusal {}

impl DatabaseError for Refusal {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.code.to_string().into())
    }

    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        match self.code {
            ffi::SQLITE_CONSTRAINT_UNIQUE
            | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
            | ffi::SQLITE_CONSTRAINT_ROWID => ErrorKind::UniqueViolation,
            ffi::SQLITE_CONSTRAINT_NOTNULL => ErrorKind::NotNullViolation,
            ffi::SQLITE_CONSTRAINT_CHECK => ErrorKind::CheckViolation,
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => ErrorKind::ForeignKeyViolation,
            _ => ErrorKind::Other,
        }
    }
}

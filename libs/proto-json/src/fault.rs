//! What is wrong with a JSON document, where, and what would be right.

use std::fmt;

/// Stable name of a kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The text is not JSON.
    MalformedJson,
    /// It is nested too deep.
    JsonTooDeep,
    /// It has text that is not Unicode, or NUL.
    InvalidText,
    /// It has a number that cannot be kept exactly, or that is out of range.
    InvalidNumber,
    /// An object has the same key twice.
    DuplicateKey,
    /// A field that the message does not have.
    UnknownField,
    /// A word that the enum does not have.
    EnumInvalid,
    /// A value of another type than the field's.
    TypeInvalid,
    /// A time that is not RFC 3339.
    TimestampInvalid,
    /// A length of time that is not seconds with an "s".
    DurationInvalid,
}

impl Reason {
    /// Returns the name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::MalformedJson => "MALFORMED_JSON",
            Reason::JsonTooDeep => "JSON_TOO_DEEP",
            Reason::InvalidText => "INVALID_TEXT",
            Reason::InvalidNumber => "INVALID_NUMBER",
            Reason::DuplicateKey => "DUPLICATE_KEY",
            Reason::UnknownField => "UNKNOWN_FIELD",
            Reason::EnumInvalid => "ENUM_INVALID",
            Reason::TypeInvalid => "TYPE_INVALID",
            Reason::TimestampInvalid => "TIMESTAMP_INVALID",
            Reason::DurationInvalid => "DURATION_INVALID",
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// JSON Pointer (RFC 6901) to the value; empty for the whole document.
    pub path: String,
    /// Kind.
    pub reason: Reason,
    /// What is wrong and what is allowed: a fragment without a full stop.
    pub message: String,
    /// Every further value of the message, by name.
    pub values: Vec<(&'static str, String)>,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            formatter.write_str(&self.message)
        } else {
            write!(formatter, "{}: {}", self.path, self.message)
        }
    }
}

/// All faults of a document, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    pub(crate) fn one(reason: Reason, message: impl Into<String>) -> Self {
        Faults(vec![Fault { path: String::new(), reason, message: message.into(), values: Vec::new() }])
    }

    pub(crate) fn unreadable(error: &impl std::error::Error) -> Self {
        Faults::one(Reason::TypeInvalid, error.to_string())
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(formatter, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

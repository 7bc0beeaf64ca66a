//! What a statement is given. Every value knows its type even when it is null, because PostgreSQL settles the types of
//! a prepared statement before it sees the values.

use phasegate_clock::Timestamp;

/// A value for a placeholder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A whole number or a time in microseconds; `bigint`.
    Integer(Option<i64>),
    /// A truth; `boolean`, on SQLite 0 or 1.
    Boolean(Option<bool>),
    /// A text.
    Text(Option<String>),
    /// Bytes; `bytea`, on SQLite `blob`.
    Bytes(Option<Vec<u8>>),
    /// `text[]`, PostgreSQL only.
    Texts(Vec<String>),
    /// `bigint[]`, PostgreSQL only.
    Integers(Vec<i64>),
    /// `bytea[]`, PostgreSQL only.
    Byteses(Vec<Vec<u8>>),
}

macro_rules! value_from {
    ($($from:ty => $variant:ident($value:ident => $into:expr)),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from($value: $from) -> Self {
                Self::$variant(Some($into))
            }
        }
        impl From<Option<$from>> for Value {
            fn from(value: Option<$from>) -> Self {
                Self::$variant(value.map(|$value| $into))
            }
        }
    )*};
}

value_from! {
    i64 => Integer(value => value),
    i32 => Integer(value => i64::from(value)),
    u32 => Integer(value => i64::from(value)),
    Timestamp => Integer(value => value.as_micros()),
    bool => Boolean(value => value),
    &str => Text(value => value.to_owned()),
    &String => Text(value => value.clone()),
    String => Text(value => value),
    &[u8] => Bytes(value => value.to_vec()),
    &Vec<u8> => Bytes(value => value.clone()),
    Vec<u8> => Bytes(value => value),
    [u8; 32] => Bytes(value => value.to_vec()),
    &[u8; 32] => Bytes(value => value.to_vec()),
}

impl From<Vec<String>> for Value {
    fn from(values: Vec<String>) -> Self {
        Self::Texts(values)
    }
}

impl From<Vec<i64>> for Value {
    fn from(values: Vec<i64>) -> Self {
        Self::Integers(values)
    }
}

impl From<Vec<Vec<u8>>> for Value {
    fn from(values: Vec<Vec<u8>>) -> Self {
        Self::Byteses(values)
    }
}

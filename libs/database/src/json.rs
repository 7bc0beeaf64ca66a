//! Many rows as one value of a statement, for SQLite, which knows no arrays.

use serde::{Serialize, Serializer};

use crate::Value;

/// Bytes within a row of [`json_rows`]: hexadecimal, for `unhex`.
#[derive(Debug, Clone, Copy)]
pub struct Hex<'a>(pub &'a [u8]);

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

/// Rows for `json_each` on SQLite. Each is a tuple, of which `value ->> 0` reads the first member.
pub fn json_rows<R: Serialize>(rows: impl IntoIterator<Item = R>) -> Value {
    let rows: Vec<R> = rows.into_iter().collect();
    // What has no JSON becomes an empty text, which `json_each` refuses.
    Value::from(serde_json::to_string(&rows).unwrap_or_default())
}

//! Many rows as one value of a statement, for SQLite, which knows no arrays.

use serde::Serialize;

use crate::Value;

/// Rows for `json_each` on SQLite. Each is a tuple, of which `value ->> 0` reads the first member.
pub fn json_rows<R: Serialize>(rows: impl IntoIterator<Item = R>) -> Value {
    let rows: Vec<R> = rows.into_iter().collect();
    // What has no JSON becomes an empty text, which `json_each` refuses.
    Value::from(serde_json::to_string(&rows).unwrap_or_default())
}

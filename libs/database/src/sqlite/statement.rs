//! Statements on a connection.

use std::sync::Arc;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, Statement, ToSql};

use crate::{Cell, Row, Value};

/// Executes the statements of a text, one after the other, and tells how many rows the last one wrote.
pub(super) fn execute(connection: &Connection, text: &str, values: &[Value]) -> rusqlite::Result<u64> {
    for one in Statements(text) {
        let mut statement = prepared(connection, one, values)?;
        let mut rows = statement.raw_query();
        while rows.next()?.is_some() {}
    }
    Ok(connection.changes())
}

/// Executes the statements of a text, one after the other, and returns what they answer.
pub(super) fn fetch_all(connection: &Connection, text: &str, values: &[Value]) -> rusqlite::Result<Vec<Row>> {
    let mut read = Vec::new();
    for one in Statements(text) {
        let mut statement = prepared(connection, one, values)?;
        let mut columns: Option<Arc<[String]>> = None;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            let columns = columns.get_or_insert_with(|| names(row.as_ref()));
            let cells =
                (0..columns.len()).map(|at| cell(at, row.get_ref(at)?)).collect::<rusqlite::Result<_>>()?;
            read.push(Row { columns: columns.clone(), cells });
        }
    }
    Ok(read)
}

fn names(statement: &Statement<'_>) -> Arc<[String]> {
    statement.column_names().into_iter().map(str::to_owned).collect()
}

/// A statement with its values: that of `$2` is the second one, wherever it stands.
fn prepared<'c>(
    connection: &'c Connection,
    text: &str,
    values: &[Value],
) -> rusqlite::Result<CachedStatement<'c>> {
    let mut statement = connection.prepare_cached(text)?;
    for at in 1..=statement.parameter_count() {
        let name = statement.parameter_name(at).unwrap_or_default();
        let number = name.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
        let value = number.and_then(|number| values.get(number.checked_sub(1)?));
        let value = value.ok_or_else(|| rusqlite::Error::InvalidParameterName(name.to_owned()))?;
        statement.raw_bind_parameter(at, value)?;
    }
    Ok(statement)
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = match self {
            Self::Integer(value) => value.map_or(ValueRef::Null, ValueRef::Integer),
            Self::Boolean(value) => value.map_or(ValueRef::Null, |value| ValueRef::Integer(value.into())),
            Self::Text(value) => {
                value.as_ref().map_or(ValueRef::Null, |text| ValueRef::Text(text.as_bytes()))
            }
            Self::Bytes(value) => value.as_ref().map_or(ValueRef::Null, |bytes| ValueRef::Blob(bytes)),
            Self::Texts(_) | Self::Integers(_) | Self::Byteses(_) => {
                return Err(rusqlite::Error::ToSqlConversionFailure("SQLite knows no arrays".into()));
            }
        };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

fn cell(at: usize, value: ValueRef<'_>) -> rusqlite::Result<Cell> {
    Ok(match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(value) => Cell::Integer(value),
        ValueRef::Real(value) => Cell::Text(value.to_string()),
        ValueRef::Text(text) => {
            let text = str::from_utf8(text).map_err(|error| rusqlite::Error::Utf8Error(at, error))?;
            Cell::Text(text.to_owned())
        }
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
    })
}

/// The statements of a text, without what is between them. Not for texts that make triggers, which contain statements.
struct Statements<'a>(&'a str);

impl<'a> Iterator for Statements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = skip(self.0);
        if text.is_empty() {
            return None;
        }
        let (one, rest) = text.split_at(end(text));
        self.0 = rest;
        Some(one.trim_end())
    }
}

/// What is left of a text behind blanks, comments and semicolons.
fn skip(mut text: &str) -> &str {
    loop {
        text = text.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
        let Some(comment) = text.strip_prefix("--") else { return text };
        text = comment.split_once('\n').map_or("", |(_, rest)| rest);
    }
}

/// Where the first statement of a text ends.
fn end(text: &str) -> usize {
    if !text.contains(';') {
        return text.len();
    }
    let bytes = text.as_bytes();
    // What is within quotes, or a comment, ends with this.
    let mut within = None;
    for (at, byte) in bytes.iter().copied().enumerate() {
        match within {
            Some(last) if byte == last => within = None,
            Some(_) => {}
            None if byte == b'\'' || byte == b'"' => within = Some(byte),
            None if bytes.get(at..).is_some_and(|rest| rest.starts_with(b"--")) => within = Some(b'\n'),
            None if byte == b';' => return at,
            None => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::Statements;

    #[test]
    fn a_text_is_cut_between_statements() {
        let text = "-- first; of all\ninsert 'a;''b', \"c;\" -- for; now\n where 1 ;\n;delete $1; -- end";
        let cut: Vec<&str> = Statements(text).collect();
        assert_eq!(cut, ["insert 'a;''b', \"c;\" -- for; now\n where 1", "delete $1"]);
        assert_eq!(Statements("select 1").collect::<Vec<_>>(), ["select 1"]);
        assert_eq!(Statements(" -- nothing").count(), 0);
    }
}

//! What a statement answers. Rows are read into cells at once, so that they can cross threads and await points.

use std::sync::Arc;

use phasegate_clock::Timestamp;

use crate::Error;

/// One column of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// A whole number of any width.
    Integer(i64),
    /// A truth; SQLite answers 0 or 1 instead.
    Boolean(bool),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    pub(crate) columns: Arc<[String]>,
    pub(crate) cells: Vec<Cell>,
}

/// What can be read from a cell.
pub trait FromCell: Sized {
    /// Reads it, or says what is wrong.
    fn from_cell(cell: &Cell) -> Result<Self, String>;
}

// === impl Row ===

impl Row {
    /// Reads a column by its name.
    pub fn get<T: FromCell>(&self, column: &str) -> Result<T, Error> {
        let cell = self.columns.iter().position(|name| name == column).and_then(|at| self.cells.get(at));
        let problem = match cell {
            None => "is not in the row".to_owned(),
            Some(cell) => match T::from_cell(cell) {
                Ok(read) => return Ok(read),
                Err(problem) => problem,
            },
        };
        Err(Error::Column { column: column.to_owned(), problem })
    }
}

// === impl Cell ===

impl Cell {
    fn is_not(&self, wanted: &str) -> String {
        let kind = match self {
            Self::Null => "null",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "a truth",
            Self::Text(_) => "a text",
            Self::Bytes(_) => "bytes",
        };
        format!("is {kind}, not {wanted}")
    }
}

impl FromCell for i64 {
    fn from_cell(cell: &Cell) -> Result<Self, String> {
        if let Cell::Integer(value) = cell { Ok(*value) } else { Err(cell.is_not("a number")) }
    }
}

impl FromCell for i32 {
    fn from_cell(cell: &Cell) -> Result<Self, String> {
        Self::try_from(i64::from_cell(cell)?).map_err(|_| "does not fit 32 bits".to_owned())
    }
}

impl FromCell for u32 {
    fn from_cell(cell: &Cell) -> Result<Self, String> {
        Self::try_from(i64::from_cell(cell)?).map_err(|_| "does not fit 32 bits without a sign".to_owned())
    }
}

impl FromCell for bool {
    fn from_cell(cell: &Cell) -> Result<Self, String> {
        match cell {
            Cell::Boolean(value) => Ok(*value),
            Cell::Integer(value @ (0 | 1)) => Ok(*value == 1),
            Cell::Null | Cell::Integer(_) | Cell::Text(_) | Cell::Bytes(_) => Err(cell.is_not("a truth")),
        }
    }
}

impl FromCell for String {
    fn from_cell(cell: &Cell) -> Result<Self, String> {
        if let Cell::Text(value) = cell { Ok(value.clone()) } else { Err(cell.is_not("a text")) }
    }
}

impl FromCell for Vec<u8> {
    fn from_cell(cell: &Cell) -> Result<Self, String> {
        if let Cell::Bytes(value) = cell { Ok(value.clone()) } else { Err(cell.is_not("bytes")) }
    }
}

impl FromCell for [u8; 32] {
    fn from_cell(cell: &Cell) -> Result<Self, String> {
        Vec::<u8>::from_cell(cell)?.try_into().map_err(|_| "is not 32 bytes long".to_owned())
    }
}

impl FromCell for Timestamp {
    fn from_cell(cell: &Cell) -> Result<Self, String> {
        i64::from_cell(cell).map(Self::from_micros)
    }
}

impl<T: FromCell> FromCell for Option<T> {
    fn from_cell(cell: &Cell) -> Result<Self, String> {
        if matches!(cell, Cell::Null) { Ok(None) } else { T::from_cell(cell).map(Some) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cell, FromCell as _};

    #[test]
    fn a_cell_is_read_as_what_it_is_and_nothing_else() {
        assert_eq!(bool::from_cell(&Cell::Integer(1)), Ok(true));
        assert_eq!(bool::from_cell(&Cell::Boolean(false)), Ok(false));
        assert!(bool::from_cell(&Cell::Integer(2)).is_err());
        assert_eq!(Option::<i64>::from_cell(&Cell::Null), Ok(None));
        assert!(i64::from_cell(&Cell::Null).is_err());
        assert!(i32::from_cell(&Cell::Integer(i64::from(i32::MAX) + 1)).is_err());
        assert!(u32::from_cell(&Cell::Integer(-1)).is_err());
        assert!(String::from_cell(&Cell::Bytes(vec![65])).is_err());
    }
}

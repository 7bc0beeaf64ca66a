//! Tables for people: columns as wide as what is in them.

use super::output::{Ink, Style, clean, style_of};

/// A table under construction.
#[derive(Debug)]
pub(super) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// One cell.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Table {
    /// A table without rows.
    pub(super) fn new(header: &[&'static str]) -> Table {
        Table { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Whether it has no row.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Lays it out.
    pub(super) fn render(&self, ink: Ink) -> String {
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column)).map(Cell::width);
                cells.chain([self.header[column].chars().count()]).max().unwrap_or_default()
            })
            .collect();
        let header: Vec<Cell> =
            self.header.iter().map(|title| Cell { text: (*title).to_owned(), style: Style::Faint }).collect();
        let mut text = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            let mut gap = 0;
            for (cell, width) in row.iter().zip(&widths) {
                if cell.text.is_empty() {
                    gap += width + 2;
                    continue;
                }
                line.push_str(&" ".repeat(gap));
                line.push_str(&ink.paint(cell.style, &cell.text));
                gap = width - cell.width() + 2;
            }
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

impl Cell {
    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// A cell of plain text, on one line.
pub(super) fn plain(text: impl AsRef<str>) -> Cell {
    styled(Style::Plain, text)
}

/// A cell that stands out.
pub(super) fn styled(style: Style, text: impl AsRef<str>) -> Cell {
    Cell { text: clean(&text.as_ref().replace(['\n', '\t'], " ")), style }
}

/// A cell that shows a state.
pub(super) fn state(word: &str) -> Cell {
    styled(style_of(word), word)
}

/// A cell of text that is cut at a width.
pub(super) fn short(text: &str, width: usize) -> Cell {
    if text.chars().count() <= width {
        return plain(text);
    }
    let cut: String = text.chars().take(width.saturating_sub(1)).collect();
    plain(format!("{}…", cut.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::new(&["ID", "NAME", "STATUS"]);
        table.row(vec![plain("sso_setup"), plain("Grün & Co"), state("running")]);
        table.row(vec![plain("x"), plain(""), state("completed")]);
        table.row(vec![plain("y"), short("A name that goes on", 10), plain("")]);
        let expected = "\
ID         NAME        STATUS
sso_setup  Grün & Co   running
x                      completed
y          A name th…
";
        // "A name th…" is ten characters wide.
        assert_eq!(table.render(Ink(false)), expected);
    }

    #[test]
    fn colour_changes_no_column() {
        let mut table = Table::new(&["A", "B"]);
        table.row(vec![state("failed"), plain("b")]);
        let painted = table.render(Ink(true));
        assert!(painted.contains("\u{1b}[31mfailed\u{1b}[0m  b"), "{painted:?}");
    }

    #[test]
    fn a_cell_is_one_line() {
        let mut table = Table::new(&["A"]);
        table.row(vec![plain("one\ntwo\u{1b}[31m")]);
        assert_eq!(table.render(Ink(false)), "A\none two\u{fffd}[31m\n");
    }
}

//! One figure: what was measured, and the bound that it has to keep.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// One figure.
#[derive(Debug, Clone)]
pub(super) struct Figure {
    pub(super) what: String,
    pub(super) value: f64,
    pub(super) bound: f64,
    /// The value may not be lower than the bound; otherwise not higher.
    pub(super) is_least: bool,
    pub(super) unit: &'static str,
}

impl Figure {
    /// Must not be higher than its bound.
    pub(super) fn at_most(what: impl Into<String>, value: f64, bound: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, bound, is_least: false, unit }
    }

    /// Must not be lower than its bound.
    pub(super) fn at_least(what: impl Into<String>, value: f64, bound: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, bound, is_least: true, unit }
    }

    /// Whether the bound is kept.
    pub(super) fn is_reached(&self) -> bool {
        if self.is_least { self.value >= self.bound } else { self.value <= self.bound }
    }

    fn to_json(&self) -> Value {
        json!({
            "what": self.what,
            "value": self.value,
            "bound": self.bound,
            "isLeast": self.is_least,
            "unit": self.unit,
            "isReached": self.is_reached(),
        })
    }
}

/// For people: a line each, below a heading.
pub(super) fn table(figures: &[Figure]) -> String {
    let mut text = format!("\n  {:<58}{:>12}{:>14}\n", "figure", "measured", "bound");
    for figure in figures {
        let Figure { what, value, bound, is_least, unit } = figure;
        let sign = if *is_least { ">=" } else { "<=" };
        let said = if figure.is_reached() { "ok" } else { "MISSED" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {what:<58}{value:>9.3} {unit:<2}{sign:>4}{bound:>9.3} {unit:<2} {said}");
    }
    text
}

/// For machines.
pub(super) fn json(figures: &[Figure]) -> Value {
    figures.iter().map(Figure::to_json).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_at_its_bound_keeps_it() {
        assert!(Figure::at_most("", 2.0, 2.0, "s").is_reached());
        assert!(Figure::at_least("", 2.0, 2.0, "s").is_reached());
        assert!(!Figure::at_most("", 2.1, 2.0, "s").is_reached());
        assert!(!Figure::at_least("", 1.9, 2.0, "s").is_reached());
    }

    #[test]
    fn the_table_says_what_was_missed() {
        let text =
            table(&[Figure::at_most("slow", 3.0, 2.0, "ms"), Figure::at_most("quick", 1.0, 2.0, "ms")]);
        assert!(text.lines().any(|line| line.contains("slow") && line.ends_with("MISSED")));
        assert!(text.lines().any(|line| line.contains("quick") && line.ends_with("ok")));
    }
}

//! Findings: what is wrong with a draft, where, and what to do about it.

use std::fmt::Display;

/// Findings of one check; what is beyond it helps nobody.
pub(crate) const MAX_ISSUES: usize = 100;

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A fault: the draft is refused.
    Error,
    /// Worth a look; the draft is accepted.
    Warning,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// How much it weighs.
    pub severity: Severity,
    /// Stable name, such as `DEPENDENCY_CYCLE`.
    pub code: &'static str,
    /// JSON Pointer (RFC 6901) into what was checked; empty for the whole.
    pub path: String,
    /// What is wrong and what to do, as a sentence.
    pub message: String,
    /// How much is allowed, where there is too much of something.
    pub max: Option<usize>,
}

/// A place in a draft: a JSON Pointer that grows by one reference token at a time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Path(String);

impl Path {
    /// The whole draft.
    pub(crate) fn root() -> Self {
        Self::default()
    }

    /// The member or element `token` of this place.
    pub(crate) fn at(&self, token: impl Display) -> Self {
        let token = token.to_string();
        Self(format!("{}/{}", self.0, token.replace('~', "~0").replace('/', "~1")))
    }

    /// The place that `pointer` leads to from here.
    pub(crate) fn under(&self, pointer: &str) -> Self {
        Self(format!("{}{pointer}", self.0))
    }
}

/// Collects findings, bounded: a draft with a fault in every one of a thousand tasks is not worth a thousand sentences.
#[derive(Debug, Default)]
pub(crate) struct Report {
    faults: Vec<Issue>,
    warnings: Vec<Issue>,
}

impl Report {
    /// Notes a fault.
    pub(crate) fn fault(&mut self, path: &Path, code: &'static str, message: impl Into<String>) {
        push(&mut self.faults, Severity::Error, path, code, message.into());
    }

    /// Notes that there is more of something than `max`.
    pub(crate) fn too_large(&mut self, path: &Path, code: &'static str, message: String, max: usize) {
        self.fault(path, code, message);
        if let Some(issue) = self.faults.last_mut() {
            issue.max = Some(max);
        }
    }

    /// Notes a warning.
    pub(crate) fn warning(&mut self, path: &Path, code: &'static str, message: impl Into<String>) {
        push(&mut self.warnings, Severity::Warning, path, code, message.into());
    }

    /// Whether any fault was noted.
    pub(crate) fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// Faults first, then warnings.
    pub(crate) fn finish(self) -> Vec<Issue> {
        let mut issues = self.faults;
        issues.extend(self.warnings);
        issues.truncate(MAX_ISSUES);
        issues
    }
}

fn push(issues: &mut Vec<Issue>, severity: Severity, path: &Path, code: &'static str, message: String) {
    if issues.len() < MAX_ISSUES {
        issues.push(Issue { severity, code, path: path.0.clone(), message, max: None });
    }
}

/// Of `known`, the names that the author may have meant by `written`: at most three, the nearest first.
pub(crate) fn candidates<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let limit = (written.chars().count() / 3).clamp(1, 4);
    let mut near: Vec<(usize, &str)> = known
        .into_iter()
        .map(|name| (edit_distance(written, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

/// `; did you mean a, b or c?`, or nothing.
pub(crate) fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let near = candidates(written, known);
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", listed(&near, "or")) }
}

/// `a`, `a or b`, `a, b or c`.
pub(crate) fn listed(names: &[&str], last: &str) -> String {
    match names {
        [] => String::new(),
        [only] => format!("`{only}`"),
        [init @ .., end] => {
            let init: Vec<String> = init.iter().map(|name| format!("`{name}`")).collect();
            format!("{} {last} `{end}`", init.join(", "))
        }
    }
}

/// Levenshtein distance. Names are at most 128 characters here, and longer ones are cut: they are nobody's typing error.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(128).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().take(128).enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (cell, b) in row.iter_mut().skip(1).zip(&right) {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = *cell;
            *cell = replaced.min(diagonal + 1).min(before + 1);
            before = *cell;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_escapes_its_tokens() {
        assert_eq!(Path::root().at("phases").at(1).at("a/b~c").0, "/phases/1/a~1b~0c");
    }

    #[test]
    fn the_nearest_names_come_first() {
        let known = ["security_review", "security_revue", "production"];
        assert_eq!(candidates("security_reviw", known), ["security_review", "security_revue"]);
        assert_eq!(candidates("zzz", known), Vec::<&str>::new());
        assert_eq!(did_you_mean("prodution", known), "; did you mean `production`?");
    }

    #[test]
    fn distances() {
        for (left, right, distance) in
            [("", "", 0), ("abc", "", 3), ("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(edit_distance(left, right), distance, "{left} {right}");
        }
    }

    #[test]
    fn a_report_is_bounded_and_begins_with_faults() {
        let mut report = Report::default();
        for _ in 0..150 {
            report.warning(&Path::root(), "W", "w");
        }
        report.fault(&Path::root(), "F", "f");
        let issues = report.finish();
        assert_eq!((issues.len(), issues[0].code), (MAX_ISSUES, "F"));
    }
}

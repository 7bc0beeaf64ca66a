//! Names, ids and other text.

use super::Checker;
use crate::issue::{Path, Report};

/// Longest name, in characters.
const MAX_NAME: usize = 200;

/// Longest free text, in bytes.
pub(crate) const MAX_TEXT: usize = 64 * 1024;

/// Longest version, in characters.
const MAX_VERSION: usize = 64;

/// Whether `text` is `^[a-z][a-z0-9_-]{0,62}$`.
pub(crate) fn is_id(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 63
        && bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

/// Whether `text` is `^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`.
pub(super) fn is_artifact_key(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 128
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Whether `text` is one line of so many characters, with something to see in it where it may not be empty.
pub(crate) fn one_line(text: &str, least: usize, most: usize) -> bool {
    let count = text.chars().count();
    (least..=most).contains(&count)
        && (least == 0 || !text.trim().is_empty())
        && !text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}

/// Whether `text` is free text that every store and every page can carry.
pub(crate) fn free_text(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

/// Checks a semantic version.
pub(super) fn version(report: &mut Report, path: &Path, version: &str) {
    let fits = version.chars().count() <= MAX_VERSION && semver::Version::parse(version).is_ok();
    if !fits {
        let message = "write a semantic version such as 1.0.0 or 2.1.0-beta.1, at most 64 characters";
        report.fault(path, "VERSION_INVALID", message);
    }
}

impl Checker<'_> {
    pub(super) fn id(&mut self, path: &Path, id: &str) {
        if !is_id(id) {
            let message = "write a lower-case letter, then at most 62 lower-case letters, digits, _ or -";
            self.report.fault(path, "ID_INVALID", message);
        }
    }

    pub(super) fn name(&mut self, path: &Path, name: &str) {
        if !one_line(name, 1, MAX_NAME) {
            self.report.fault(path, "NAME_INVALID", "write a name of one line, 1 to 200 characters");
        }
    }

    pub(super) fn description(&mut self, path: &Path, text: Option<&str>) {
        if !free_text(text.unwrap_or_default()) {
            let message =
                "write at most 65536 bytes, without control characters other than line breaks and tabs";
            self.report.fault(path, "TEXT_INVALID", message);
        }
    }

    /// A short text that may be empty.
    pub(super) fn short(&mut self, path: &Path, text: &str) {
        if !one_line(text, 0, MAX_NAME) {
            self.report.fault(path, "TEXT_INVALID", "write one line of at most 200 characters");
        }
    }

    /// Names of tools.
    pub(super) fn tools(&mut self, path: &Path, tools: &[String]) {
        for (index, tool) in tools.iter().enumerate() {
            if !one_line(tool, 1, MAX_NAME) {
                self.report.fault(
                    &path.at(index),
                    "TEXT_INVALID",
                    "write the name of a tool, one line of 1 to 200 characters",
                );
            }
        }
    }
}

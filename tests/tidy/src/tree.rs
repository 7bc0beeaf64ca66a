//! The files of the repository, and how a rule reports what breaks it.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold what we write; what a tool makes stands elsewhere.
const OURS: [&str; 7] = ["libs", "services", "tests", "proto", "deploy", ".ci", ".cargo"];
/// Folders that a tool makes inside ours.
const MADE: [&str; 4] = ["target", "node_modules", "__pycache__", ".venv"];

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("tests/tidy is two below the root")
        .to_owned()
}

/// The files below our folders whose names end with one of `endings`, as paths from the root, in order.
pub(crate) fn files(endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for folder in OURS {
        walk(&root().join(folder), &mut found);
    }
    let mut names: Vec<String> = found
        .iter()
        .map(|path| relative(path))
        .filter(|name| endings.iter().any(|end| name.ends_with(end)))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "found no {endings:?} at all: is {} the repository?", root().display());
    names
}

/// The folders directly below `folder`, by name.
pub(crate) fn folders(folder: &str) -> Vec<String> {
    let mut names: Vec<String> = entries(&root().join(folder))
        .into_iter()
        .filter(|path| path.is_dir() && path.join("Cargo.toml").is_file())
        .map(|path| relative(&path))
        .collect();
    names.sort();
    names
}

/// The text of a file, by its path from the root.
pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Is there such a file or folder?
pub(crate) fn exists(name: &str) -> bool {
    root().join(name).exists()
}

/// What stands directly below a folder.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.expect("the folder can be read").path()).collect()
}

/// Fails with the rule and everything that breaks it.
#[track_caller]
pub(crate) fn demand(rule: &str, faults: &[String]) {
    assert!(faults.is_empty(), "\n\n{rule}\n\n  {}\n", faults.join("\n  "));
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in entries(folder) {
        if !path.is_dir() {
            found.push(path);
        } else if !MADE.iter().any(|made| path.ends_with(made)) {
            walk(&path, found);
        }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("the path is below the root").display().to_string()
}

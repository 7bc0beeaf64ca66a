//! What holds for every file of source: it says what it is for, and nothing in it is left for later.

use crate::text::{Source, line};
use crate::tree::{demand, files, read};

/// What a person writes who means to come back. Put together here, so that this file does not break its own rule.
fn marks() -> Vec<String> {
    [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["HA", "CK"]].iter().map(|halves| halves.concat()).collect()
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<String> =
        files(&[".rs"]).into_iter().filter(|name| !read(name).trim_start().starts_with("//! ")).collect();
    demand(
        "Every module begins with `//!`: what it is for, what it leaves to others, and why.\nThese do not:",
        &silent,
    );
}

#[test]
fn nothing_is_left_for_later() {
    let mut faults = Vec::new();
    for name in
        files(&[".rs", ".proto", ".sql", ".toml", ".py", ".html", ".md", "/run", "/check", "/renew", "/buf"])
    {
        let text = read(&name);
        for mark in marks() {
            faults.extend(
                text.match_indices(&mark)
                    .filter(|(at, _)| is_word(&text, *at, mark.len()))
                    .map(|(at, _)| format!("{name}:{}: {mark}", line(&text, at))),
            );
        }
    }
    for name in files(&[".rs"]) {
        let text = read(&name);
        let source = Source::new(&text);
        for (at, word) in source.words() {
            if matches!(word, "todo" | "unimplemented") && source.code[at + word.len()..].starts_with('!') {
                faults.push(format!("{name}:{}: {word}!", line(&text, at)));
            }
        }
    }
    demand("An open end is an issue, or a refusal that says so; not a mark in the source:", &faults);
}

#[test]
fn a_word_is_not_found_inside_another() {
    let text = format!("a{} {}", marks()[0], marks()[0]);
    let found: Vec<usize> =
        text.match_indices(&marks()[0]).map(|(at, _)| at).filter(|at| is_word(&text, *at, 4)).collect();
    assert_eq!(found, [6]);
}

fn is_word(text: &str, at: usize, length: usize) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    !part(text[..at].chars().next_back()) && !part(text[at + length..].chars().next())
}

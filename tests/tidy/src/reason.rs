//! Why calls are refused: one list, which every method and every service keeps to.
//!
//! `proto/phasegate/error/v1/reason.proto` is the list; the comment of each method names those that it may refuse with; and the
//! services answer with nothing else. Clients are written against all three.

use std::collections::{BTreeMap, BTreeSet};

use crate::text::{Source, item_end, line};
use crate::tree::{demand, files, read};

const LIST: &str = "proto/phasegate/error/v1/reason.proto";
const REFUSES: &str = "Refuses with:";

/// gRPC codes, and the HTTP statuses that each may have: the usual one first, then those that a reason may choose instead.
const STATUSES: [(&str, &[u16]); 11] = [
    ("INVALID_ARGUMENT", &[400, 415, 422]),
    ("UNAUTHENTICATED", &[401, 410]),
    ("PERMISSION_DENIED", &[403]),
    ("NOT_FOUND", &[404]),
    ("ALREADY_EXISTS", &[409]),
    ("FAILED_PRECONDITION", &[409]),
    ("ABORTED", &[409]),
    ("RESOURCE_EXHAUSTED", &[429, 413, 431]),
    ("UNAVAILABLE", &[503]),
    ("DEADLINE_EXCEEDED", &[504, 408]),
    ("INTERNAL", &[500]),
];

/// One method of a service.
struct Method {
    place: String,
    /// What its comment says it refuses with; nothing if it does not say.
    reasons: Option<Vec<String>>,
}

#[test]
fn every_method_says_what_it_refuses_with() {
    let silent: Vec<String> =
        methods().into_iter().filter(|method| method.reasons.is_none()).map(|method| method.place).collect();
    demand(
        "The comment of every method ends with \"Refuses with: A, B.\" (or \"nothing of its own\"):",
        &silent,
    );
}

#[test]
fn methods_and_list_name_the_same_reasons() {
    let listed = list();
    let mut faults = Vec::new();
    let mut said = BTreeSet::new();
    for method in methods() {
        for reason in method.reasons.into_iter().flatten() {
            if !listed.contains_key(&reason) {
                faults.push(format!("{}: {reason} is not in {LIST}", method.place));
            }
            said.insert(reason);
        }
    }
    for (reason, comment) in &listed {
        if !said.contains(reason) && !comment.contains(" From: ") {
            faults.push(format!("{LIST}: {reason} is no method's; say what it is \"From:\", or take it out"));
        }
    }
    demand("Methods refuse with what is in the list, and the list holds what methods refuse with:", &faults);
}

#[test]
fn every_reason_is_explained() {
    let mut faults = Vec::new();
    for (reason, comment) in list() {
        let answers = answers(&comment);
        if answers.is_empty() {
            faults.push(format!("{reason} lacks its code and status: \"NOT_FOUND, HTTP 404.\""));
        }
        for (code, status) in answers {
            if !STATUSES.iter().any(|(name, _)| *name == code) && code != "UNIMPLEMENTED" {
                faults.push(format!("{reason}: {code} is no code that we answer with"));
            } else if !STATUSES.iter().any(|(name, statuses)| *name == code && statuses.contains(&status))
                && (code.as_str(), status) != ("UNIMPLEMENTED", 405)
            {
                faults.push(format!("{reason}: {code} is not answered as HTTP {status}"));
            }
        }
        if !comment.contains("Example: \"") {
            faults.push(format!("{reason} lacks an example"));
        }
        if reason.len() > 63 {
            faults.push(format!("{reason} is longer than 63 characters"));
        }
    }
    demand("Each reason says when it occurs, with which code and status, and gives an example:", &faults);
}

#[test]
fn services_refuse_with_what_is_listed() {
    let listed = list();
    let mut faults = Vec::new();
    let mut found = 0;
    for name in rust_files() {
        let text = read(&name);
        for (at, reason) in refused_with(&Source::new(&text).without_tests()) {
            found += 1;
            if !listed.contains_key(&reason) {
                faults.push(format!("{name}:{}: {reason}", line(&text, at)));
            }
        }
    }
    assert!(found > 0, "found no refusal in the source");
    demand(&format!("A refusal's reason is in {LIST}. These are not:"), &faults);
}

#[test]
fn what_is_listed_can_happen() {
    let mut written = BTreeSet::new();
    for name in rust_files() {
        let source = Source::new(&read(&name)).without_tests();
        written.extend(source.strings.into_iter().map(|(_, text)| text));
    }
    let idle: Vec<String> = list().into_keys().filter(|reason| !written.contains(reason)).collect();
    demand(&format!("A reason in {LIST} is given somewhere. Nothing gives these:"), &idle);
}

#[test]
fn refusals_are_found_in_source() {
    let source = Source::new(
        "fn reason(&self) -> &'static str { match self { A => \"NOT_FOUND_AT_ALL\", B => \"lower\" } }\n\
         fn other() { Invalid::new(\"TEXT_INVALID\", \"title\", \"X_Y\"); Invalid::new(\n  \"SIZE_INVALID\", f(\"D_E\"), \"m\") }",
    );
    let found: Vec<String> = refused_with(&source).into_iter().map(|(_, reason)| reason).collect();
    assert_eq!(found, ["NOT_FOUND_AT_ALL", "TEXT_INVALID", "SIZE_INVALID"]);
}

#[test]
fn comments_are_read() {
    assert_eq!(
        reasons("Does it. Refuses with: AN_EXAMPLE, VALIDATION_FAILED (X_Y, Z), CSRF."),
        Some(vec!["AN_EXAMPLE".to_owned(), "VALIDATION_FAILED".to_owned(), "CSRF".to_owned()])
    );
    assert_eq!(reasons("Refuses with: nothing of its own."), Some(Vec::new()));
    assert_eq!(reasons("Does it."), None);
    assert_eq!(
        answers("It is so. NOT_FOUND, HTTP 404; UNIMPLEMENTED, HTTP 405. From: x."),
        [("NOT_FOUND".to_owned(), 404), ("UNIMPLEMENTED".to_owned(), 405)]
    );
}

/// The list: each reason with its comment in one line.
fn list() -> BTreeMap<String, String> {
    let list: BTreeMap<String, String> = commented(LIST, "REASON_")
        .into_iter()
        .filter_map(|(_, declaration, comment)| {
            let name = declaration.strip_prefix("REASON_")?.split(' ').next()?.to_owned();
            (name != "UNSPECIFIED").then_some((name, comment))
        })
        .collect();
    assert!(list.len() > 50, "{LIST} holds only {} reasons", list.len());
    list
}

fn methods() -> Vec<Method> {
    files(&[".proto"])
        .into_iter()
        .filter(|name| name.starts_with("proto/phasegate/"))
        .flat_map(|name| {
            commented(&name, "rpc ").into_iter().map(move |(number, declaration, comment)| {
                let method = declaration.split(['(', ' ']).nth(1).unwrap_or_default().to_owned();
                Method { place: format!("{name}:{number}: {method}"), reasons: reasons(&comment) }
            })
        })
        .collect()
}

/// The lines of a proto that begin with `prefix`: number, text, and the comment above in one line.
fn commented(name: &str, prefix: &str) -> Vec<(usize, String, String)> {
    let mut found = Vec::new();
    let mut comment = String::new();
    for (index, text) in read(name).lines().enumerate() {
        let text = text.trim();
        if let Some(words) = text.strip_prefix("//") {
            comment.push(' ');
            comment.push_str(words.trim());
        } else {
            if text.starts_with(prefix) {
                found.push((index + 1, text.to_owned(), comment.clone()));
            }
            comment.clear();
        }
    }
    found
}

/// The reasons of a method's comment. What stands in brackets explains the one before.
fn reasons(comment: &str) -> Option<Vec<String>> {
    let (_, after) = comment.split_once(REFUSES)?;
    let mut plain = String::new();
    let mut depth = 0_usize;
    for c in after.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    let sentence = plain.split('.').next().unwrap_or_default();
    Some(sentence.split(',').map(str::trim).filter(|word| is_reason(word)).map(str::to_owned).collect())
}

/// The codes and statuses that a reason's comment says it comes with.
fn answers(comment: &str) -> Vec<(String, u16)> {
    comment
        .match_indices(", HTTP ")
        .filter_map(|(at, mark)| {
            let code = comment[..at].rsplit([' ', ';']).next()?;
            let status = comment[at + mark.len()..].get(..3)?.parse().ok()?;
            Some((code.to_owned(), status))
        })
        .collect()
}

/// The reasons that a file refuses with: the words of `fn reason` bodies, and the first word of `Invalid::new`.
fn refused_with(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in source.code.match_indices("fn reason(") {
        let end = item_end(&source.code, at);
        found.extend(source.strings.iter().filter(|(here, _)| (at..end).contains(here)).cloned());
    }
    for (at, mark) in source.code.match_indices("Invalid::new(") {
        let next = source.strings.iter().find(|(here, _)| *here >= at + mark.len());
        // A constant in the first place is found where it is defined, if it is a reason.
        found.extend(next.filter(|(here, _)| source.code[at + mark.len()..*here].trim().is_empty()).cloned());
    }
    found.retain(|(_, text)| is_reason(text));
    found.sort();
    found
}

fn is_reason(text: &str) -> bool {
    text.len() > 3 && text.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// Our source, without tests.
fn rust_files() -> Vec<String> {
    files(&[".rs"])
        .into_iter()
        .filter(|name| !name.starts_with("tests/") && !name.contains("/tests/"))
        .collect()
}

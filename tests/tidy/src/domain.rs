//! The pure part of a service stays pure: the same past and the same command give the same answer, on every machine and in
//! every replay. And each room of a service looks only into the rooms below it.

use std::collections::BTreeSet;

use crate::text::{Source, item_end, line};
use crate::tree::{demand, files, folders, read};

/// Crates that a domain may name: ids, the reading of a clock, definitions, what makes events and errors of them, and digests.
const ALLOWED: [&str; 8] = [
    "hex",
    "phasegate_clock",
    "phasegate_id",
    "phasegate_process",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
];

/// Words that bring the world in: waiting, the clock, chance, the disk, the network, or an order that differs between runs.
const IMPURE: [&str; 17] = [
    "async",
    "await",
    "HashMap",
    "HashSet",
    "RandomState",
    "Instant",
    "SystemTime",
    "SystemClock",
    "SharedClock",
    "Clock",
    "Mutex",
    "RwLock",
    "OnceLock",
    "thread",
    "println",
    "eprintln",
    "unsafe",
];

/// Modules of the standard library that do so.
const IMPURE_STD: [&str; 7] = ["env", "fs", "io", "net", "os", "process", "thread"];

/// For each room, the rooms that it must not look into.
const WALLS: [(&str, &[&str]); 4] = [
    ("domain", &["app", "store", "grpc", "reconcile", "config"]),
    ("store", &["app", "grpc", "reconcile"]),
    ("app", &["grpc", "reconcile"]),
    ("grpc", &["reconcile", "store"]),
];

#[test]
fn a_domain_names_no_outside_crate() {
    let mut faults = Vec::new();
    for service in folders("services") {
        let dependencies = dependencies(&service);
        for name in room(&service, "domain") {
            let text = read(&name);
            let source = Source::new(&text).without_tests();
            for (at, word) in source.path_roots() {
                if dependencies.contains(word) && !ALLOWED.contains(&word) {
                    faults.push(format!("{name}:{}: {word}", line(&text, at)));
                }
            }
        }
    }
    demand(&format!("A domain is made of {ALLOWED:?} and nothing else:"), &faults);
}

#[test]
fn a_domain_reaches_for_nothing() {
    let mut faults = Vec::new();
    for service in folders("services") {
        for name in room(&service, "domain") {
            let text = read(&name);
            let source = Source::new(&text).without_tests();
            faults.extend(
                impurities(&source)
                    .into_iter()
                    .map(|(at, word)| format!("{name}:{}: {word}", line(&text, at))),
            );
        }
    }
    demand(
        "A domain has no clock, no chance, no input or output, no waiting, and no order that differs between runs\n\
         (the time is a parameter; BTreeMap keeps an order):",
        &faults,
    );
}

#[test]
fn a_room_looks_only_into_those_below_it() {
    let mut faults = Vec::new();
    for service in folders("services") {
        for (inside, forbidden) in WALLS {
            for name in room(&service, inside) {
                let text = read(&name);
                let source = Source::new(&text).without_tests();
                for (at, target) in own_modules(&source) {
                    if forbidden.contains(&target.as_str()) {
                        faults.push(format!("{name}:{}: crate::{target}", line(&text, at)));
                    }
                }
            }
        }
    }
    demand(
        "grpc looks into app, app into domain and store, store into domain, and domain into nothing:",
        &faults,
    );
}

#[test]
fn a_planted_impurity_is_found() {
    let found = |code: &str| impurities(&Source::new(code).without_tests()).len();
    assert_eq!(found("use std::collections::BTreeMap; fn f(instance: &Instance) {}"), 0);
    assert_eq!(found("use std::collections::HashMap;"), 1);
    assert_eq!(found("use std::{fmt, fs};"), 1);
    assert_eq!(found("async fn f() { g().await }"), 2);
    assert_eq!(found("fn f() { std::env::var(\"X\"); }"), 1);
    assert_eq!(found("#[cfg(test)]\nmod tests { use std::collections::HashMap; }"), 0);
}

#[test]
fn a_planted_look_over_the_wall_is_found() {
    let found =
        |code: &str| -> Vec<String> { own_modules(&Source::new(code)).into_iter().map(|(_, m)| m).collect() };
    assert_eq!(found("use crate::store::Store; fn f() { crate::app::g() }"), ["store", "app"]);
    assert_eq!(found("use crate::{domain::{Event, State}, app};"), ["domain", "app"]);
}

/// The impure words of a file.
fn impurities(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, word) in source.words() {
        let after = &source.code[at + word.len()..];
        if IMPURE.contains(&word) {
            found.push((at, word.to_owned()));
        } else if word == "std" && after.starts_with("::") {
            found.extend(
                heads(&after[2..])
                    .into_iter()
                    .filter(|head| IMPURE_STD.contains(&head.as_str()))
                    .map(|head| (at, head)),
            );
        }
    }
    found
}

/// The modules of the crate itself that a file names.
fn own_modules(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, word) in source.words() {
        let after = &source.code[at + word.len()..];
        if word == "crate" && after.starts_with("::") {
            found.extend(heads(&after[2..]).into_iter().map(|head| (at, head)));
        }
    }
    found
}

/// The first segments of a path: one, or those of a group in braces.
fn heads(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let group = &group[..item_end(path, 0).saturating_sub(2).min(group.len())];
    let mut depth = 0;
    let mut heads = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(String::new()),
            _ => {}
        }
        if c != ',' || depth > 0 {
            heads.last_mut().expect("there is always one").push(c);
        }
    }
    heads.iter().map(|head| name(head)).filter(|head| !head.is_empty()).collect()
}

/// The files of a room, without those that hold tests only.
fn room(service: &str, room: &str) -> Vec<String> {
    let folder = format!("{service}/src/{room}/");
    let file = format!("{service}/src/{room}.rs");
    files(&[".rs"])
        .into_iter()
        .filter(|name| name.starts_with(&folder) || *name == file)
        .filter(|name| {
            !name.ends_with("/tests.rs") && !name.ends_with("_tests.rs") && !name.contains("/tests/")
        })
        .collect()
}

/// The crates that a service depends on, as its code names them.
fn dependencies(service: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in read(&format!("{service}/Cargo.toml")).lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if let (true, Some((name, _))) = (inside, line.split_once(['.', ' ', '='])) {
            names.insert(name.replace('-', "_"));
        }
    }
    names
}

//! The list is whole: every row has a test that is there and knows of it, or says what it waits for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The rows there are. The gaps are numbers that were given up.
const ROWS: [u16; 127] = [
    1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 23, 24, 25, 28, 29, 30, 31, 32, 34, 35,
    36, 37, 38, 40, 41, 42, 44, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 57, 58, 59, 60, 61, 63, 64, 65, 67,
    68, 69, 70, 71, 74, 75, 76, 77, 78, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91, 93, 94, 95, 96, 97, 98,
    100, 101, 102, 104, 105, 106, 108, 109, 110, 111, 112, 113, 114, 117, 118, 119, 120, 121, 122, 123, 124,
    125, 127, 129, 130, 131, 132, 134, 135, 136, 137, 139, 140, 141, 142, 143, 144, 145, 147, 148, 149, 150,
    152, 154, 155, 156, 157,
];

/// What a row may wait for: work that is planned, or that is not.
const WAITS: [&str; 2] = ["issue ", "to come: "];

#[test]
fn every_row_has_its_test_or_says_what_it_waits_for() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = fs::read_to_string(folder.join("list.txt")).unwrap();
    let mut sources = BTreeMap::new();
    for entry in fs::read_dir(folder.join("tests/it")).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        sources.insert(module, fs::read_to_string(path).unwrap());
    }
    let faults = faults(&list, &sources);
    assert!(faults.is_empty(), "\n\nlist.txt and the tests do not agree:\n\n  {}\n", faults.join("\n  "));
}

#[test]
fn a_row_that_promises_too_much_is_found() {
    let list = |one: &str| {
        ROWS.iter().fold(String::new(), |text, row| {
            text + &if *row == 1 {
                format!("{one}\n")
            } else {
                format!("B{row:03} | a | waits: to come: b\n")
            }
        })
    };
    let tests = BTreeMap::from([(
        "m".to_owned(),
        "#[tokio::test(flavor = \"x\")]\nasync fn f() { \"B001\" }\n#[test]\nfn g() {}".to_owned(),
    )]);
    let found = |one: &str| faults(&list(one), &tests).join("; ");
    assert_eq!(found("B001 | a | test: m::f"), "");
    assert_eq!(found("B001 | a | waits: issue 3: b"), "");
    for (row, expected) in [
        ("B001 | a | test: m::h", "B001: there is no test m::h"),
        ("B001 | a | test: n::g", "B001: there is no test n::g"),
        ("B001 | a | test: n::f", "B001: there is no test n::f"),
        ("B001 | a | waits: ", "B001: says neither its test nor what it waits for"),
        ("B001 | a", "B001: says neither its test nor what it waits for"),
        ("B001 |  | test: m::f", "B001: does not say what it is"),
        ("# gone", "B001: is missing"),
        ("B001 | a | test: m::f\nB001 | a | test: m::f", "B001: stands there 2 times"),
        ("B001 | a | test: m::f\nB999 | a | test: m::f", "B999: is not a row that we know"),
    ] {
        assert!(found(row).contains(expected), "{row}: {}", found(row));
    }
    let unaware = BTreeMap::from([("m".to_owned(), "#[test]\nfn f() {}".to_owned())]);
    assert_eq!(faults(&list("B001 | a | test: m::f"), &unaware), ["B001: m does not mention it"]);
}

/// What is wrong with a list, given the source of the modules of tests.
fn faults(list: &str, sources: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for line in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut parts = line.splitn(3, '|').map(str::trim);
        let id = parts.next().unwrap_or_default();
        let what = parts.next().unwrap_or_default();
        let shown = parts.next().unwrap_or_default();
        *seen.entry(id).or_default() += 1;
        if what.is_empty() {
            faults.push(format!("{id}: does not say what it is"));
        }
        let waits =
            shown.strip_prefix("waits: ").is_some_and(|why| WAITS.iter().any(|word| why.starts_with(word)));
        match shown.strip_prefix("test: ") {
            Some(name) => faults.extend(test_fault(id, name, sources)),
            None if waits => {}
            None => faults.push(format!("{id}: says neither its test nor what it waits for")),
        }
    }
    for row in ROWS {
        let id = format!("B{row:03}");
        match seen.remove(id.as_str()) {
            Some(1) => {}
            Some(times) => faults.push(format!("{id}: stands there {times} times")),
            None => faults.push(format!("{id}: is missing")),
        }
    }
    faults.extend(seen.into_keys().map(|id| format!("{id}: is not a row that we know")));
    faults
}

/// Is there such a test, and does its module mention the row?
fn test_fault(id: &str, name: &str, sources: &BTreeMap<String, String>) -> Option<String> {
    let (module, function) = name.split_once("::").unwrap_or((name, ""));
    let source = sources.get(module).map_or("", String::as_str);
    let is_test =
        ["#[test", "#[tokio::test"].iter().flat_map(|mark| source.split(mark).skip(1)).any(|after| {
            let head = after.split_once(']').map_or("", |(_, item)| item).trim_start();
            head.strip_prefix("async ").unwrap_or(head).starts_with(&format!("fn {function}("))
        });
    if !is_test {
        Some(format!("{id}: there is no test {name}"))
    } else if !source.contains(id) {
        Some(format!("{id}: {module} does not mention it"))
    } else {
        None
    }
}

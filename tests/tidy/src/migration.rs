//! Migrations: both databases get the same ones, in the same order, and no number is used twice.

use std::collections::BTreeSet;

use crate::tree::{demand, files};

/// The outbox and the idempotency table have the numbers below this one.
const FIRST_OF_A_SERVICE: u32 = 10;

#[test]
fn both_databases_get_the_same_migrations() {
    let all = files(&[".sql"]);
    let of = |dialect: &str| -> BTreeSet<(String, String)> {
        all.iter()
            .filter_map(|name| name.split_once(&format!("/migrations/{dialect}/")))
            .map(|(service, file)| (service.to_owned(), file.to_owned()))
            .collect()
    };
    let (postgres, sqlite) = (of("postgres"), of("sqlite"));
    assert!(!postgres.is_empty(), "found no migration");
    let faults: Vec<String> = postgres
        .symmetric_difference(&sqlite)
        .map(|(service, file)| {
            let there =
                if postgres.contains(&(service.clone(), file.clone())) { "postgres" } else { "sqlite" };
            format!("{service}: {file} is in {there} only")
        })
        .collect();
    demand("A migration exists for both databases, under the same name:", &faults);
}

#[test]
fn a_migration_has_a_number_of_its_own() {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for name in files(&[".sql"]).into_iter().filter(|name| name.contains("/migrations/")) {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", &name));
        let digits = &file[..file.len().min(4)];
        match digits.parse::<u32>() {
            Ok(number) if number < FIRST_OF_A_SERVICE && folder.starts_with("services/") => {
                faults.push(format!("{name}: a service's own migrations begin at {FIRST_OF_A_SERVICE:04}"));
            }
            Ok(number) if !seen.insert((folder.to_owned(), number)) => {
                faults.push(format!("{name}: another file has this number"));
            }
            Ok(_) if file[4..].starts_with('_') => {}
            _ => faults.push(format!("{name}: must be named NNNN_what_it_adds.sql")),
        }
    }
    demand("Migrations are numbered:", &faults);
}

//! Where things stand: who knows one service knows all, and a name keeps most code out.

use std::collections::BTreeSet;

use crate::tree::{demand, entries, exists, files, folders, root};

/// The top level, besides dotfiles and what `cargo` makes.
const TOP: [&str; 10] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "buf.yaml",
    "deploy",
    "libs",
    "proto",
    "services",
    "tests",
];
/// Names of the top level that may be missing: git keeps no empty folder.
const TOP_OPTIONAL: [&str; 2] = ["deploy", "target"];

/// Names that invite everything, and so say nothing.
const DUMPING_GROUNDS: [&str; 15] = [
    "common", "util", "utils", "shared", "core", "helper", "helpers", "type", "types", "model", "models",
    "misc", "stuff", "manager", "base",
];

/// Services that own no data, and so have rooms of their own.
const WITHOUT_DATA: [&str; 2] = ["services/gateway", "services/phasegate"];

/// The rooms of a service that owns data.
const ROOMS: [&str; 13] = [
    "migrations/postgres",
    "migrations/sqlite",
    "src/app/mod.rs",
    "src/config.rs",
    "src/domain/mod.rs",
    "src/grpc/convert.rs",
    "src/grpc/mod.rs",
    "src/grpc/refusal.rs",
    "src/lib.rs",
    "src/reconcile/mod.rs",
    "src/store/mod.rs",
    "Cargo.toml",
    "src",
];

/// Rooms that a service has nothing to put into, and why.
const EMPTY_ROOMS: [(&str, &str, &str); 1] =
    [("services/definition", "src/reconcile/mod.rs", "it sends no event, and nothing in it falls due")];

#[test]
fn the_top_level_is_as_agreed() {
    let found: BTreeSet<String> = entries(&root())
        .iter()
        .filter_map(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        .filter(|name| !name.starts_with('.'))
        .collect();
    let mut faults: Vec<String> = found
        .iter()
        .filter(|name| !TOP.contains(&name.as_str()) && !TOP_OPTIONAL.contains(&name.as_str()))
        .map(|name| format!("{name} does not belong there"))
        .collect();
    faults.extend(
        TOP.iter()
            .filter(|name| !found.contains(**name) && !TOP_OPTIONAL.contains(name))
            .map(|name| format!("{name} is missing")),
    );
    demand("The top level holds the agreed names and no others; settings of tools are dotfiles:", &faults);
}

#[test]
fn no_name_invites_everything() {
    let mut faults = BTreeSet::new();
    for name in files(&[".rs", ".proto", ".sql", ".py", "Cargo.toml"]) {
        for part in name.split('/') {
            let stem = part.split('.').next().unwrap_or(part);
            if DUMPING_GROUNDS.contains(&stem) {
                faults.insert(format!("{name}: \"{stem}\""));
            }
        }
    }
    let faults: Vec<String> = faults.into_iter().collect();
    demand("Name a module after what it does, so that most code does not belong in it:", &faults);
}

#[test]
fn every_service_has_the_same_rooms() {
    let mut faults = Vec::new();
    let services = folders("services");
    for service in services.iter().filter(|service| !WITHOUT_DATA.contains(&service.as_str())) {
        faults.extend(
            ROOMS
                .iter()
                .filter(|room| !exists(&format!("{service}/{room}")))
                .filter(|room| {
                    !EMPTY_ROOMS.iter().any(|(whose, which, _)| whose == service && which == *room)
                })
                .map(|room| format!("{service}/{room}")),
        );
    }
    demand("Every service that owns data has the same rooms. These are missing:", &faults);
    let furnished: Vec<String> = EMPTY_ROOMS
        .iter()
        .map(|(service, room, _)| format!("{service}/{room}"))
        .filter(|room| exists(room))
        .collect();
    demand("A room that is there needs no excuse. Take these off the list of empty ones:", &furnished);
    assert_eq!(services.len(), 8, "seven services and the program that runs them: {services:?}");
}

//! What every manifest says: the lint table is inherited, and versions stand in the root alone.

use crate::tree::{demand, files, read};

/// What a crate inherits.
const INHERITED: [&str; 6] = [
    "\n[lints]\nworkspace = true\n",
    "\nedition.workspace = true\n",
    "\nlicense.workspace = true\n",
    "\npublish.workspace = true\n",
    "\nrust-version.workspace = true\n",
    "\nversion.workspace = true\n",
];

/// Generated code keeps to no table; the crate that holds it has one of its own, and nothing else in it.
const GENERATED: &str = "libs/proto/Cargo.toml";

#[test]
fn every_crate_inherits_the_lint_table() {
    let mut faults = Vec::new();
    for name in manifests() {
        let text = read(&name);
        faults.extend(
            INHERITED
                .iter()
                .filter(|part| !text.contains(*part) && (name != GENERATED || !part.contains("lints")))
                .map(|part| format!("{name} lacks `{}`", part.trim().replace('\n', " "))),
        );
    }
    demand("Every crate takes its lints and its particulars from the root:", &faults);
}

#[test]
fn versions_stand_in_the_root() {
    let mut faults = Vec::new();
    for name in manifests() {
        let text = read(&name);
        let mut in_dependencies = false;
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
            } else if in_dependencies
                && line.contains('=')
                && !line.contains("workspace = true")
                && !line.starts_with('#')
            {
                faults.push(format!("{name}: {line}"));
            }
        }
    }
    demand("A dependency's version stands once, in the root manifest:", &faults);
}

#[test]
fn every_crate_carries_the_name_of_the_product() {
    let faults: Vec<String> = manifests()
        .into_iter()
        .filter(|name| {
            let text = read(name);
            !text.contains("\nname = \"phasegate-") && !text.contains("\nname = \"phasegate\"\n")
        })
        .collect();
    demand("Packages are named phasegate-*, folders are not:", &faults);
}

fn manifests() -> Vec<String> {
    files(&["/Cargo.toml"])
}

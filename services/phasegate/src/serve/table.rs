//! The table of settings in the README is the options as they are written here, and nothing else.

use std::fmt::Write as _;

use clap::Args as _;

use super::Options;

/// The lines of the table.
fn table() -> String {
    let command = Options::augment_args(clap::Command::new("serve"));
    let mut table = "| flag | environment | default | what |\n| --- | --- | --- | --- |\n".to_owned();
    for option in command.get_arguments() {
        let name = option.get_long().unwrap_or_default();
        let variable = option.get_env().and_then(|name| name.to_str()).unwrap_or_default();
        let defaults: Vec<_> =
            option.get_default_values().iter().filter_map(|value| value.to_str()).collect();
        let default = match defaults.join(",") {
            none if none.is_empty() => String::new(),
            // Seven addresses say no more than the first.
            long if long.len() > 40 => {
                format!("`{}`, …", long.split(',').next().unwrap_or_default())
            }
            short => format!("`{short}`"),
        };
        let what = option.get_help().map(ToString::to_string).unwrap_or_default();
        let what = what.replace('|', "\\|").replace('<', "\\<");
        // Writing to a string cannot fail.
        let _ = writeln!(table, "| `--{name}` | `{variable}` | {default} | {what} |");
    }
    table
}

#[test]
fn every_setting_has_its_row_in_the_readme() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let table = table();
    for row in table.lines() {
        assert!(readme.contains(row), "this row is missing in README.md:\n{row}\nThe whole table:\n{table}");
    }
    // And none for what is not there any more.
    let rows = readme.lines().filter(|line| line.starts_with("| `--")).count();
    assert_eq!(rows, table.lines().count() - 2, "the table:\n{table}");
}

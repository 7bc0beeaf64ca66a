//! What we build on: its licences, where it comes from, and what we do not want to build on at all.
//!
//! `cargo metadata` knows all of it for every platform. Published weaknesses are not looked up here: their list is no package of
//! a registry.

use std::process::Command;

use serde_json::Value;

use crate::licence::is_allowed;
use crate::tree::{demand, root};

/// Where packages may come from, besides this repository.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Crates that must not come in, by themselves or with another.
const BANNED: [(&str, &str); 14] = [
    ("ansi_term", "unmaintained"),
    ("atty", "unmaintained; std::io::IsTerminal"),
    ("aws-lc-rs", "a minute of C to build; rustls takes ring"),
    ("aws-lc-sys", "a minute of C to build; rustls takes ring"),
    ("backoff", "unmaintained"),
    ("dotenv", "unmaintained; settings are read once, by the command line"),
    ("failure", "unmaintained; thiserror"),
    ("instant", "unmaintained; the time is phasegate-clock's"),
    ("native-tls", "needs the machine's OpenSSL; rustls"),
    ("openssl", "needs the machine's OpenSSL; rustls"),
    ("openssl-sys", "needs the machine's OpenSSL; rustls"),
    ("serde_yaml", "unmaintained"),
    ("serde_yml", "unsound"),
    ("yaml-rust", "unmaintained"),
];

/// Crates that others bring in, and that ours must not name.
const AVOIDED: [(&str, &str); 5] = [
    ("chrono", "the time is phasegate-clock's, and jiff's at the edges"),
    ("lazy_static", "std::sync::LazyLock"),
    ("libsqlite3-sys", "rusqlite and, in tests, sqlx talk to SQLite"),
    ("once_cell", "std::sync::OnceLock"),
    // Its timing tells the private key; jsonwebtoken brings it, and we sign with HMAC.
    ("rsa", "leaks keys by timing"),
];

#[test]
fn what_we_build_on_is_allowed() {
    let metadata = metadata();
    let faults = faults(&metadata);
    demand("Everything we build on must be allowed, in licence, source and name:", &faults);
    let packages = metadata["packages"].as_array().map_or(0, Vec::len);
    assert!(packages > 100, "cargo metadata lists only {packages} packages");
}

#[test]
fn planted_violations_are_found() {
    let package = |name: &str, license: &str, source: Value| {
        serde_json::json!({"name": name, "version": "1.0.0", "license": license, "source": source,
            "manifest_path": root().join("libs/x/Cargo.toml")})
    };
    let found = |package: Value| faults(&serde_json::json!({"packages": [package]}));
    assert_eq!(found(package("fine", "MIT", SOURCE.into())), Vec::<String>::new());
    assert_eq!(found(package("ours", "Apache-2.0", Value::Null)), Vec::<String>::new());
    for (package, part) in [
        (package("strict", "AGPL-3.0-only", SOURCE.into()), "AGPL-3.0-only is not an allowed licence"),
        (package("strict", "", SOURCE.into()), "cannot be read"),
        (serde_json::json!({"name": "none", "version": "1.0.0", "source": SOURCE}), "says no licence"),
        (package("openssl-sys", "MIT", SOURCE.into()), "OpenSSL"),
        (package("forked", "MIT", "git+https://example.com/forked".into()), "comes from git+"),
        (
            serde_json::json!({"name": "near", "version": "1.0.0", "license": "MIT", "source": null,
            "manifest_path": "/somewhere/else/Cargo.toml"}),
            "comes from /somewhere/else",
        ),
        (
            serde_json::json!({"name": "ours", "version": "1.0.0", "license": "MIT", "source": null,
            "manifest_path": root().join("libs/x/Cargo.toml"), "dependencies": [{"name": "rsa"}]}),
            "names rsa",
        ),
    ] {
        let faults = found(package);
        assert!(faults.iter().any(|fault| fault.contains(part)), "{part}: {faults:?}");
    }
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

/// Everything that is not allowed.
fn faults(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    packages
        .iter()
        .flat_map(|package| {
            let text = |key: &str| package[key].as_str();
            let name = text("name").unwrap_or_default();
            let mut faults =
                vec![licence_fault(text("license")), source_fault(text("source"), text("manifest_path"))];
            faults.push(
                BANNED
                    .iter()
                    .find(|(banned, _)| *banned == name)
                    .map(|(_, why)| format!("must not come in: {why}")),
            );
            faults.extend(avoided(package));
            let label = format!("{name} {}", text("version").unwrap_or_default());
            faults.into_iter().flatten().map(move |fault| format!("{label} {fault}"))
        })
        .collect()
}

fn licence_fault(licence: Option<&str>) -> Option<String> {
    let Some(licence) = licence else { return Some("says no licence".to_owned()) };
    match is_allowed(licence) {
        Ok(true) => None,
        Ok(false) => Some(format!("{licence} is not an allowed licence")),
        Err(why) => Some(format!("licence \"{licence}\" cannot be read: {why}")),
    }
}

fn source_fault(source: Option<&str>, manifest: Option<&str>) -> Option<String> {
    match (source, manifest) {
        (Some(SOURCE), _) => None,
        (None, Some(manifest)) if manifest.starts_with(&*root().to_string_lossy()) => None,
        (source, manifest) => Some(format!("comes from {}", source.or(manifest).unwrap_or("nowhere"))),
    }
}

/// What a package of ours names and must not.
fn avoided(package: &Value) -> Vec<Option<String>> {
    let ours = package["source"].is_null();
    let dependencies = package["dependencies"].as_array().map_or(&[][..], Vec::as_slice);
    AVOIDED
        .iter()
        .filter(|(name, _)| ours && dependencies.iter().any(|dependency| dependency["name"] == *name))
        .map(|(name, why)| Some(format!("names {name}: {why}")))
        .collect()
}

//! Conditions from the page, from the bad-input catalogue, and from people who mean harm.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;

fn scope() -> Scope {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Scope { phases: names(&["discovery", "production"]), tasks: names(&["plan", "deploy", "sign-off"]) }
}

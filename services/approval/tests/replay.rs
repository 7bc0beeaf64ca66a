//! Every history that was ever stored still folds to what it told. A file is never changed, only added: one for each
//! shape of an event.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use phasegate_approval::domain::{Approval, Event, fold, invariant};
use serde::Deserialize;

/// A history and the request that it told of when it was stored.
#[derive(Deserialize)]
struct History {
    events: Vec<Event>,
    snapshot: Approval,
}

#[test]
fn every_history_still_tells_the_same() -> anyhow::Result<()> {
    let files = histories()?;
    ensure!(files.len() >= 8, "only {} histories", files.len());
    for file in files {
        let told = read(&file)?;
        let folded =
            fold(&told.events).with_context(|| format!("{} begins with a request", file.display()))?;
        ensure!(folded == told.snapshot, "{} folds to {folded:#?}", file.display());
        invariant::check(&folded).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

#[test]
fn every_kind_of_event_has_a_history() -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for file in histories()? {
        for event in read(&file)?.events {
            let written = serde_json::to_value(&event)?;
            seen.extend(written.as_object().context("an event is an object")?.keys().cloned());
        }
    }
    let expected = [
        "asked_again",
        "escalated",
        "reminded",
        "requested",
        "responded",
        "settled",
        "superseded",
        "timed_out",
        "withdrawn",
    ];
    ensure!(seen.iter().map(String::as_str).eq(expected), "{seen:?}");
    Ok(())
}

fn histories() -> anyhow::Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories");
    let files =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(files.into_iter().filter(|file| file.extension().is_some_and(|kind| kind == "json")).collect())
}

fn read(file: &Path) -> anyhow::Result<History> {
    let text = std::fs::read_to_string(file)?;
    serde_json::from_str(&text).with_context(|| file.display().to_string())
}

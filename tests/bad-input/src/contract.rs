//! What the contracts promise about refusals: the one list of reasons, and the reasons that each method names.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::Refusal;

/// The promises of `proto/`.
#[derive(Debug, Default)]
pub struct Contract {
    /// Comment of every reason.
    reasons: BTreeMap<String, String>,
    /// Comment of every method.
    methods: BTreeMap<String, String>,
}

impl Contract {
    /// Reads the comments of `proto/`.
    pub fn read() -> anyhow::Result<Self> {
        let mut contract = Self::default();
        contract.read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto/phasegate"))?;
        ensure!(contract.reasons.len() > 80 && contract.methods.len() > 40, "proto/ reads otherwise now");
        Ok(contract)
    }

    fn read_folder(&mut self, folder: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                self.read_folder(&path)?;
            } else {
                self.read_text(&fs::read_to_string(&path)?);
            }
        }
        Ok(())
    }

    fn read_text(&mut self, text: &str) {
        let mut comment = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(more) = line.strip_prefix("//") {
                comment.push_str(more);
                continue;
            }
            if let Some(name) = line.strip_prefix("REASON_").and_then(|rest| rest.split(' ').next()) {
                self.reasons.insert(name.to_owned(), comment.clone());
            } else if let Some(name) = line.strip_prefix("rpc ").and_then(|rest| rest.split('(').next()) {
                self.methods.insert(name.to_owned(), comment.clone());
            }
            comment.clear();
        }
    }

    /// Is a refusal one that was promised: a listed reason, with this code and HTTP status and these keys, of a method that
    /// names it or of the gateway? A call that no method sees has no method.
    pub fn check(&self, method: Option<&str>, refusal: &Refusal, http: u16) -> anyhow::Result<()> {
        let comment = self.reasons.get(&refusal.reason);
        let comment = comment.with_context(|| format!("{} is not on the list of reasons", refusal.reason))?;
        let promise = format!("{}, HTTP {http}.", refusal.code);
        let other = format!("{}, HTTP {http};", refusal.code);
        ensure!(
            comment.contains(&promise) || comment.contains(&other),
            "the list does not promise {promise} for {}",
            refusal.reason
        );
        // What comes after a semicolon is not always there.
        let keys = comment.split_once("Metadata: ").and_then(|(_, rest)| rest.split_once(['.', ';']));
        let is_among = |key: &str| refusal.metadata.contains_key(key);
        let told = keys.is_none_or(|(keys, _)| {
            keys.split(", ").all(|one| one.split(" or ").any(|key| is_among(key.trim())))
        });
        let promised = keys.map_or("", |(keys, _)| keys);
        ensure!(told, "{} has {:?}, and the list promises {promised}", refusal.reason, refusal.metadata);
        if let Some(method) = method.filter(|_| !comment.contains("From: ")) {
            let promised = self.methods.get(method).with_context(|| format!("{method} has no comment"))?;
            let named = promised.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            ensure!(
                named.into_iter().any(|word| word == refusal.reason),
                "{method} does not say that it refuses with {}",
                refusal.reason
            );
        }
        Ok(())
    }
}

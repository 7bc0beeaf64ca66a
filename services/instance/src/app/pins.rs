//! Definitions that instances are pinned to: read once, checked once, kept in memory by digest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use phasegate_process::{Definition, Draft, OnTimeout, Schema, Timing, parse_duration};

use super::Error;
use crate::store::Store;

/// Definitions that stay in memory. There are few, and many instances of each.
const KEPT: usize = 256;

/// A definition with what is made of it once.
#[derive(Debug)]
pub(crate) struct PinnedDefinition {
    /// "sha256:" and hex over the document.
    pub(crate) digest: String,
    /// What it says.
    pub(crate) definition: Definition,
    /// Schema of the context.
    pub(crate) schema: Option<Schema>,
    /// How long a request may take that nothing in the definition is about.
    pub(crate) timing: Timing,
}

#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<HashMap<(String, String), Arc<PinnedDefinition>>>);

impl PinnedDefinition {
    /// Reads a document that the definition service has published.
    pub(crate) fn read(digest: &str, document: &[u8]) -> Result<Self, Error> {
        let broken = |problem: String| Error::Broken(format!("definition {digest}: {problem}"));
        let draft = Draft::from_slice(document).map_err(|error| broken(error.to_string()))?;
        let checked = phasegate_process::validate(&draft);
        let definition = checked.definition.ok_or_else(|| {
            broken(checked.issues.first().map_or_else(String::new, |issue| issue.message.clone()))
        })?;
        let schema = definition
            .context_schema
            .as_ref()
            .map(Schema::compile)
            .transpose()
            .map_err(|error| broken(error.to_string()))?;
        Ok(Self { digest: digest.to_owned(), definition, schema, timing: timing(&draft) })
    }
}

/// What the author wrote for the whole process. It was found to be readable with the rest.
fn timing(draft: &Draft) -> Timing {
    let read = |text: &String| parse_duration(text).ok();
    Timing {
        timeout: draft.timeout.as_ref().and_then(read),
        escalate_after: draft.escalate_after.as_ref().and_then(read),
        escalate_to: draft.escalate_to.clone(),
        reminders: draft.reminders.iter().filter_map(read).collect(),
        on_timeout: match draft.on_timeout.as_str() {
            "reject" => OnTimeout::Reject,
            "block" => OnTimeout::Block,
            _ => OnTimeout::Escalate,
        },
    }
}

impl Pins {
    /// The definition that an instance of a tenant is pinned to.
    pub(super) async fn load(
        &self,
        store: &Store,
        tenant: &str,
        digest: &str,
    ) -> Result<Arc<PinnedDefinition>, Error> {
        if let Some(pinned) = self.get(tenant, digest) {
            return Ok(pinned);
        }
        let document = store.definition_load(tenant, digest).await?;
        let document = document.ok_or_else(|| Error::Broken(format!("definition {digest} was not kept")))?;
        let pinned = Arc::new(PinnedDefinition::read(digest, &document)?);
        self.put(tenant, &pinned);
        Ok(pinned)
    }

    pub(super) fn get(&self, tenant: &str, digest: &str) -> Option<Arc<PinnedDefinition>> {
        self.lock().get(&(tenant.to_owned(), digest.to_owned())).cloned()
    }

    pub(super) fn put(&self, tenant: &str, pinned: &Arc<PinnedDefinition>) {
        let mut pins = self.lock();
        if pins.len() >= KEPT {
            // Which one goes does not matter much: it is read again when it is needed.
            if let Some(key) = pins.keys().next().cloned() {
                pins.remove(&key);
            }
        }
        pins.insert((tenant.to_owned(), pinned.digest.clone()), Arc::clone(pinned));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Arc<PinnedDefinition>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

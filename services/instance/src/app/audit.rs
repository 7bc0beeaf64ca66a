//! The audit log, and the proof that nobody has changed it.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_principal::Principal;

use super::{App, Error};
use crate::domain::{Person, Personal};
use crate::store::{AuditFilter, Entry, StoredEntry, Verdict};

/// Entries with what belongs to them.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuditPage {
    pub(crate) entries: Vec<(Entry, StoredEntry)>,
    /// What is personal about them, by sequence.
    pub(crate) personal: BTreeMap<u64, Personal>,
    /// Names of the people of the instance, unless they were erased.
    pub(crate) people: BTreeMap<String, Person>,
    /// The definition that they are of.
    pub(crate) process_id: String,
}

impl App {
    /// Reads entries after a position.
    pub(crate) async fn audit_list(
        &self,
        principal: &Principal,
        instance_id: &str,
        after: u64,
        filter: &AuditFilter,
        limit: usize,
    ) -> Result<AuditPage, Error> {
        let id = Self::visible(principal, instance_id)?;
        let snapshot = self.snapshot(&principal.tenant, id.as_str()).await?;
        let mut page = self.entries(&principal.tenant, id.as_str(), after, filter, limit).await?;
        snapshot.instance.process_id.as_str().clone_into(&mut page.process_id);
        Ok(page)
    }

    /// Reads entries with what is personal about them.
    pub(super) async fn entries(
        &self,
        tenant: &str,
        instance_id: &str,
        after: u64,
        filter: &AuditFilter,
        limit: usize,
    ) -> Result<AuditPage, Error> {
        let rows = self.store().history_list(tenant, instance_id, after, filter, limit).await?;
        let mut page = AuditPage::default();
        if rows.is_empty() {
            return Ok(page);
        }
        let mut sequences: BTreeSet<u64> = rows.iter().map(|entry| entry.sequence).collect();
        page.personal = self.store().personal_load(tenant, instance_id, &sequences).await?;
        // The names of all people stand beside the first entry.
        let first = if let Some(first) = page.personal.get(&1) {
            Some(first.clone())
        } else {
            sequences.clear();
            sequences.insert(1);
            self.store().personal_load(tenant, instance_id, &sequences).await?.remove(&1)
        };
        let people = first.map(|first| first.people).unwrap_or_default();
        page.people = people.into_iter().map(|(id, person)| (id.to_string(), person)).collect();
        for row in rows {
            let stored = serde_json::from_slice(&row.body).map_err(|error| {
                Error::Broken(format!("entry {} of {instance_id}: {error}", row.sequence))
            })?;
            page.entries.push((row, stored));
        }
        Ok(page)
    }

    /// Checks the chain of an instance.
    pub(crate) async fn audit_verify(
        &self,
        principal: &Principal,
        instance_id: &str,
    ) -> Result<Verdict, Error> {
        let id = Self::visible(principal, instance_id)?;
        let verdict = self.store().history_verify(&principal.tenant, &id).await?;
        if let Some(verdict) = &verdict {
            self.0.chains.note(&principal.tenant, id.as_str(), verdict.broken.is_none());
        }
        verdict.ok_or_else(|| Error::NotFound(instance_id.to_owned()))
    }
}

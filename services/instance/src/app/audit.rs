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
        let sequences: BTreeSet<u64> = rows.iter().map(|entry| entry.sequence).collect();
        page.personal = self.store().personal_load(tenant, instance_id, &sequences).await?;
        // The names of all people stand beside the first entry.
        page.people = match page.personal.get(&1) {
            Some(first) => names(first.clone()),
            None => self.names(tenant, instance_id).await?,
        };
        page.entries = stored(rows)?;
        Ok(page)
    }

    /// Names of the people of an instance, unless they were erased.
    pub(super) async fn names(
        &self,
        tenant: &str,
        instance_id: &str,
    ) -> Result<BTreeMap<String, Person>, Error> {
        let first = self.store().personal_load(tenant, instance_id, &BTreeSet::from([1])).await?.remove(&1);
        Ok(first.map(names).unwrap_or_default())
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

fn names(first: Personal) -> BTreeMap<String, Person> {
    first.people.into_iter().map(|(id, person)| (id.to_string(), person)).collect()
}

/// Entries with what their bytes say.
pub(super) fn stored(rows: Vec<Entry>) -> Result<Vec<(Entry, StoredEntry)>, Error> {
    let read = |row: Entry| match serde_json::from_slice(&row.body) {
        Ok(stored) => Ok((row, stored)),
        Err(error) => Err(Error::Broken(format!("entry {}: {error}", row.event_id))),
    };
    rows.into_iter().map(read).collect()
}

//! Reading instances.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_principal::Principal;
use phasegate_proto::participant::v1::Participant;

use super::around::WORKER_MISSING_AFTER;
use super::{App, Around, Error, Outcome, effects};
use crate::domain::{self, Overview, Status, Surroundings};
use crate::store::{ListFilter, ListPosition, Snapshot};

/// An instance with what is shown with it: the outcome of doing nothing.
pub(crate) type Shown = Outcome;

impl Outcome {
    /// Where the instance stands.
    pub(crate) fn overview(&self) -> Overview {
        let unpolled = self.unpolled();
        let around = Surroundings { now: self.now, unpolled: &unpolled };
        domain::overview(&self.pinned.definition, &self.after, &around)
    }

    /// Queues in which the instance has work, and for which nobody has asked for a minute: with when somebody last did,
    /// or else since when the instance runs.
    fn unpolled(&self) -> BTreeMap<String, Timestamp> {
        let ready = domain::ready_work(&self.pinned.definition, &self.after);
        let began = self.after.started_at.unwrap_or(self.now);
        ready
            .into_values()
            .map(|work| work.queue)
            .filter(|queue| !self.around.has_worker(queue, self.now))
            .map(|queue| {
                let since = self.around.polls.get(&queue).copied().unwrap_or(began);
                (queue, since)
            })
            .filter(|(_, since)| self.now.duration_since(*since) >= WORKER_MISSING_AFTER)
            .collect()
    }
}

impl App {
    /// Reads an instance that a caller may see.
    pub(crate) async fn instance_get(
        &self,
        principal: &Principal,
        instance_id: &str,
    ) -> Result<Shown, Error> {
        let id = Self::visible(principal, instance_id)?;
        self.shown(&principal.tenant, id.as_str()).await
    }

    /// How an instance stands that a caller may see.
    pub(crate) async fn instance_status(
        &self,
        principal: &Principal,
        instance_id: &str,
    ) -> Result<Status, Error> {
        let id = Self::visible(principal, instance_id)?;
        let status = self.store().instance_status(&principal.tenant, id.as_str()).await?;
        status.ok_or_else(|| Error::NotFound(id.to_string()))
    }

    /// Reads an instance that a caller may see, and nothing that is shown with it.
    pub(crate) async fn instance_bare(
        &self,
        principal: &Principal,
        instance_id: &str,
    ) -> Result<Shown, Error> {
        let id = Self::visible(principal, instance_id)?;
        let instance = self.snapshot(&principal.tenant, id.as_str()).await?.instance;
        let pinned = self.pinned(&principal.tenant, &instance.definition_digest).await?;
        Ok(Outcome::unchanged(instance, pinned, Around::default(), self.now()))
    }

    /// The people with whom an instance began, as its first event tells of them.
    pub(crate) async fn instance_participants(
        &self,
        principal: &Principal,
        instance_id: &str,
    ) -> Result<Vec<Participant>, Error> {
        let id = Self::visible(principal, instance_id)?;
        let tenant = principal.tenant.as_str();
        let instance = self.snapshot(tenant, id.as_str()).await?.instance;
        let pinned = self.pinned(tenant, &instance.definition_digest).await?;
        let first = self.store().personal_load(tenant, id.as_str(), &BTreeSet::from([1])).await?.remove(&1);
        let people = first.unwrap_or_default().people;
        let began = instance.started_at.unwrap_or(self.now());
        Ok(effects::participants(id.as_str(), &pinned.definition, &people, began))
    }

    /// Reads an instance with what is shown with it.
    pub(crate) async fn shown(&self, tenant: &str, instance_id: &str) -> Result<Shown, Error> {
        let snapshot = self.snapshot(tenant, instance_id).await?;
        let pinned = self.pinned(tenant, &snapshot.instance.definition_digest).await?;
        let around = self.around(tenant, &snapshot.instance, &pinned.definition).await?;
        Ok(Outcome::unchanged(snapshot.instance, pinned, around, self.now()))
    }

    /// Lists instances that a caller may see, newest first, with the position of each.
    pub(crate) async fn instance_list(
        &self,
        principal: &Principal,
        mut filter: ListFilter,
        after: Option<&ListPosition>,
        limit: usize,
    ) -> Result<Vec<(Shown, ListPosition)>, Error> {
        filter.only = principal.participation.as_ref().map(|own| own.instance_id.clone());
        let rows = self.store().instance_list(&principal.tenant, &filter, after, limit).await?;
        let mut shown = Vec::with_capacity(rows.len());
        for (Snapshot { instance, .. }, position) in rows {
            let pinned = self.pinned(&principal.tenant, &instance.definition_digest).await?;
            // A list shows no leases and no remarks.
            let polls = self.polls(&principal.tenant, &instance, &pinned.definition).await?;
            let around = Around { polls, ..Around::default() };
            shown.push((Outcome::unchanged(Arc::clone(&instance), pinned, around, self.now()), position));
        }
        Ok(shown)
    }
}

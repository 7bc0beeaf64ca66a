//! Reading: one request, and lists.

use phasegate_id::{InstanceId, ParticipantId};
use phasegate_principal::Permission;

use super::{App, Caller, Error};
use crate::store::{Filter, Page, Position, Record};

/// A list that a caller asks for.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// Of this instance only.
    pub instance: Option<String>,
    /// In this state only.
    pub status: Option<&'static str>,
    /// That this participant has to answer or has answered.
    pub approver: Option<ParticipantId>,
}

/// A page of requests.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The page.
    pub records: Vec<Record>,
    /// Where the next one begins, if there is one.
    pub next: Option<Position>,
}

impl Listed {
    /// Where the next page begins, if this one has only so many.
    pub fn after(&self, kept: usize) -> Option<Position> {
        self.records.get(kept.checked_sub(1)?).map(position)
    }
}

fn position(record: &Record) -> Position {
    let Record { approval, .. } = record;
    Position { requested_at: approval.requested_at, approval: approval.request.id.clone() }
}

impl App {
    /// One request.
    pub async fn get(&self, caller: &Caller, id: &str) -> Result<Record, Error> {
        let record = self.visible(caller, id).await?;
        caller.needs(Permission::View, "view")?;
        Ok(record)
    }

    /// A page of the requests that the caller may see, newest first.
    pub async fn list(&self, caller: &Caller, list: List, page: Page) -> Result<Listed, Error> {
        if let Some(instance) = &list.instance {
            self.instance_visible(caller, instance).await?;
        }
        caller.needs(Permission::View, "view")?;
        let nothing = Listed { records: Vec::new(), next: None };
        let person = caller.person();
        // What others have to answer is not a person's to know.
        if list.approver.is_some() && person.is_some() && list.approver != person {
            return Ok(nothing);
        }
        let instance = list.instance.as_deref().or(caller.own_instance()).map(InstanceId::parse).transpose();
        let Ok(instance) = instance else { return Ok(nothing) };
        let filter = Filter { instance, status: list.status, approver: list.approver, visible_to: person };
        let (records, more) = self.store.approval_list(&caller.tenant(), &filter, &page).await?;
        let next = records.last().filter(|_| more).map(position);
        Ok(Listed { records, next })
    }

    /// The instance, if the caller may see it.
    pub(super) async fn instance_visible(&self, caller: &Caller, id: &str) -> Result<InstanceId, Error> {
        let missing = || Error::InstanceNotFound(id.to_owned());
        let instance = InstanceId::parse(id).map_err(|_| missing())?;
        if !caller.sees_instance(id) {
            return Err(missing());
        }
        let tenant = caller.tenant();
        // An instance that nobody was asked about is known to its own service only.
        if self.store.instance_load(&tenant, &instance).await?.is_none() {
            self.peers.describe(&tenant, id, None).await?;
        }
        Ok(instance)
    }
}

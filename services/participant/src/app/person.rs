//! Reading people.

use std::collections::BTreeSet;

use phasegate_id::ParticipantId;
use phasegate_principal::Principal;

use super::{App, Error, shortened};
use crate::domain::person::Person;

impl App {
    /// Lists the people of an instance after `after`, by id.
    pub async fn person_list(
        &self,
        principal: &Principal,
        instance_id: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Person>, Error> {
        let place = self.readable(principal, instance_id).await?;
        let people = self.store.person_list(&place, after, limit).await?;
        Ok(people.into_iter().map(|person| shown(principal, person)).collect())
    }

    /// Reads a person.
    pub async fn person_get(
        &self,
        principal: &Principal,
        instance_id: &str,
        participant_id: &str,
    ) -> Result<Person, Error> {
        let place = self.readable(principal, instance_id).await?;
        let not_found = || Error::ParticipantNotFound { participant: shortened(participant_id) };
        let id = ParticipantId::parse(participant_id).map_err(|_| not_found())?;
        let person = self.store.person_get(&place, &id).await?.ok_or_else(not_found)?;
        Ok(shown(principal, person))
    }

    /// Reads the people named who are there, for other services; all of the instance when none is named.
    pub async fn people(
        &self,
        principal: &Principal,
        instance_id: &str,
        ids: &[String],
    ) -> Result<Vec<Person>, Error> {
        let place = Self::place(principal, instance_id)?;
        // What is no id is nobody's.
        let named: BTreeSet<ParticipantId> =
            ids.iter().filter_map(|id| ParticipantId::parse(id).ok()).collect();
        if named.is_empty() && !ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut known = self.people_known(&place).await?;
        // Where nobody is there, the event may be on its way.
        if known.is_empty() {
            self.people_are_there(&place).await?;
            known = self.people_known(&place).await?;
        }
        let people = known.values().filter(|person| ids.is_empty() || named.contains(&person.id)).cloned();
        Ok(people.map(|person| shown(principal, person)).collect())
    }
}

/// A person who came through a link sees the own address, and nobody else's.
fn shown(principal: &Principal, mut person: Person) -> Person {
    let is_other =
        principal.participation.as_ref().is_some_and(|own| own.participant_id != person.id.as_str());
    if is_other {
        person.email = String::new();
    }
    person
}

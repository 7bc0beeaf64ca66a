//! A participant service in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use futures::future::BoxFuture;
use phasegate_clock::Timestamp;
use phasegate_id::{InstanceId, LinkId, NotificationId, ParticipantId, TenantId};

use crate::app::{Directory, LinkError, LookupError, Made};
use crate::domain::Person;

/// People and links of the tests.
#[derive(Default)]
pub(super) struct People {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    people: BTreeMap<ParticipantId, Person>,
    links: BTreeMap<NotificationId, (LinkId, Timestamp)>,
    revoked: bool,
    failures: usize,
}

impl People {
    /// Adds a person.
    pub(super) fn add(&self, id: &str, name: &str, email: &str, wants_mail: bool) {
        let id = ParticipantId::trusted(id);
        let person = Person { id: id.clone(), name: name.to_owned(), email: email.to_owned(), wants_mail };
        self.state.lock().unwrap().people.insert(id, person);
    }

    /// Revokes all links.
    pub(super) fn revoke(&self) {
        self.state.lock().unwrap().revoked = true;
    }

    /// Is away for so many calls about links.
    pub(super) fn fail(&self, times: usize) {
        self.state.lock().unwrap().failures = times;
    }

    /// The links that were made, with their ends.
    pub(super) fn links(&self) -> Vec<(LinkId, Timestamp)> {
        self.state.lock().unwrap().links.values().cloned().collect()
    }
}

impl State {
    fn check(&mut self) -> Result<(), LinkError> {
        if self.failures > 0 {
            self.failures -= 1;
            return Err(LinkError::Away("out for lunch".to_owned()));
        }
        if self.revoked { Err(LinkError::Gone("LINK_REVOKED".to_owned())) } else { Ok(()) }
    }
}

impl Directory for People {
    fn people<'a>(
        &'a self,
        _tenant: &'a TenantId,
        _instance: &'a InstanceId,
        ids: Vec<ParticipantId>,
    ) -> BoxFuture<'a, Result<Vec<Person>, LookupError>> {
        let state = self.state.lock().unwrap();
        let people = ids.iter().filter_map(|id| state.people.get(id).cloned()).collect();
        Box::pin(async move { Ok(people) })
    }

    fn link_ensure<'a>(
        &'a self,
        _tenant: &'a TenantId,
        _instance: &'a InstanceId,
        person: &'a ParticipantId,
        purpose: &'a NotificationId,
        expires_at: Timestamp,
    ) -> BoxFuture<'a, Result<Made, LinkError>> {
        let mut state = self.state.lock().unwrap();
        let answer = state.check().map(|()| {
            let number = state.links.len();
            let link = (LinkId::trusted(format!("lnk-{number}-{person}")), expires_at);
            let id = state.links.entry(purpose.clone()).or_insert(link).0.clone();
            // Every other answer is that of an earlier version, which does not sign.
            let url = number.is_multiple_of(2).then(|| url(&id));
            Made { id, url }
        });
        Box::pin(async move { answer })
    }

    fn link_url<'a>(
        &'a self,
        _tenant: &'a TenantId,
        link: &'a LinkId,
    ) -> BoxFuture<'a, Result<String, LinkError>> {
        let answer = self.state.lock().unwrap().check();
        Box::pin(async move { answer.map(|()| url(link)) })
    }
}

fn url(link: &LinkId) -> String {
    format!("https://app.example.com/external/approve?token=secret.{link}.signature")
}

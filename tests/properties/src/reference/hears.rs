//! What is heard from elsewhere. It is never refused, and it may come late, twice or out of order.

use std::collections::BTreeSet;

use phasegate_process::condition::approved_fact;

use super::{Model, Request, Subject, Versions};

impl Model<'_> {
    /// An artifact was stored.
    pub fn hear_of(&mut self, key: &str, version: u32, task: &str) {
        if self.heard.get(key).is_none_or(|known| known.0 < version) {
            self.heard.insert(key.to_owned(), (version, task.to_owned()));
        }
    }

    /// A request was put to people.
    pub fn asked(
        &mut self,
        subject: &Subject,
        round: u32,
        approvers: &BTreeSet<String>,
        reviewed: &Versions,
    ) {
        if let Some(request) = self.open_request(subject, round, approvers) {
            request.reviewed.clone_from(reviewed);
        }
    }

    /// People have decided. `there` is what is stored at this moment.
    pub fn answered(
        &mut self,
        subject: &Subject,
        round: u32,
        answer: &'static str,
        reviewed: &Versions,
        there: &Versions,
    ) {
        if self.is_over() {
            return;
        }
        if subject.0 == "key" {
            self.answers.insert(subject.1.clone(), answer);
            if answer == "approved" {
                self.facts.insert(approved_fact(&subject.1), true);
            }
            return;
        }
        let Some(request) = self.open_request(subject, round, &BTreeSet::new()) else { return };
        request.reviewed.clone_from(reviewed);
        request.answer = Some(answer);
        if answer == "approved" && !self.is_old(subject, there) {
            self.facts.insert(approved_fact(&subject.1), true);
        }
    }

    /// The request of the running round that has no answer; for a task that is with its agent, a first one of the
    /// agent's own.
    pub(super) fn open_request(
        &mut self,
        subject: &Subject,
        round: u32,
        approvers: &BTreeSet<String>,
    ) -> Option<&mut Request> {
        let is_with_agent = subject.0 == "task"
            && matches!(self.task(&subject.1).status, "ready" | "running" | "awaiting_approval");
        let is_over = self.is_over();
        let review = self.reviews.get_mut(subject)?;
        if is_over || review.round + 1 != round {
            return None;
        }
        if review.request.is_none() && is_with_agent {
            review.request = Some(Request { approvers: approvers.clone(), ..Request::default() });
        }
        review.request.as_mut().filter(|request| request.answer.is_none())
    }
}

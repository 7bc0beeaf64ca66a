//! People: they answer in any order, what they see may have changed, and what they say may come late.

use std::collections::BTreeSet;
use std::fmt::Write;

use phasegate_id::{ApprovalId, ArtifactKey, ParticipantId, TaskId};
use phasegate_instance::domain::{ApprovalStatus, Fact, RemarkMade, RequestView, Subject};

use super::{Desk, Difference, Play, named};
use crate::cover::Cover;
use crate::reference::Versions;

impl Play<'_> {
    /// Somebody answers; or an agent asks early; or an answer comes that nobody waits for.
    pub(super) fn decide(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        if self.chance.percent(8) {
            self.ask_early();
        }
        if self.chance.percent(3) {
            return self.answer_key(cover);
        }
        let ids: Vec<ApprovalId> = self.desks.keys().cloned().collect();
        let Some(id) = self.chance.one(&ids).cloned() else { return Ok(()) };
        let Some(mut desk) = self.desks.get(&id).cloned() else { return Ok(()) };
        if self.chance.percent(25) {
            // What lies before people is put to them anew, with what is there now; or it is only heard of now.
            if self.chance.percent(50) {
                desk.reviewed = self.newest_of(desk.reviewed.keys());
                desk.waiting.clone_from(&desk.approvers);
                self.desks.insert(id.clone(), desk.clone());
            }
            return self.hear_request(&id, &desk, cover);
        }
        let answer = match self.chance.below(100) {
            0..76 => {
                if let Some(one) = desk.waiting.pop_first() {
                    let _ = writeln!(self.script, "  ({one} approves)");
                }
                if !desk.waiting.is_empty() {
                    self.desks.insert(id, desk);
                    return Ok(());
                }
                ApprovalStatus::Approved
            }
            76..87 => ApprovalStatus::ChangesRequested,
            87..91 => ApprovalStatus::Rejected,
            91..94 => ApprovalStatus::Expired,
            94..97 => ApprovalStatus::Withdrawn,
            _ => ApprovalStatus::Superseded,
        };
        if self.chance.percent(95) {
            self.desks.remove(&id);
        }
        self.settle(&id, &desk, answer, cover)
    }

    /// An agent asks for its own work before handing it in.
    pub(super) fn ask_early(&mut self) {
        let running =
            self.instance.tasks.iter().filter(|(_, task)| task.lease.is_some() && task.approval.is_none());
        let running: Vec<(TaskId, u32)> = running.map(|(id, task)| (id.clone(), task.round)).collect();
        let Some((task, round)) = self.chance.one(&running).cloned() else { return };
        let Some(written) = self.written(&task).filter(|task| !task.required_approvals.is_empty()) else {
            return;
        };
        let approvers: BTreeSet<String> = written.required_approvals.iter().cloned().collect();
        let reviewed = self.newest_of(written.artifacts.iter());
        let id = ApprovalId::derive(&self.instance.id, "task", task.as_str(), round);
        let waiting = approvers.clone();
        self.desks.insert(id, Desk { subject: Subject::Task(task), round, approvers, waiting, reviewed });
    }

    pub(super) fn hear_request(
        &mut self,
        id: &ApprovalId,
        desk: &Desk,
        cover: &mut Cover,
    ) -> Result<(), Difference> {
        let fact = Fact::ApprovalRequested { approval: id.clone(), request: self.view(desk) };
        let (round, reviewed, approvers) = (desk.round, desk.reviewed.clone(), desk.approvers.clone());
        let subject = named(&desk.subject);
        let words = format!("requested {} {} round {round} {reviewed:?}", subject.0, subject.1);
        self.hear(fact, &words, cover, |model, _| model.asked(&subject, round, &approvers, &reviewed))
    }

    pub(super) fn settle(
        &mut self,
        id: &ApprovalId,
        desk: &Desk,
        status: ApprovalStatus,
        cover: &mut Cover,
    ) -> Result<(), Difference> {
        let remarks = if status == ApprovalStatus::ChangesRequested {
            let made_at = self.now;
            let participant = ParticipantId::trusted("h1");
            vec![RemarkMade { participant, artifact: None, path: String::new(), made_at }]
        } else {
            Vec::new()
        };
        let request = self.view(desk);
        let fact =
            Fact::ApprovalSettled { approval: id.clone(), status, request, remarks, reason: String::new() };
        let subject = named(&desk.subject);
        let (round, reviewed) = (desk.round, desk.reviewed.clone());
        let words =
            format!("settled {} {} round {round} {} {reviewed:?}", subject.0, subject.1, status.as_str());
        self.hear(fact, &words, cover, |model, there| {
            model.answered(&subject, round, status.as_str(), &reviewed, there);
        })
    }

    pub(super) fn answer_key(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        let key = ["legal", "f1"][self.chance.below(2)].to_owned();
        let status =
            if self.chance.percent(60) { ApprovalStatus::Approved } else { ApprovalStatus::Rejected };
        let desk = Desk {
            subject: Subject::AdHoc(key.clone()),
            round: 1,
            approvers: BTreeSet::new(),
            waiting: BTreeSet::new(),
            reviewed: Versions::new(),
        };
        self.settle(&ApprovalId::trusted(format!("apr-{key}")), &desk, status, cover)
    }

    pub(super) fn view(&self, desk: &Desk) -> RequestView {
        let people = |people: &BTreeSet<String>| people.iter().map(ParticipantId::trusted).collect();
        let key = if let Subject::AdHoc(key) = &desk.subject { key.clone() } else { String::new() };
        RequestView {
            subject: desk.subject.clone(),
            round: desk.round,
            title: "Please look".to_owned(),
            task: None,
            key,
            approvers: people(&desk.approvers),
            waiting_on: people(&desk.waiting),
            artifacts: desk
                .reviewed
                .iter()
                .map(|(key, version)| (ArtifactKey::trusted(key), *version))
                .collect(),
            content_digest: String::new(),
            requested_at: self.now,
            expires_at: None,
        }
    }
}

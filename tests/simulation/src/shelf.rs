//! The artifact service around its real rules.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use phasegate_artifact::domain::artifact::{Content, Decision, Form, JSON, Newest, decide};
use phasegate_clock::Timestamp;
use phasegate_id::{ArtifactKey, InstanceId, TaskId};
use phasegate_instance::domain::CurrentVersion;
use phasegate_proto::internal::event::v1::{ArtifactStored, Event, event::Payload};

use crate::bug::Bug;
use crate::engine::{Prepared, variant, version};
use crate::kept::{Answer, Conflict, Kept, Once, Receipt};
use crate::world::{Service, World};

/// No new lease of a task is granted for so long after one was confirmed to a writer.
const HOLD: Duration = Duration::from_secs(5);
/// How long a confirmed lease is relied upon.
pub(crate) const SURE: Duration = Duration::from_secs(3);

/// The tables of the service.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    pub(crate) kept: Kept,
    pub(crate) versions: BTreeMap<(InstanceId, ArtifactKey), Vec<Version>>,
}

/// One version.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) number: i32,
    pub(crate) digest: String,
    pub(crate) task: String,
    pub(crate) phase: String,
}

/// What somebody stores.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Put {
    pub(crate) instance: InstanceId,
    pub(crate) key: ArtifactKey,
    pub(crate) content: String,
    pub(crate) if_version: Option<i32>,
    pub(crate) lease: Option<(TaskId, u64)>,
}

/// A write under way.
#[derive(Debug)]
pub(crate) struct Storing {
    put: Put,
    once: Once,
    phase: String,
    hold: String,
    sure_until: Option<Timestamp>,
    position: (u64, Arc<Event>),
}

impl Shelf {
    /// The newest version of a key, as the others are told.
    pub(crate) fn current(&self, instance: &InstanceId, key: &ArtifactKey) -> Option<CurrentVersion> {
        let newest = self.versions.get(&(instance.clone(), key.clone()))?.last()?;
        Some(version(newest.number, &newest.digest, &newest.phase, &newest.task))
    }
}

impl World {
    /// Promises that no new lease of a task is granted for a moment; `None` where the lease does not hold.
    pub(crate) fn lease_hold(
        &mut self,
        instance: &InstanceId,
        task: &TaskId,
        fencing: u64,
    ) -> Option<String> {
        let copy = self.some_copy(Service::Instance);
        self.by_clock_of(copy, |world| world.hold(instance, task, fencing))
    }

    fn hold(&mut self, instance: &InstanceId, task: &TaskId, fencing: u64) -> Option<String> {
        let hold = self.next_id("hold");
        let (now, ignores) = (self.now, self.bug == Some(Bug::NoFence));
        let row = self.engine.rows.get_mut(instance)?;
        let lease = row.leases.get_mut(task)?;
        let holds = lease.fencing == fencing && lease.ends_at.is_some_and(|end| end > now);
        if !holds && !ignores {
            return None;
        }
        if lease.hold_until <= now {
            lease.holds.clear();
        }
        lease.holds.insert(hold.clone());
        lease.hold_until = lease.hold_until.max(now + HOLD);
        Some(hold)
    }

    /// Asks whoever must be asked.
    pub(crate) fn shelf_prepare(&mut self, put: &Put, once: &Once) -> Prepared<Storing> {
        if self.bug != Some(Bug::RequestRunsAgain) {
            match self.shelf.kept.answer(once) {
                Ok(None) => {}
                Ok(Some(answer)) | Err(answer) => return Prepared::Answered(answer),
            }
        }
        let refuse = |why: &str| Prepared::Answered(Answer::Refused(why.to_owned()));
        let Some(row) = self.engine.rows.get(&put.instance) else { return refuse("InstanceNotFound") };
        let instance = Arc::clone(&row.state);
        let (mut hold, mut sure_until, mut phase) = (String::new(), None, String::new());
        match &put.lease {
            Some((task, fencing)) => {
                let Some(granted) = self.lease_hold(&put.instance, task, *fencing) else {
                    return refuse("LeaseLost");
                };
                hold = granted;
                sure_until = Some(self.now + SURE);
                phase = instance.tasks.get(task).map(|task| task.phase.to_string()).unwrap_or_default();
            }
            None if instance.status.is_terminal() => return refuse("InstanceTerminal"),
            None => {}
        }
        let event = Event {
            event_id: self.next_id("evt"),
            tenant_id: crate::world::TENANT.to_owned(),
            instance_id: put.instance.to_string(),
            ..Event::default()
        };
        let position = self.shelf.kept.place(vec![event]).pop();
        let Some(position) = position else { return refuse("NoPosition") };
        let (put, once) = (put.clone(), once.clone());
        Prepared::Write(Box::new(Storing { put, once, phase, hold, sure_until, position }))
    }

    /// Decides and writes, in one transaction that nobody else's comes between.
    pub(crate) fn shelf_commit(&mut self, storing: Storing) -> Result<Answer, Conflict> {
        let Storing { put, once, phase, hold, sure_until, position } = storing;
        let place = (put.instance.clone(), put.key.clone());
        let newest = self.shelf.versions.get(&place).and_then(|versions| versions.last());
        let newest = newest.map(|newest| Newest {
            version: newest.number,
            form: Form::Json,
            content_type: JSON.to_owned(),
            digest: newest.digest.clone(),
        });
        let digest = format!("sha256:{}", put.content);
        let content = Content {
            form: Form::Json,
            media_type: JSON.to_owned(),
            bytes: Vec::new(),
            digest: digest.clone(),
        };
        let decided = match decide(&put.key, newest.as_ref(), &content, put.if_version) {
            Ok(decided) => decided,
            Err(rejection) => return Ok(Answer::Refused(variant(&rejection))),
        };
        let task = put.lease.as_ref().map(|(task, _)| task.to_string()).unwrap_or_default();
        let (number, outbox) = match decided {
            Decision::Unchanged => (newest.map_or(0, |newest| newest.version), Vec::new()),
            Decision::Next(number) => {
                let (position, event) = position;
                let mut event = Event::clone(&event);
                event.occurred_at = Some(self.now.to_proto());
                event.payload = Some(Payload::ArtifactStored(ArtifactStored {
                    key: put.key.to_string(),
                    version: number,
                    r#type: "document".to_owned(),
                    digest: digest.clone(),
                    size_bytes: 1,
                    phase_id: phase.clone(),
                    task_id: task.clone(),
                    hold_id: hold,
                }));
                (number, vec![(position, Arc::new(event))])
            }
        };
        let answer = Answer::Done(format!("{} version {number}", put.key));
        let kept = (self.bug != Some(Bug::RequestRunsAgain)).then(|| (once.clone(), answer.clone()));
        let receipt = Receipt { inbox: None, answer: kept, outbox };
        self.shelf.kept.check(&receipt, true)?;
        if sure_until.is_some_and(|until| self.now >= until) {
            return Ok(Answer::Refused("LeaseUnsure".to_owned()));
        }
        let is_new = !receipt.outbox.is_empty();
        self.shelf.kept.write(receipt, self.now);
        if is_new {
            let version = Version { number, digest, task, phase };
            self.shelf.versions.entry(place).or_default().push(version);
            self.witness_version(&put, &once);
        }
        Ok(answer)
    }
}

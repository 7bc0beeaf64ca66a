//! What copies do by themselves when its time has come: timers of requests, leases that have run out, messages that are due.

use std::time::Duration;

use phasegate_approval::domain::{Command, InstanceCondition};
use phasegate_id::{ApprovalId, InstanceId, TaskId};
use phasegate_instance::domain::{Action, Actor, Status};

use crate::bug::Bug;
use crate::engine::{By, Guard, Order, Prepared};
use crate::flight::{Pending, Work};
use crate::world::{Copy, EARLY, Service, World};

/// By how much leases end too early with a planted fault.
const EARLY_EXPIRY: Duration = Duration::from_secs(5);

impl World {
    /// Timers of requests, and leases whose time is over.
    pub(crate) fn timers(&mut self) {
        let copy = self.some_copy(Service::Approval);
        self.by_clock_of(copy, |world| world.request_timers(copy));
        let copy = self.some_copy(Service::Instance);
        self.by_clock_of(copy, |world| world.leases_end(copy));
    }

    fn request_timers(&mut self, copy: Copy) {
        let early = if self.bug == Some(Bug::EarlyTimer) { EARLY } else { Duration::ZERO };
        let by = self.now + early;
        let due = self.desk.timers.iter().filter(|(_, timer)| timer.due_at <= by && !timer.paused);
        let due: Vec<ApprovalId> = due.map(|(id, _)| id.clone()).collect();
        for id in due {
            self.elapse(copy, &id);
        }
    }

    fn elapse(&mut self, copy: Copy, id: &ApprovalId) {
        let Some(record) = self.desk.load(id) else { return };
        // For an instance that was put on hold after the claim no time passes.
        if record.instance == InstanceCondition::Paused {
            return;
        }
        if let Prepared::Write(write) = self.desk_step(&record, &Command::Elapse, None) {
            self.take_off(copy, Work::Own(format!("a timer of {id} is due")), Pending::Desk(write));
        }
    }

    fn leases_end(&mut self, copy: Copy) {
        let early = if self.bug == Some(Bug::EarlyExpiry) { EARLY_EXPIRY } else { Duration::ZERO };
        let by = self.now + early;
        let mut over: Vec<(InstanceId, TaskId, u64)> = Vec::new();
        for (instance, row) in &self.engine.rows {
            if row.state.status == Status::Paused {
                continue;
            }
            let ended = row.leases.iter().filter(|(_, lease)| lease.ends_at.is_some_and(|at| at <= by));
            over.extend(ended.map(|(task, lease)| (instance.clone(), task.clone(), lease.fencing)));
        }
        for (instance, task, fencing) in over {
            let jitter = if self.chance.percent(50) { 1.0 } else { 0.0 };
            let action = Action::ExpireLease { task: task.clone(), fencing, jitter };
            let mut order = Order::new(&instance, By::Somebody(Actor::engine()), action);
            order.guard = Some(Guard::Over(task.clone(), fencing));
            if let Prepared::Write(transition) = self.engine_prepare(copy.number, &order) {
                let what = format!("the lease #{fencing} of {task} in {instance} is over");
                self.take_off(copy, Work::Own(what), Pending::Engine(transition));
            }
        }
    }

    /// Messages that are due are handed to the mail server.
    pub(crate) fn post(&mut self) {
        let copy = self.some_copy(Service::Notification);
        self.by_clock_of(copy, |world| world.posts(copy));
    }

    fn posts(&mut self, copy: Copy) {
        for id in self.mail_due() {
            if self.flights.iter().any(|flight| flight.is_about_message(&id)) {
                continue;
            }
            if let Prepared::Write(noting) = self.mail_try(&id) {
                if !self.calm && self.chance.below(1_000) < self.plan.mail_lost {
                    self.cover.fault("the mail server takes a message and its answer is lost");
                    continue;
                }
                self.take_off(copy, Work::Own(format!("message {id}")), Pending::Mail(noting));
            }
        }
    }
}

//! Time passes.

use futures::StreamExt as _;
use phasegate_database::Reach;
use phasegate_telemetry::{Cause, Subject, WorkKind, work_span};
use tracing::Instrument as _;

use super::{App, CONSUMER, Error, message};
use crate::domain::{Actor, Command, InstanceCondition};
use crate::store::{Claimed, Record};

/// Timers that one round takes on.
const BATCH: u32 = 200;
/// Timers that are looked at side by side.
const TOGETHER: usize = 8;

impl App {
    /// Gives every request whose timer is due to the rules; returns how many there were. A timer of an instance on hold
    /// is not due, and one that fails is due again later.
    pub async fn elapse(&self) -> Result<usize, Error> {
        let claimed = self.store.timer_claim(self.now(), BATCH).await?;
        let fired = futures::stream::iter(&claimed).for_each_concurrent(TOGETHER, async |timer| {
            let subject = Subject { tenant_id: timer.key.tenant.as_str(), ..Subject::default() };
            let span = work_span(CONSUMER, WorkKind::Timer, "approval_elapse", Cause::default(), subject);
            span.record("phasegate.approval.id", timer.key.approval.as_str());
            let reach = Reach::of_tenant(timer.key.tenant.as_str());
            let elapsed = Box::pin(reach.within(self.elapse_one(timer).instrument(span))).await;
            phasegate_serve::note_timer(CONSUMER, "approval", self.now().duration_since(timer.due_at));
            if let Err(error) = elapsed {
                let approval = timer.key.approval.as_str();
                tracing::warn!(approval, error = %chain(&error), "a timer did not fire and will be tried again");
            }
        });
        fired.await;
        Ok(claimed.len())
    }

    async fn elapse_one(&self, timer: &Claimed) -> Result<(), Error> {
        let actor = message::bare_actor(&Actor::system("approval"));
        // For an instance that was put on hold after the claim no time passes: it is looked at when it goes on.
        let command = |record: &Record| match record.instance {
            InstanceCondition::Paused => None,
            InstanceCondition::Running | InstanceCondition::Ended => Some(Command::Elapse),
        };
        self.execute(&timer.key, &actor, None, command).await?;
        Ok(())
    }
}

/// An error with everything that led to it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

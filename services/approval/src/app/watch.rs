//! The answers of an instance as they come, from a position on.

use phasegate_id::InstanceId;
use phasegate_principal::Permission;
use phasegate_proto::approval::v1::ApprovalResponse;
use prost::Message as _;

use super::{App, Caller, Error};
use crate::store;

/// Answers of one message.
const BATCH: u32 = 100;

/// Where a watcher begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeAt {
    /// With what comes from now on.
    Now,
    /// After this answer; 0 for all.
    After(i64),
}

/// Answers after a position.
#[derive(Debug, Clone)]
pub struct Answers {
    /// Those that the caller may see, in order.
    pub responses: Vec<ApprovalResponse>,
    /// The position that they are current through.
    pub position: i64,
    /// There may be more already.
    pub more: bool,
}

impl App {
    /// Where a watcher of the instance begins; nothing where it names a position that was never reached.
    pub async fn watch_from(
        &self,
        caller: &Caller,
        instance: &str,
        from: ResumeAt,
    ) -> Result<Option<(InstanceId, i64)>, Error> {
        let instance = self.instance_visible(caller, instance).await?;
        caller.needs(Permission::View, "view")?;
        let state = self.store.instance_load(&caller.tenant(), &instance).await?;
        let newest = state.unwrap_or(store::InstanceState::UNHEARD).response_sequence;
        Ok(match from {
            ResumeAt::Now => Some((instance, newest)),
            ResumeAt::After(position) => (position <= newest).then_some((instance, position)),
        })
    }

    /// The answers after a position. A person gets those to requests that the person may see.
    pub async fn watch_next(
        &self,
        caller: &Caller,
        instance: &InstanceId,
        after: i64,
    ) -> Result<Answers, Error> {
        let tenant = caller.tenant();
        let stored = self.store.response_list(&tenant, instance, after, BATCH).await?;
        let more = u32::try_from(stored.len()) == Ok(BATCH);
        let position = stored.last().map_or(after, |last| last.sequence);
        let mut responses = Vec::with_capacity(stored.len());
        for one in stored {
            if caller.person().is_some() {
                let record = self.store.approval_load(&tenant, &one.approval).await?;
                if !record.is_some_and(|record| caller.sees(&record)) {
                    continue;
                }
            }
            let mut response = ApprovalResponse::decode(one.payload.as_slice()).map_err(|error| {
                let row = format!("{instance}/{}: {error}", one.sequence);
                store::Error::Inconsistent { table: "approval_response", row }
            })?;
            response.approver_email = one.email;
            responses.push(response);
        }
        Ok(Answers { responses, position, more })
    }

    /// Wakes whoever watches after every commit of this process. Other processes are noticed by looking.
    pub fn committed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.committed.subscribe()
    }
}

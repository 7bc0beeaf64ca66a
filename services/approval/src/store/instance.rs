//! What is known of an instance.

use phasegate_database::args;
use phasegate_id::{InstanceId, TenantId};

use super::row;
use super::{Error, Store};
use crate::domain::InstanceCondition;

/// What is known of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceState {
    /// Grows with every change of its requests.
    pub revision: i64,
    /// How it stands.
    pub condition: InstanceCondition,
    /// Number of the newest answer.
    pub response_sequence: i64,
}

impl InstanceState {
    /// An instance of which nothing was heard.
    pub const UNHEARD: Self =
        Self { revision: 0, condition: InstanceCondition::Running, response_sequence: 0 };
}

impl Store {
    /// What is known of the instance; nothing where it was never heard of.
    pub async fn instance_load(
        &self,
        tenant: &TenantId,
        instance: &InstanceId,
    ) -> Result<Option<InstanceState>, Error> {
        let row = self
            .db
            .fetch_optional(
                "select revision, paused, ended, response_sequence from instance
                  where tenant_id = $1 and instance_id = $2",
                args![tenant.as_str(), instance.as_str()],
            )
            .await?;
        Ok(row.as_ref().map(row::state).transpose()?.flatten())
    }
}

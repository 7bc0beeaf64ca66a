//! The answers of an instance, numbered in the order in which they were committed.

use phasegate_database::{Row, args};
use phasegate_id::{ApprovalId, InstanceId, ParticipantId, TenantId};

use super::{Error, Store};

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its number in the instance, from 1.
    pub sequence: i64,
    /// The request.
    pub approval: ApprovalId,
    /// The person.
    pub approver: ParticipantId,
    /// The person's address, as it is known.
    pub email: String,
    /// The answer without the address, as protobuf.
    pub payload: Vec<u8>,
}

impl Store {
    /// The answers after a number, in order.
    pub async fn response_list(
        &self,
        tenant: &TenantId,
        instance: &InstanceId,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Response>, Error> {
        let rows = self
            .db
            .fetch_all(
                "select r.sequence, r.approval_id, r.participant_id, r.payload, p.email
                   from approval_response r
                   left join person p on p.tenant_id = r.tenant_id and p.instance_id = r.instance_id
                        and p.participant_id = r.participant_id
                  where r.tenant_id = $1 and r.instance_id = $2 and r.sequence > $3
                  order by r.sequence limit $4",
                args![tenant.as_str(), instance.as_str(), after, limit],
            )
            .await?;
        let read = |row: &Row| {
            Ok(Response {
                sequence: row.get("sequence")?,
                approval: ApprovalId::trusted(row.get::<String>("approval_id")?),
                approver: ParticipantId::trusted(row.get::<String>("participant_id")?),
                email: row.get::<Option<String>>("email")?.unwrap_or_default(),
                payload: row.get("payload")?,
            })
        };
        rows.iter().map(read).collect()
    }
}

//! Messages into the engine's words. Every refusal names the field.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_principal::Principal;
use phasegate_rpc_error::Invalid;
use prost::Message;
use tonic::{Response, Status};

use super::refusal::refuse;
use crate::app::{Answered, Once};

/// What a request id is good for; nothing without one.
pub(crate) fn once(
    principal: &Principal,
    method: &'static str,
    request_id: &str,
    request: &impl Message,
) -> Result<Option<Once>, Status> {
    let key = phasegate_idempotency::Key::of(principal, method, request_id);
    let key = key.map_err(|invalid| refuse(invalid.into()))?;
    Ok(key.map(|key| Once { key, fingerprint: phasegate_idempotency::fingerprint(request) }))
}

/// The refusal of a state that is none.
pub(crate) fn not_a_state(allowed: &'static str) -> Invalid {
    Invalid::new("ENUM_INVALID", "status", format!("must be one of {allowed}")).with("allowed", allowed)
}

/// An answer on its way.
pub(crate) fn respond<M>(answered: Answered<M>) -> Response<M> {
    phasegate_idempotency::respond(answered.message, answered.is_repeated)
}

/// A duration in its range; the default when absent.
pub(crate) fn duration(
    field: &str,
    given: Option<&prost_types::Duration>,
    default: Duration,
    allowed: std::ops::RangeInclusive<Duration>,
) -> Result<Duration, Status> {
    let Some(given) = given else { return Ok(default) };
    let read = Duration::try_from(*given).ok().filter(|duration| allowed.contains(duration));
    read.ok_or_else(|| {
        let (low, high) = (allowed.start().as_secs(), allowed.end().as_secs());
        let message = format!("must be from {low} s to {high} s");
        refuse(Invalid::new("DURATION_INVALID", field, message).into())
    })
}

/// A duration for the wire.
pub(crate) fn to_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// A time that a caller gives.
pub(crate) fn time(field: &str, given: Option<&prost_types::Timestamp>) -> Result<Option<Timestamp>, Status> {
    let Some(given) = given else { return Ok(None) };
    let read = Timestamp::from_proto(given);
    let refused = || refuse(Invalid::new("TIMESTAMP_INVALID", field, "must be a time").into());
    read.map(Some).ok_or_else(refused)
}

/// A count for the wire.
pub(crate) fn count(number: impl TryInto<i32>) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}

/// A text of at most so many bytes, cut at a character.
pub(crate) fn shortened(text: &str, max: usize) -> String {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

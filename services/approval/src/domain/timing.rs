//! How long a request may take, and what is due next.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::ParticipantId;
use serde::{Deserialize, Serialize};

use super::approval::{Approval, State};

/// How long a request may take, from the moment that it is put to people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Deadline.
    #[serde(default, with = "millis", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// When somebody further is asked.
    #[serde(default, with = "millis", skip_serializing_if = "Option::is_none")]
    pub escalate_after: Option<Duration>,
    /// Whom, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub escalate_to: Vec<ParticipantId>,
    /// When to remind.
    #[serde(default, with = "many_millis", skip_serializing_if = "Vec::is_empty")]
    pub reminders: Vec<Duration>,
    /// What happens at the deadline.
    #[serde(default)]
    pub on_timeout: OnTimeout,
}

/// What happens at the deadline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// The nearest target is added once; the request stays open and overdue.
    #[default]
    Escalate,
    /// Counts as a rejection.
    Reject,
    /// Ends the request and blocks its subject.
    Block,
}

/// The times of one request.
pub(super) struct Due {
    /// Deadline.
    pub(super) deadline: Option<Timestamp>,
    /// When somebody further is asked.
    pub(super) escalation: Option<Timestamp>,
    /// Earliest first.
    pub(super) reminders: Vec<Timestamp>,
}

impl Timing {
    /// The same with another deadline. What would come after it falls away.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self.escalate_after = self.escalate_after.filter(|after| *after < timeout);
        self.reminders.retain(|after| *after < timeout);
        self
    }

    /// Times of a request that is put to people at `start`.
    pub(super) fn from(&self, start: Timestamp) -> Due {
        let mut reminders: Vec<_> = self.reminders.iter().map(|after| start + *after).collect();
        reminders.sort_unstable();
        reminders.dedup();
        Due {
            deadline: self.timeout.map(|after| start + after),
            escalation: self.escalate_after.map(|after| start + after),
            reminders,
        }
    }
}

/// When time changes something about the request next.
pub fn due_next(approval: &Approval) -> Option<Timestamp> {
    match approval.state {
        State::Settled(_) => None,
        State::Pending => {
            let deadline = approval.expires_at.filter(|_| !approval.overdue);
            let first_reminder = approval.reminds_at.first().copied();
            [deadline, approval.escalates_at, first_reminder].into_iter().flatten().min()
        }
    }
}

/// Writes a duration as milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
    pub(super) fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        value.map(super::as_millis).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_millis))
    }
}

/// Writes durations as milliseconds.
mod many_millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &[Duration], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(value.iter().copied().map(super::as_millis))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<u64>::deserialize(from)?.into_iter().map(Duration::from_millis).collect())
    }
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_deadline_drops_what_would_come_after_it() {
        let hours = |count: u64| Duration::from_secs(count * 3600);
        let timing = Timing {
            timeout: Some(hours(48)),
            escalate_after: Some(hours(24)),
            reminders: vec![hours(12), hours(36)],
            ..Timing::default()
        };
        let shorter = timing.clone().with_timeout(hours(24));
        assert_eq!(shorter.timeout, Some(hours(24)));
        assert_eq!(shorter.escalate_after, None);
        assert_eq!(shorter.reminders, vec![hours(12)]);
        let longer = timing.clone().with_timeout(hours(72));
        assert_eq!(longer, Timing { timeout: Some(hours(72)), ..timing });
    }

    #[test]
    fn timing_is_written_in_milliseconds_and_reads_back() {
        let timing = Timing {
            timeout: Some(Duration::from_millis(1_500)),
            reminders: vec![Duration::from_secs(1)],
            on_timeout: OnTimeout::Block,
            ..Timing::default()
        };
        let text = serde_json::to_string(&timing).expect("serialises");
        assert_eq!(text, r#"{"timeout":1500,"reminders":[1000],"on_timeout":"block"}"#);
        assert_eq!(serde_json::from_str::<Timing>(&text).expect("reads"), timing);
    }
}

//! How long a request for approval may take: each part from the nearest place that says it.

use std::time::Duration;

use super::Checker;
use crate::definition::{OnTimeout, RaidRole, Timing};
use crate::draft::{Draft, GateDraft, PhaseDraft, TaskDraft};
use crate::duration::parse_duration;
use crate::issue::Path;

/// Most reminders of one request.
const MAX_REMINDERS: usize = 20;

/// What one place says about the time of its requests.
pub(super) struct Written<'a> {
    timeout: Option<&'a str>,
    escalate_after: Option<&'a str>,
    escalate_to: Option<&'a str>,
    reminders: &'a [String],
    on_timeout: &'a str,
}

macro_rules! written {
    ($name:ident, $draft:ty) => {
        /// What it says.
        pub(super) fn $name(draft: &'a $draft) -> Self {
            let text = |text: &'a Option<String>| text.as_deref().filter(|text| !text.is_empty());
            Self {
                timeout: text(&draft.timeout),
                escalate_after: text(&draft.escalate_after),
                escalate_to: text(&draft.escalate_to),
                reminders: &draft.reminders,
                on_timeout: &draft.on_timeout,
            }
        }
    };
}

impl<'a> Written<'a> {
    written!(of_definition, Draft);
    written!(of_phase, PhaseDraft);
    written!(of_task, TaskDraft);
    written!(of_gate, GateDraft);

    /// Whether it says anything.
    pub(super) fn says_anything(&self) -> bool {
        self.says_times() || self.escalate_to.is_some() || !self.on_timeout.is_empty()
    }

    fn says_times(&self) -> bool {
        self.timeout.is_some() || self.escalate_after.is_some() || !self.reminders.is_empty()
    }
}

impl Checker<'_> {
    /// The timing of the definition itself.
    pub(super) fn own_timing(&mut self, path: &Path, written: &Written<'_>) -> Timing {
        self.timing(path, written, &Timing::default())
    }

    /// What `written` says, and for what it leaves out what surrounds it says.
    pub(super) fn timing(&mut self, path: &Path, written: &Written<'_>, around: &Timing) -> Timing {
        let mut timing = around.clone();
        if let Some(text) = written.timeout {
            timing.timeout = self.duration(&path.at("timeout"), text);
        }
        if let Some(text) = written.escalate_after {
            timing.escalate_after = self.duration(&path.at("escalateAfter"), text);
        }
        if let Some(name) = written.escalate_to {
            self.approver(&path.at("escalateTo"), name, &[RaidRole::Approver, RaidRole::Delegator]);
            timing.escalate_to = Some(name.to_owned());
        }
        if !written.reminders.is_empty() {
            timing.reminders = self.reminders(&path.at("reminders"), written.reminders);
        }
        match written.on_timeout {
            "" => {}
            "escalate" => timing.on_timeout = OnTimeout::Escalate,
            "reject" => timing.on_timeout = OnTimeout::Reject,
            "block" => timing.on_timeout = OnTimeout::Block,
            other => self.word(&path.at("onTimeout"), other, &["escalate", "reject", "block"]),
        }
        if written.says_times() {
            self.schedule(path, written, &timing);
        }
        timing
    }

    pub(super) fn duration(&mut self, path: &Path, text: &str) -> Option<Duration> {
        match parse_duration(text) {
            Ok(duration) => Some(duration),
            Err(fault) => {
                let shown: String = text.chars().take(64).collect();
                self.report.fault(path, "DURATION_INVALID", format!("`{shown}` {fault}"));
                None
            }
        }
    }

    fn reminders(&mut self, path: &Path, written: &[String]) -> Vec<Duration> {
        if written.len() > MAX_REMINDERS {
            let message = format!(
                "there are {} reminders, and {MAX_REMINDERS} are allowed; leave some out",
                written.len()
            );
            self.report.fault(path, "SCHEDULE_INCONSISTENT", message);
            return Vec::new();
        }
        let read =
            written.iter().enumerate().filter_map(|(index, text)| self.duration(&path.at(index), text));
        let mut reminders: Vec<Duration> = read.collect();
        reminders.sort_unstable();
        reminders.dedup();
        reminders
    }

    /// What is due at or after the deadline would never happen.
    fn schedule(&mut self, path: &Path, written: &Written<'_>, timing: &Timing) {
        let Some(timeout) = timing.timeout else { return };
        if timing.escalate_after.is_some_and(|after| after >= timeout) {
            let at = if written.escalate_after.is_some() { "escalateAfter" } else { "timeout" };
            let message = "escalateAfter is not before the timeout that holds here, so nobody further would be asked; shorten it";
            self.report.fault(&path.at(at), "SCHEDULE_INCONSISTENT", message);
        }
        if timing.reminders.iter().any(|reminder| *reminder >= timeout) {
            let at = if written.reminders.is_empty() { "timeout" } else { "reminders" };
            let message = "a reminder is not before the timeout that holds here, so it would never be sent; shorten or remove it";
            self.report.fault(&path.at(at), "SCHEDULE_INCONSISTENT", message);
        }
    }
}

//! What to do when an attempt fails: the nearest of task, phase and definition, as a whole.

use std::time::Duration;

use super::Checker;
use crate::definition::{ErrorHandling, TaskFailure};
use crate::draft::ErrorHandlingDraft;
use crate::issue::{Path, did_you_mean};

/// Most retries.
const MAX_RETRIES: i32 = 100;

const INVALID: &str = "ERROR_HANDLING_INVALID";

impl Checker<'_> {
    /// What `written` says, or else what surrounds it does.
    pub(super) fn error_handling(
        &mut self,
        path: &Path,
        written: Option<&ErrorHandlingDraft>,
        around: &ErrorHandling,
    ) -> ErrorHandling {
        let Some(written) = written else { return around.clone() };
        let default = ErrorHandling::default();
        let retry_delay = self.delay(&path.at("retryDelay"), written.retry_delay.as_deref());
        let max_retry_delay = self.delay(&path.at("maxRetryDelay"), written.max_retry_delay.as_deref());
        if let (Some(first), Some(longest)) = (retry_delay, max_retry_delay)
            && first > longest
        {
            let message =
                "the first wait is longer than the longest; lower retryDelay or raise maxRetryDelay";
            self.report.fault(&path.at("retryDelay"), INVALID, message);
        }
        let retry_delay =
            retry_delay.unwrap_or(default.retry_delay.min(max_retry_delay.unwrap_or(Duration::MAX)));
        let escalate_to = written.escalate_to.clone().filter(|name| !name.is_empty());
        if let Some(name) = escalate_to.as_deref().filter(|name| !self.is_somebody(name)) {
            let message = format!(
                "`{name}` is neither an agent nor a human of the definition{}",
                self.somebody_like(name)
            );
            self.report.fault(&path.at("escalateTo"), INVALID, message);
        }
        self.told(&path.at("notifyParticipants"), &written.notify_participants);
        ErrorHandling {
            task_failure: self.strategy(&path.at("taskFailure"), &written.task_failure),
            max_retries: self.retries(&path.at("maxRetries"), written.max_retries),
            escalate_to,
            notify_participants: written.notify_participants.clone(),
            retry_delay,
            max_retry_delay: max_retry_delay.unwrap_or(default.max_retry_delay.max(retry_delay)),
        }
    }

    fn delay(&mut self, path: &Path, written: Option<&str>) -> Option<Duration> {
        written.filter(|text| !text.is_empty()).and_then(|text| self.duration(path, text))
    }

    fn strategy(&mut self, path: &Path, word: &str) -> TaskFailure {
        match word {
            "" | "retry_with_escalation" => TaskFailure::RetryWithEscalation,
            "retry" => TaskFailure::Retry,
            "escalate" => TaskFailure::Escalate,
            "skip" => TaskFailure::Skip,
            "fail_process" => TaskFailure::FailProcess,
            other => {
                let shown: String = other.chars().take(64).collect();
                let message = format!(
                    "`{shown}` is not known; write one of retry, retry_with_escalation, escalate, skip, fail_process"
                );
                self.report.fault(path, INVALID, message);
                TaskFailure::RetryWithEscalation
            }
        }
    }

    fn retries(&mut self, path: &Path, written: Option<i32>) -> u32 {
        let Some(written) = written else { return ErrorHandling::default().max_retries };
        if written > MAX_RETRIES {
            self.report.fault(path, INVALID, format!("write 0 to {MAX_RETRIES}"));
        }
        u32::try_from(written).unwrap_or_else(|_| {
            self.report.fault(path, INVALID, format!("write 0 to {MAX_RETRIES}"));
            0
        })
    }

    fn told(&mut self, path: &Path, names: &[String]) {
        let draft = self.draft;
        self.repeated(path, names);
        for (index, name) in names.iter().enumerate() {
            if !draft.humans.contains_key(name) {
                let alike = did_you_mean(name, draft.humans.keys().map(String::as_str));
                self.report.fault(
                    &path.at(index),
                    INVALID,
                    format!("`{name}` is no human of the definition{alike}"),
                );
            }
        }
    }
}

//! What a program answered, and what became of its task.

use std::fmt;

use serde_json::{Map, Value};

use crate::cli::failure::Failure;

/// Longest failure message, in bytes, that the server takes.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// The answer of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Artifacts to store, by key.
    pub(super) artifacts: Map<String, Value>,
    /// What was done, for people.
    pub(super) summary: String,
    /// The rest: the output of the task.
    pub(super) output: Map<String, Value>,
}

impl Answer {
    /// Reads what a program wrote. Nothing at all is an empty answer.
    pub(super) fn read(stdout: &[u8]) -> Result<Answer, String> {
        if stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(Answer { artifacts: Map::new(), summary: String::new(), output: Map::new() });
        }
        let value = phasegate_proto_json::parse(stdout)
            .map_err(|faults| format!("standard output is not one JSON object: {faults}"))?;
        let Value::Object(mut output) = value else {
            return Err("standard output is JSON, but not an object".to_owned());
        };
        let artifacts = match output.remove("artifacts") {
            None => Map::new(),
            Some(Value::Object(artifacts)) => artifacts,
            Some(_) => return Err("\"artifacts\" must be an object of {key: content}".to_owned()),
        };
        let summary = output.get("summary").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Answer { artifacts, summary, output })
    }
}

/// Why an attempt failed, as the server is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Stable name.
    pub(super) kind: &'static str,
    /// What happened.
    pub(super) message: String,
}

impl Wrong {
    /// A failure with a message that is cut to what the server takes: its end says most.
    pub(super) fn new(kind: &'static str, message: &str) -> Wrong {
        let message = message.trim();
        let mut start = message.len().saturating_sub(MESSAGE_BYTES_MAX);
        while !message.is_char_boundary(start) {
            start += 1;
        }
        Wrong { kind, message: message[start..].to_owned() }
    }
}

/// What became of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was handed in.
    HandedIn {
        /// Task.
        task: String,
        /// It waits for this request.
        approval_id: String,
    },
    /// The attempt failed.
    Failed {
        /// Task.
        task: String,
        /// Why.
        message: String,
        /// What the engine does about it.
        follows: String,
    },
    /// It was given back, or taken away.
    Left {
        /// Task.
        task: String,
        /// Why.
        why: String,
    },
}

impl Ended {
    /// Whether `--once` did what it was asked.
    pub(super) fn verdict(self) -> Result<(), Failure> {
        match self {
            Ended::HandedIn { .. } => Ok(()),
            Ended::Failed { task, message, .. } => {
                Err(Failure::Unsuccessful(format!("{task} failed: {message}")))
            }
            Ended::Left { task, why } => Err(Failure::Unsuccessful(format!("{task} was left: {why}"))),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::HandedIn { task, approval_id } if approval_id.is_empty() => {
                write!(formatter, "{task}: completed")
            }
            Ended::HandedIn { task, approval_id } => {
                write!(formatter, "{task}: handed in, waits for approval {approval_id}")
            }
            Ended::Failed { task, message, follows } => {
                let last = message.lines().last().unwrap_or_default();
                write!(formatter, "{task}: failed: {last}; {follows}")
            }
            Ended::Left { task, why } => write!(formatter, "{task}: left: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let answer =
            Answer::read(br#"{"summary": "done", "groups": 3, "artifacts": {"doc": {"a": 1}}}"#).unwrap();
        assert_eq!(answer.artifacts["doc"], serde_json::json!({"a": 1}));
        assert_eq!(answer.summary, "done");
        assert_eq!(Value::Object(answer.output), serde_json::json!({"summary": "done", "groups": 3}));
        assert!(Answer::read(b" \n").unwrap().output.is_empty());
        for bad in ["[]", "done", "{} {}", "{\"artifacts\": []}", "{\"a\": 1, \"a\": 2}"] {
            assert!(Answer::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_end_of_a_long_message_is_kept() {
        let wrong = Wrong::new("EXIT_STATUS", &format!("{}\nthe last words\n", "é".repeat(5_000)));
        assert!(wrong.message.len() <= MESSAGE_BYTES_MAX);
        assert!(wrong.message.ends_with("the last words"));
    }

    #[test]
    fn once_says_how_it_went() {
        let task = || "t".to_owned();
        assert!(Ended::HandedIn { task: task(), approval_id: String::new() }.verdict().is_ok());
        let failed = Ended::Failed { task: task(), message: "x".to_owned(), follows: String::new() };
        assert_eq!(failed.verdict().unwrap_err().exit_code(), 5);
        assert_eq!(Ended::Left { task: task(), why: "x".to_owned() }.verdict().unwrap_err().exit_code(), 5);
    }
}

//! Comments: what they may be about, and who may write and read them.

use std::fmt;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, CommentId, is_slug};

use super::{Author, artifact};

/// Longest comment, in bytes.
pub const BODY_BYTES_MAX: usize = 16 << 10;

/// What a comment is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The instance as a whole.
    Instance,
    /// One of its phases.
    Phase(String),
    /// One of its tasks.
    Task(String),
    /// A request for approval.
    Approval(ApprovalId),
    /// An artifact, whatever its version.
    Artifact(ArtifactKey),
}

/// One comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment {
    /// Id.
    pub id: CommentId,
    /// What it is about.
    pub subject: Subject,
    /// Comment that it answers.
    pub parent: Option<CommentId>,
    /// Plain text.
    pub body: String,
    /// Who wrote it.
    pub author: Author,
    /// Not shown to participants.
    pub internal: bool,
    /// When.
    pub created_at: Timestamp,
}

/// What a caller wants to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// What it is about.
    pub subject: Subject,
    /// Comment that it answers.
    pub parent: Option<CommentId>,
    /// Plain text.
    pub body: String,
    /// Not for participants.
    pub internal: bool,
}

/// What a decision needs to know of the comment that is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// What it is about.
    pub subject: Subject,
    /// Not shown to participants.
    pub internal: bool,
}

/// Who wants to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// An operator or a service.
    Inside,
    /// A person who came through a link.
    Participant {
        /// The link lets its holder comment.
        may_comment: bool,
    },
}

/// Why a comment is not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The subject has another form.
    #[error("the subject must be instance, phase:<id>, task:<id>, approval:<id> or artifact:<key>")]
    SubjectInvalid,
    /// The instance has no such thing.
    #[error("the instance has no {0}")]
    SubjectUnknown(Subject),
    /// The text is empty, too long, or holds control characters.
    #[error("the body must be plain text of 1 character to {BODY_BYTES_MAX} bytes")]
    BodyInvalid,
    /// The comment that is answered is not there, or belongs to another thread.
    #[error("the parent must be a comment of the same subject that whoever reads the answer may read, too")]
    ParentInvalid,
    /// The link does not let its holder comment.
    #[error("the link does not let its holder comment")]
    MayNotComment,
    /// A participant cannot write what participants do not see.
    #[error("the link does not let its holder write internal comments")]
    MayNotHide,
}

/// Whether the writer may write such a comment at all.
pub fn may_write(writer: Writer, draft: &Draft) -> Result<(), Rejection> {
    match writer {
        Writer::Participant { may_comment: false } => Err(Rejection::MayNotComment),
        Writer::Participant { may_comment: true } if draft.internal => Err(Rejection::MayNotHide),
        Writer::Participant { may_comment: true } | Writer::Inside => Ok(()),
    }
}

/// Whether a comment may be written. `parent` is what was found under the id that the draft names.
pub fn decide(writer: Writer, draft: &Draft, parent: Option<&Parent>) -> Result<(), Rejection> {
    may_write(writer, draft)?;
    match (&draft.parent, parent) {
        (None, _) => Ok(()),
        // An open answer to an internal comment would show that there is one.
        (Some(_), Some(parent)) if parent.internal && !draft.internal => Err(Rejection::ParentInvalid),
        (Some(_), Some(parent)) if parent.subject == draft.subject => Ok(()),
        (Some(_), _) => Err(Rejection::ParentInvalid),
    }
}

/// Checks a text.
pub fn body(text: &str) -> Result<(), Rejection> {
    let plain = !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));
    if text.len() <= BODY_BYTES_MAX && !text.trim().is_empty() && plain {
        Ok(())
    } else {
        Err(Rejection::BodyInvalid)
    }
}

// === impl Subject ===

impl Subject {
    /// Reads what a caller wrote.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        if text == "instance" {
            return Ok(Self::Instance);
        }
        let (kind, id) = text.split_once(':').ok_or(Rejection::SubjectInvalid)?;
        match kind {
            "phase" if is_slug(id) => Ok(Self::Phase(id.to_owned())),
            "task" if is_slug(id) => Ok(Self::Task(id.to_owned())),
            "approval" => ApprovalId::parse(id).map(Self::Approval).map_err(|_| Rejection::SubjectInvalid),
            "artifact" => artifact::key(id).map(Self::Artifact).map_err(|_| Rejection::SubjectInvalid),
            _ => Err(Rejection::SubjectInvalid),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance => f.write_str("instance"),
            Self::Phase(id) => write!(f, "phase:{id}"),
            Self::Task(id) => write!(f, "task:{id}"),
            Self::Approval(id) => write!(f, "approval:{id}"),
            Self::Artifact(key) => write!(f, "artifact:{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_read_and_write_the_same() {
        for text in ["instance", "phase:discovery", "task:sso_setup", "approval:apr-01", "artifact:Plan.v2"] {
            assert_eq!(Subject::parse(text).unwrap().to_string(), text);
        }
        for bad in [
            "",
            "phase",
            "phase:",
            "phase:A",
            "gate:x",
            "approval:",
            "artifact:../x",
            "instance:x",
            "task:a b",
        ] {
            assert_eq!(Subject::parse(bad), Err(Rejection::SubjectInvalid), "{bad:?}");
        }
    }

    #[test]
    fn bodies_are_plain_text() {
        for good in ["x", "two\nlines\tand more\r\n", "ünïcode", &"x".repeat(BODY_BYTES_MAX)] {
            assert!(body(good).is_ok(), "{good:?}");
        }
        for bad in ["", "  \n", "a\0b", "\u{1b}[31m", &"x".repeat(BODY_BYTES_MAX + 1)] {
            assert_eq!(body(bad), Err(Rejection::BodyInvalid), "{bad:?}");
        }
    }

    #[test]
    fn who_may_write_what() {
        let may = Writer::Participant { may_comment: true };
        let may_not = Writer::Participant { may_comment: false };
        let parent =
            |subject: &str, internal| Some(Parent { subject: Subject::parse(subject).unwrap(), internal });
        let table = [
            (Writer::Inside, false, None, Ok(())),
            (Writer::Inside, true, None, Ok(())),
            (may, false, None, Ok(())),
            (may, true, None, Err(Rejection::MayNotHide)),
            (may_not, false, None, Err(Rejection::MayNotComment)),
            (may_not, true, None, Err(Rejection::MayNotComment)),
            (Writer::Inside, false, Some(parent("task:a", false)), Ok(())),
            (Writer::Inside, true, Some(parent("task:a", true)), Ok(())),
            (Writer::Inside, false, Some(parent("task:a", true)), Err(Rejection::ParentInvalid)),
            (Writer::Inside, false, Some(parent("task:b", false)), Err(Rejection::ParentInvalid)),
            (Writer::Inside, false, Some(None), Err(Rejection::ParentInvalid)),
            (may, false, Some(parent("task:a", false)), Ok(())),
            (may, false, Some(parent("task:a", true)), Err(Rejection::ParentInvalid)),
        ];
        for (writer, internal, parent, expected) in table {
            let draft = Draft {
                subject: Subject::parse("task:a").unwrap(),
                parent: parent.as_ref().map(|_| CommentId::trusted("cmt-1")),
                body: "x".into(),
                internal,
            };
            let found = parent.clone().flatten();
            assert_eq!(decide(writer, &draft, found.as_ref()), expected, "{writer:?} {draft:?} {parent:?}");
        }
    }
}

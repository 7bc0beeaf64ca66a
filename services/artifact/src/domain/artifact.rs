//! Artifacts: keys, versions and content.
//!
//! A key holds versions 1, 2, 3, … without gaps; the newest one is what "the artifact" means. A version never changes.
//! Content that equals the newest version makes none, so that an agent that runs again does not ask people again.

use phasegate_clock::Timestamp;
use phasegate_id::ArtifactKey;

use super::Author;

/// Largest content, in bytes: what travels in one message. Larger content needs a stream.
pub const CONTENT_BYTES_MAX: usize = 8 << 20;
/// Largest metadata, in bytes of JSON: it comes with every entry of a list.
pub const METADATA_BYTES_MAX: usize = 64 << 10;
/// Longest kind.
pub const KIND_CHARS_MAX: usize = 64;
/// Longest media type.
pub const CONTENT_TYPE_CHARS_MAX: usize = 128;
/// Media type of JSON content.
pub const JSON: &str = "application/json";
/// Media type of bytes whose own is not given.
pub const BYTES: &str = "application/octet-stream";

/// How content is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Canonical JSON.
    Json,
    /// Bytes as they came.
    Bytes,
}

/// Content with its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// How it is kept.
    pub form: Form,
    /// Media type.
    pub media_type: String,
    /// The canonical JSON, or the bytes.
    pub bytes: Vec<u8>,
    /// "sha256:" and hex over `bytes`.
    pub digest: String,
}

/// What a decision needs to know of the newest version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// Its number.
    pub version: i32,
    /// How it is kept.
    pub form: Form,
    /// Its media type.
    pub content_type: String,
    /// Its digest.
    pub digest: String,
}

/// What a store comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The newest version holds this content.
    Unchanged,
    /// A version of this number is made.
    Next(i32),
}

/// One version, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Name.
    pub key: ArtifactKey,
    /// From 1.
    pub number: i32,
    /// What it is, such as document.
    pub kind: String,
    /// How its content is kept.
    pub form: Form,
    /// Media type.
    pub content_type: String,
    /// Size of the content.
    pub size: i64,
    /// "sha256:" and hex.
    pub digest: String,
    /// JSON object, as given.
    pub metadata: Option<Vec<u8>>,
    /// Phase that it is listed under; empty for none.
    pub phase_id: String,
    /// Task whose lease stored it; empty for others.
    pub task_id: String,
    /// Who stored it.
    pub created_by: Author,
    /// When.
    pub created_at: Timestamp,
}

/// Why an artifact is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The key has another form.
    #[error("the key must match ^[A-Za-z0-9][A-Za-z0-9._-]{{0,127}}$")]
    KeyInvalid,
    /// The kind is empty, too long or unreadable.
    #[error("the type must be one line of 1 to {KIND_CHARS_MAX} characters")]
    KindInvalid,
    /// The media type has another form, or contradicts the content.
    #[error(
        "the content type must be a media type of at most {CONTENT_TYPE_CHARS_MAX} characters, and {JSON} for json content"
    )]
    ContentTypeInvalid,
    /// The metadata is too large.
    #[error("the metadata has {size} bytes of json, at most {METADATA_BYTES_MAX} are allowed")]
    MetadataTooLarge {
        /// What it has.
        size: usize,
    },
    /// The metadata holds a number that JSON cannot write.
    #[error("the metadata holds a number that is not finite")]
    MetadataNumber,
    /// `metadata.phase` is no text.
    #[error("the phase must be text")]
    PhaseNotText,
    /// `metadata.phase` names no phase.
    #[error("the phase {phase} is not one of {}", known.join(", "))]
    PhaseUnknown {
        /// What was named.
        phase: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Neither or both kinds of content.
    #[error("exactly one of content and raw_content must be given")]
    ContentMissing,
    /// The content holds a number that JSON cannot write.
    #[error("the content holds a number that is not finite")]
    ContentNumber,
    /// The content is too large.
    #[error("the content has {size} bytes, at most {CONTENT_BYTES_MAX} are allowed")]
    TooLarge {
        /// What it has.
        size: usize,
    },
    /// Another version is the newest one.
    #[error("version {current} of {key} is the newest one, not {expected}")]
    VersionConflict {
        /// Key.
        key: ArtifactKey,
        /// What the caller believed.
        expected: i32,
        /// What is.
        current: i32,
    },
}

/// Whether content becomes a version, and which.
pub fn decide(
    key: &ArtifactKey,
    newest: Option<&Newest>,
    content: &Content,
    if_version: Option<i32>,
) -> Result<Decision, Rejection> {
    let current = newest.map_or(0, |newest| newest.version);
    if let Some(expected) = if_version
        && expected != current
    {
        return Err(Rejection::VersionConflict { key: key.clone(), expected, current });
    }
    let unchanged = newest.is_some_and(|newest| {
        newest.form == content.form
            && newest.content_type == content.media_type
            && newest.digest == content.digest
    });
    if unchanged { Ok(Decision::Unchanged) } else { Ok(Decision::Next(current.saturating_add(1))) }
}

/// Reads a key.
pub fn key(text: &str) -> Result<ArtifactKey, Rejection> {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if !(first && rest) {
        return Err(Rejection::KeyInvalid);
    }
    ArtifactKey::parse(text).map_err(|_| Rejection::KeyInvalid)
}

/// Checks a kind.
pub fn kind(text: &str) -> Result<(), Rejection> {
    let length = text.chars().count();
    let readable = !text.trim().is_empty() && !text.chars().any(char::is_control);
    if (1..=KIND_CHARS_MAX).contains(&length) && readable { Ok(()) } else { Err(Rejection::KindInvalid) }
}

/// The media type of content whose caller named `given`.
pub fn content_type(form: Form, given: &str) -> Result<String, Rejection> {
    match form {
        Form::Json if given.is_empty() || given == JSON => Ok(JSON.to_owned()),
        Form::Json => Err(Rejection::ContentTypeInvalid),
        Form::Bytes if given.is_empty() => Ok(BYTES.to_owned()),
        Form::Bytes if is_media_type(given) => Ok(given.to_owned()),
        Form::Bytes => Err(Rejection::ContentTypeInvalid),
    }
}

/// Checks the size of content.
pub fn size(bytes: usize) -> Result<(), Rejection> {
    if bytes > CONTENT_BYTES_MAX { Err(Rejection::TooLarge { size: bytes }) } else { Ok(()) }
}

/// Checks the size of metadata.
pub fn metadata_size(bytes: usize) -> Result<(), Rejection> {
    if bytes > METADATA_BYTES_MAX { Err(Rejection::MetadataTooLarge { size: bytes }) } else { Ok(()) }
}

/// Checks that a named phase is one of the instance's.
pub fn phase(phase: &str, known: &[String]) -> Result<(), Rejection> {
    if known.iter().any(|id| id == phase) {
        Ok(())
    } else {
        Err(Rejection::PhaseUnknown { phase: phase.chars().take(128).collect(), known: known.to_vec() })
    }
}

/// `type/subtype`, with parameters or without: enough to stand in a header without harm.
fn is_media_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let is_token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let named = essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
    named
        && text.len() <= CONTENT_TYPE_CHARS_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(form: Form, content_type: &str, digest: &str) -> Content {
        Content { form, media_type: content_type.into(), bytes: Vec::new(), digest: digest.into() }
    }

    fn newest(version: i32, digest: &str) -> Newest {
        Newest { version, form: Form::Json, content_type: JSON.into(), digest: digest.into() }
    }

    #[test]
    fn content_makes_a_version_only_when_it_is_new_and_the_caller_saw_the_newest() {
        let key = ArtifactKey::trusted("plan");
        let conflict =
            |expected, current| Err(Rejection::VersionConflict { key: key.clone(), expected, current });
        let json = |digest| content(Form::Json, JSON, digest);
        let table = [
            (None, json("a"), None, Ok(Decision::Next(1))),
            (None, json("a"), Some(0), Ok(Decision::Next(1))),
            (None, json("a"), Some(1), conflict(1, 0)),
            (Some(newest(3, "a")), json("b"), None, Ok(Decision::Next(4))),
            (Some(newest(3, "a")), json("b"), Some(3), Ok(Decision::Next(4))),
            (Some(newest(3, "a")), json("b"), Some(2), conflict(2, 3)),
            (Some(newest(3, "a")), json("b"), Some(0), conflict(0, 3)),
            (Some(newest(3, "a")), json("b"), Some(-1), conflict(-1, 3)),
            (Some(newest(3, "a")), json("a"), None, Ok(Decision::Unchanged)),
            (Some(newest(3, "a")), json("a"), Some(3), Ok(Decision::Unchanged)),
            // A caller that is behind is told so even where the content happens to be the same.
            (Some(newest(3, "a")), json("a"), Some(2), conflict(2, 3)),
            // The same bytes as another kind of content are other content.
            (Some(newest(3, "a")), content(Form::Bytes, JSON, "a"), None, Ok(Decision::Next(4))),
            (Some(newest(3, "a")), content(Form::Bytes, "text/plain", "a"), None, Ok(Decision::Next(4))),
        ];
        for (newest, content, if_version, expected) in table {
            let got = decide(&key, newest.as_ref(), &content, if_version);
            assert_eq!(got, expected, "{newest:?} {content:?} {if_version:?}");
        }
    }

    #[test]
    fn keys_have_a_form() {
        for good in ["a", "7", "Requirements.doc", "sso_config-v1", &"x".repeat(128)] {
            assert!(key(good).is_ok(), "{good:?}");
        }
        for bad in ["", ".a", "-a", "_a", "a/b", "a b", "ä", "a\0", "../x", &"x".repeat(129)] {
            assert_eq!(key(bad), Err(Rejection::KeyInvalid), "{bad:?}");
        }
    }

    #[test]
    fn kinds_have_a_length() {
        for good in ["document", "d", "évidence", &"x".repeat(64), &"é".repeat(64)] {
            assert!(kind(good).is_ok(), "{good:?}");
        }
        for bad in ["", " ", "a\nb", "a\0", &"x".repeat(65)] {
            assert_eq!(kind(bad), Err(Rejection::KindInvalid), "{bad:?}");
        }
    }

    #[test]
    fn media_types_fit_their_content() {
        for (form, given, expected) in [
            (Form::Json, "", Some(JSON)),
            (Form::Json, JSON, Some(JSON)),
            (Form::Json, "text/plain", None),
            (Form::Bytes, "", Some(BYTES)),
            (Form::Bytes, "text/plain; charset=utf-8", Some("text/plain; charset=utf-8")),
            (Form::Bytes, "image/svg+xml", Some("image/svg+xml")),
            (Form::Bytes, "text", None),
            (Form::Bytes, "text/", None),
            (Form::Bytes, "/plain", None),
            (Form::Bytes, "text/plain\r\nX-Evil: 1", None),
            (Form::Bytes, "text/plain; name=ä", None),
            (Form::Bytes, &format!("text/{}", "x".repeat(124)), None),
        ] {
            assert_eq!(content_type(form, given).ok().as_deref(), expected, "{form:?} {given:?}");
        }
    }

    #[test]
    fn sizes_and_phases_are_bounded() {
        assert_eq!(size(CONTENT_BYTES_MAX), Ok(()));
        let over = CONTENT_BYTES_MAX + 1;
        assert_eq!(size(over), Err(Rejection::TooLarge { size: over }));
        assert_eq!(metadata_size(METADATA_BYTES_MAX), Ok(()));
        let over = METADATA_BYTES_MAX + 1;
        assert_eq!(metadata_size(over), Err(Rejection::MetadataTooLarge { size: over }));
        let known = ["discovery".to_owned()];
        assert_eq!(phase("discovery", &known), Ok(()));
        assert!(matches!(phase("build", &known), Err(Rejection::PhaseUnknown { .. })));
    }
}

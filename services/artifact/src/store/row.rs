//! Rows as the domain sees them.

use phasegate_clock::Timestamp;
use phasegate_database::Row;
use phasegate_id::{ArtifactKey, CommentId};

use super::Error;
use crate::domain::Author;
use crate::domain::artifact::{Form, Newest, Version};
use crate::domain::comment::{Comment, Subject};

/// How a form is stored.
pub(super) const fn form_text(form: Form) -> &'static str {
    match form {
        Form::Json => "json",
        Form::Bytes => "bytes",
    }
}

pub(super) fn newest(row: &Row) -> Result<Newest, Error> {
    let key: String = row.get("artifact_key")?;
    Ok(Newest {
        version: number(row, &key)?,
        form: form(row, &key)?,
        content_type: row.get("content_type")?,
        digest: row.get("digest")?,
    })
}

pub(super) fn version(row: &Row) -> Result<Version, Error> {
    let key: String = row.get("artifact_key")?;
    Ok(Version {
        number: number(row, &key)?,
        form: form(row, &key)?,
        kind: row.get("kind")?,
        content_type: row.get("content_type")?,
        size: row.get("size_bytes")?,
        digest: row.get("digest")?,
        metadata: row.get("metadata")?,
        phase_id: row.get("phase_id")?,
        task_id: row.get("task_id")?,
        created_by: Author(row.get("created_by")?),
        created_at: row.get::<Timestamp>("created_at")?,
        key: ArtifactKey::trusted(key),
    })
}

pub(super) fn comment(row: &Row) -> Result<Comment, Error> {
    let id: String = row.get("comment_id")?;
    Ok(Comment {
        subject: subject(row, &id)?,
        parent: row.get::<Option<String>>("parent_id")?.map(CommentId::trusted),
        body: row.get("body")?,
        author: Author(row.get("author")?),
        internal: row.get("internal")?,
        created_at: row.get::<Timestamp>("created_at")?,
        id: CommentId::trusted(id),
    })
}

pub(super) fn subject(row: &Row, id: &str) -> Result<Subject, Error> {
    let text: String = row.get("subject")?;
    Subject::parse(&text).map_err(|_| Error::Inconsistent { table: "comment", row: id.to_owned() })
}

pub(super) fn number(row: &Row, key: &str) -> Result<i32, Error> {
    let number: i64 = row.get("version")?;
    i32::try_from(number)
        .map_err(|_| Error::Inconsistent { table: "artifact_version", row: format!("{key} {number}") })
}

fn form(row: &Row, key: &str) -> Result<Form, Error> {
    let text: String = row.get("form")?;
    [Form::Json, Form::Bytes]
        .into_iter()
        .find(|form| form_text(*form) == text)
        .ok_or_else(|| Error::Inconsistent { table: "artifact_version", row: format!("{key} {text}") })
}

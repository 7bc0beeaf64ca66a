//! Messages and what they mean here.

use phasegate_id::CommentId;
use phasegate_proto::actor::v1::Actor;
use phasegate_proto::artifact::v1 as proto;
use phasegate_proto::internal::artifact::v1 as internal;
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use crate::app::Error;
use crate::app::artifact::{Current, Put, Stored};
use crate::app::canonical;
use crate::app::comment::Written;
use crate::domain::Author;
use crate::domain::artifact::{self as rules, Content, Form, Rejection, Version};
use crate::domain::comment::{self, Comment, Draft, Subject};

/// Reads what a caller wants to store.
pub(super) fn put(request: proto::StoreArtifactRequest) -> Result<Put, Error> {
    let key = rules::key(&request.key)?;
    rules::kind(&request.r#type)?;
    let (metadata, phase) = match &request.metadata {
        Some(metadata) => metadata_of(metadata)?,
        None => (None, None),
    };
    let content = content(request.content, request.raw_content, &request.content_type)?;
    Ok(Put {
        key,
        kind: request.r#type,
        content,
        metadata,
        phase,
        if_version: request.if_version,
        task_token: request.task_token,
    })
}

/// Reads what a caller wants to write.
pub(super) fn draft(request: proto::CreateCommentRequest) -> Result<Draft, Error> {
    comment::body(&request.body)?;
    let subject =
        if request.subject.is_empty() { Subject::Instance } else { Subject::parse(&request.subject)? };
    let parent = match request.parent_id.as_str() {
        "" => None,
        id => Some(CommentId::parse(id).map_err(|_| comment::Rejection::ParentInvalid)?),
    };
    Ok(Draft { subject, parent, body: request.body, internal: request.internal })
}

/// Writes a version without its content.
pub(super) fn artifact(instance_id: &str, version: &Version) -> Result<proto::Artifact, Error> {
    let metadata = match &version.metadata {
        Some(json) => Some(canonical::parse_object(json).map_err(|_| unreadable(instance_id, version))?),
        None => None,
    };
    Ok(proto::Artifact {
        instance_id: instance_id.to_owned(),
        key: version.key.as_str().to_owned(),
        version: version.number,
        r#type: version.kind.clone(),
        content: None,
        raw_content: Vec::new(),
        content_type: version.content_type.clone(),
        size_bytes: version.size,
        digest: version.digest.clone(),
        metadata,
        phase: version.phase_id.clone(),
        task_id: version.task_id.clone(),
        created_by: Some(actor(&version.created_by)),
        created_at: Some(version.created_at.to_proto()),
    })
}

/// Writes a version with its content.
pub(super) fn artifact_with_content(
    instance_id: &str,
    version: &Version,
    content: Vec<u8>,
) -> Result<proto::Artifact, Error> {
    let mut artifact = artifact(instance_id, version)?;
    match version.form {
        Form::Json => {
            let value = canonical::parse_value(&content).map_err(|_| unreadable(instance_id, version))?;
            artifact.content = Some(value);
        }
        Form::Bytes => artifact.raw_content = content,
    }
    Ok(artifact)
}

/// Writes what came of a store.
pub(super) fn stored(stored: &Stored) -> Result<proto::StoreArtifactResponse, Error> {
    let artifact = artifact(stored.instance.as_str(), &stored.version)?;
    Ok(proto::StoreArtifactResponse { artifact: Some(artifact) })
}

/// Writes what came of a comment.
pub(super) fn written(written: &Written) -> proto::CreateCommentResponse {
    proto::CreateCommentResponse { comment: Some(comment(written.instance.as_str(), &written.comment)) }
}

/// Writes a comment.
pub(super) fn comment(instance_id: &str, comment: &Comment) -> proto::Comment {
    proto::Comment {
        id: comment.id.as_str().to_owned(),
        instance_id: instance_id.to_owned(),
        subject: comment.subject.to_string(),
        parent_id: comment.parent.as_ref().map(|parent| parent.as_str().to_owned()).unwrap_or_default(),
        body: comment.body.clone(),
        author: Some(actor(&comment.author)),
        internal: comment.internal,
        created_at: Some(comment.created_at.to_proto()),
    }
}

/// Writes the newest version of a key for another service.
pub(super) fn current(current: Current) -> internal::get_current_versions_response::Current {
    internal::get_current_versions_response::Current {
        key: current.key.into_string(),
        version: current.version,
        r#type: current.kind,
        digest: current.digest,
        phase_id: current.phase_id,
        task_id: current.task_id,
    }
}

fn content(json: Option<Value>, raw: Vec<u8>, content_type: &str) -> Result<Content, Rejection> {
    let (form, bytes) = match json {
        Some(_) if !raw.is_empty() => return Err(Rejection::ContentMissing),
        Some(value) => {
            (Form::Json, canonical::value(&value).map_err(|canonical::NotFinite| Rejection::ContentNumber)?)
        }
        None if raw.is_empty() => return Err(Rejection::ContentMissing),
        None => (Form::Bytes, raw),
    };
    rules::size(bytes.len())?;
    let media_type = rules::content_type(form, content_type)?;
    Ok(Content { form, media_type, digest: canonical::digest(&bytes), bytes })
}

fn metadata_of(metadata: &Struct) -> Result<(Option<Vec<u8>>, Option<String>), Rejection> {
    let json = canonical::object(metadata).map_err(|canonical::NotFinite| Rejection::MetadataNumber)?;
    rules::metadata_size(json.len())?;
    let phase = match metadata.fields.get("phase").and_then(|phase| phase.kind.as_ref()) {
        None | Some(Kind::NullValue(_)) => None,
        Some(Kind::StringValue(phase)) => Some(phase.clone()),
        Some(Kind::BoolValue(_) | Kind::NumberValue(_) | Kind::StructValue(_) | Kind::ListValue(_)) => {
            return Err(Rejection::PhaseNotText);
        }
    };
    Ok((Some(json), phase))
}

/// An author that cannot be read is nobody; what was stored is shown all the same.
fn actor(author: &Author) -> Actor {
    Actor::decode(author.0.as_slice()).unwrap_or_default()
}

fn unreadable(instance_id: &str, version: &Version) -> Error {
    let row = format!("{instance_id} {} {}", version.key, version.number);
    Error::inconsistent("artifact_version", row)
}

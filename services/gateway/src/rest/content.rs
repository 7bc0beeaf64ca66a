//! The bytes of an artifact. They come from anybody, so a browser must save them, and never show them as ours.

use axum::body::Body;
use http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
    IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};
use phasegate_proto::artifact::v1::{Artifact, GetArtifactResponse};
use phasegate_proto_json::to_brief_json;
use prost::Message;
use serde_json::Value;

use crate::refusal::Refused;

/// Answers with the content of the artifact in a message.
pub(crate) fn respond(message: &[u8], request: &HeaderMap) -> Result<Response<Body>, Refused> {
    let answer =
        GetArtifactResponse::decode(message).map_err(|error| Refused::Internal(error.to_string()))?;
    let artifact = answer.artifact.unwrap_or_default();
    let etag = format!("\"{}\"", artifact.digest);
    let (content, content_type) = content(&artifact)?;
    let unchanged = request.get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok()).is_some_and(|tags| {
        tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
    });
    let mut response = Response::new(Body::from(content));
    if unchanged {
        response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    let fallback = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(&content_type).unwrap_or(fallback));
    let file_name = file_name(&artifact, &content_type);
    let attachment = HeaderValue::from_static("attachment");
    let disposition = HeaderValue::from_str(&format!("attachment; filename=\"{file_name}\""));
    headers.insert(CONTENT_DISPOSITION, disposition.unwrap_or(attachment));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(ETAG, etag);
    }
    Ok(response)
}

fn content(artifact: &Artifact) -> Result<(Vec<u8>, String), Refused> {
    match &artifact.content {
        Some(content) => {
            let json = to_brief_json(content, "google.protobuf.Value");
            let json: Value = json.map_err(|error| Refused::Internal(error.to_string()))?;
            Ok((json.to_string().into_bytes(), "application/json".to_owned()))
        }
        None => Ok((artifact.raw_content.clone(), artifact.content_type.clone())),
    }
}

/// The key is letters, digits, dots and the like; JSON gets the ending that a program looks for.
fn file_name(artifact: &Artifact, content_type: &str) -> String {
    let key: String = artifact
        .key
        .chars()
        .filter(|character| character.is_ascii_alphanumeric() || ['.', '_', '-'].contains(character))
        .collect();
    let has_ending = key.to_lowercase().ends_with(".json");
    if content_type == "application/json" && !has_ending { format!("{key}.json") } else { key }
}

//! What a REST call is answered with: JSON, or the error that a gRPC caller would see, in JSON.

use axum::body::Body;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};
use phasegate_proto_json::{Style, decode};
use phasegate_rpc_error::reason_of;
use serde_json::{Map, Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::route::Route;
use crate::refusal::Refused;

/// Answers with the message of a method.
pub(crate) fn success(route: &Route, message: &[u8], repeated: bool) -> Result<Response<Body>, Refused> {
    let output = route.method.descriptor.output();
    let answer = decode(&output, message, Style::Full);
    let mut answer = answer.map_err(|error| Refused::Internal(format!("{}: {error}", output.full_name())))?;
    if let Some(field) = &route.response_body {
        let body = answer.as_object_mut().and_then(|fields| fields.remove(field.json_name()));
        answer = body.unwrap_or_else(|| Value::Object(Map::new()));
    }
    // What was there already has not been created by this call.
    let status =
        if repeated && route.success == StatusCode::CREATED { StatusCode::OK } else { route.success };
    Ok(json_response(status, &answer))
}

/// Answers with what the gateway itself refuses.
pub(crate) fn refused(refused: &Refused) -> Response<Body> {
    let mut response = failure(&phasegate_rpc_error::status(refused));
    if let Refused::WrongMethod { allow, .. } = refused
        && let Ok(allow) = HeaderValue::from_str(allow)
    {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}

/// Answers with what a service refuses.
pub(crate) fn failure(status: &Status) -> Response<Body> {
    let http_status = http_status(status.code(), reason_of(status).as_deref().unwrap_or_default());
    let mut response = json_response(http_status, &error(status));
    let headers = response.headers_mut();
    if let Some(delay) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        // Whole seconds, and not too early.
        headers.insert(
            RETRY_AFTER,
            HeaderValue::from(delay.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)),
        );
    }
    if http_status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The error of a status as JSON, in the shape of AIP-193.
pub(crate) fn error(status: &Status) -> Value {
    let http_status = http_status(status.code(), reason_of(status).as_deref().unwrap_or_default());
    json!({"error": {
        "code": http_status.as_u16(),
        "status": phasegate_rpc_error::code_name(status.code()),
        "message": status.message(),
        "details": details(status),
    }})
}

/// The HTTP status of an error: by its reason where that says more than the code.
pub(crate) fn http_status(code: Code, reason: &str) -> StatusCode {
    match reason {
        "LINK_EXPIRED" | "LINK_REVOKED" => return StatusCode::GONE,
        "REQUEST_ID_REUSED" => return StatusCode::UNPROCESSABLE_ENTITY,
        "UNSUPPORTED_MEDIA_TYPE" => return StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "HEADERS_TOO_LARGE" => return StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "BODY_TOO_SLOW" => return StatusCode::REQUEST_TIMEOUT,
        "NO_ROUTE" if code == Code::Unimplemented => return StatusCode::METHOD_NOT_ALLOWED,
        too_large if too_large.ends_with("_TOO_LARGE") => return StatusCode::PAYLOAD_TOO_LARGE,
        _ => {}
    }
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        // The call is well formed; it is what it meets that forbids it.
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        // What proxies write for a caller that has hung up.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The details that our services give, with their types.
fn details(status: &Status) -> Vec<Value> {
    let found = status.get_error_details();
    let mut details = Vec::new();
    let mut add = |name: &str, mut detail: Value| {
        if let Some(fields) = detail.as_object_mut() {
            fields.insert("@type".to_owned(), json!(format!("type.googleapis.com/google.rpc.{name}")));
        }
        details.push(detail);
    };
    if let Some(info) = found.error_info() {
        let metadata: Map<String, Value> =
            info.metadata.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        add("ErrorInfo", json!({"reason": info.reason, "domain": info.domain, "metadata": metadata}));
    }
    if let Some(bad) = found.bad_request() {
        let violations = bad.field_violations.iter().map(|violation| {
            json!({"field": violation.field, "reason": violation.reason, "description": violation.description})
        });
        add("BadRequest", json!({"fieldViolations": violations.collect::<Vec<Value>>()}));
    }
    if let Some(failure) = found.precondition_failure() {
        let violations = failure.violations.iter().map(|violation| {
            json!({"type": violation.r#type, "subject": violation.subject, "description": violation.description})
        });
        add("PreconditionFailure", json!({"violations": violations.collect::<Vec<Value>>()}));
    }
    if let Some(delay) = found.retry_info().and_then(|info| info.retry_delay) {
        add("RetryInfo", json!({"retryDelay": format!("{}s", delay.as_secs_f64())}));
    }
    details
}

pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use phasegate_proto_json::pool;

    use super::*;

    const CODES: [Code; 17] = [
        Code::Ok,
        Code::Cancelled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// The list of reasons says which code and which status each comes with.
    #[test]
    fn every_reason_has_the_status_that_the_list_promises() {
        let list = pool().get_enum_by_name("phasegate.error.v1.Reason").unwrap();
        let comments = crate::comment::Comments::read();
        let mut checked = 0;
        for value in list.values().filter(|value| value.number() != 0) {
            let reason = value.name().strip_prefix("REASON_").unwrap();
            let comment = comments.of_enum_value(&value).replace('\n', " ");
            for (at, mark) in comment.match_indices(", HTTP ") {
                let (before, after) = (&comment[..at], &comment[at + mark.len()..]);
                let name = before.rsplit(' ').next().unwrap();
                let status: u16 = after[..3].parse().unwrap();
                let code =
                    CODES.into_iter().find(|code| phasegate_rpc_error::code_name(*code) == name).unwrap();
                assert_eq!(http_status(code, reason).as_u16(), status, "{reason}");
                checked += 1;
            }
        }
        assert!(checked > 90, "only {checked} found");
    }
}

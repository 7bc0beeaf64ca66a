//! The link itself: from the mail to a clean URL, and what to do when it has ended.

use axum::Form;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use phasegate_clock::Timestamp;

use super::Shared;
use super::fault::{Fault, message};
use super::form::{Fields, field, same_site};

/// Opens a session and leads to a URL without the token. Decides nothing and counts against nothing, since mail scanners come
/// here first.
pub(super) async fn open(
    State(portal): State<Shared>,
    Query(query): Query<Fields>,
) -> Result<Response, Fault> {
    let token = field(&query, "token");
    let session = match portal.exchange(token).await {
        Ok(session) => session,
        Err(status) => {
            return Err(match phasegate_rpc_error::reason_of(&status).as_deref() {
                Some("LINK_EXPIRED") => Fault::LinkEnded { revoked: false, token: token.to_owned() },
                Some("LINK_REVOKED") => Fault::LinkEnded { revoked: true, token: token.to_owned() },
                _ => Fault::from(status),
            });
        }
    };
    let link_id = session.link.as_ref().map_or("", |link| link.id.as_str());
    let ends = session.session_expires_at.as_ref().and_then(Timestamp::from_proto);
    let cookie = portal.set_cookie(link_id, &session.session_token, ends).ok_or(Fault::NoSession)?;
    let mut response = Redirect::to(&format!("/external/{link_id}")).into_response();
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

/// Has a fresh link mailed to the address on file. The answer is the same whatever the token was.
pub(super) async fn request_new(
    State(portal): State<Shared>,
    headers: HeaderMap,
    Form(fields): Form<Fields>,
) -> Result<Response, Fault> {
    same_site(&headers)?;
    portal.fresh_link(field(&fields, "token")).await?;
    Ok(message(
        StatusCode::ACCEPTED,
        "Look into your mailbox",
        "If that link was part of a process that goes on, a new one is on its way to the address on file.",
        None,
    ))
}

//! The link itself: from the mail to a clean URL, and what to do when it has ended.

use axum::Form;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use phasegate_clock::Timestamp;

use super::Shared;
use super::fault::{Fault, Renewal, message};
use super::form::{Fields, field};

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
            return Err(Fault::of_link(status, || Renewal::Token(token.to_owned())));
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
    Form(fields): Form<Fields>,
) -> Result<Response, Fault> {
    portal.fresh_link(field(&fields, "token")).await?;
    Ok(on_its_way())
}

/// The same for somebody who has come in by the link. What is mailed goes to the address on file, a few times an hour at
/// most, so that the form needs no nonce.
pub(super) async fn renew(
    State(portal): State<Shared>,
    Path(link): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let token = portal.session_token(&headers, &link).ok_or(Fault::NoSession)?;
    portal.fresh_link_of_session(token, &link).await?;
    Ok(on_its_way())
}

fn on_its_way() -> Response {
    message(
        StatusCode::ACCEPTED,
        "Look into your mailbox",
        "If that link was part of a process that goes on, a new one is on its way to the address on file.",
        None,
    )
}

//! The portal: what a customer's person sees behind a magic link. HTML rendered here, without JavaScript.
//!
//! A GET decides nothing and a single POST does not either: mail scanners open links, run scripts and press buttons. A
//! decision takes a choice that was not preselected, then a confirmation with a nonce that is good once. Everything is
//! read and written through the services' own methods as the participant, so no rule is enforced here only.

mod calls;
mod content;
mod fault;
mod form;
mod home;
mod link;
mod page;
mod readable;
mod review;
mod session;
mod view;
mod when;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use phasegate_serve::Context;

/// Largest form: a comment and a remark on each of some artifacts.
const FORM_BYTES_MAX: usize = 512 * 1024;

/// Nothing is loaded from anywhere else, nothing runs, nobody frames it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; \
                                       frame-ancestors 'none'; base-uri 'none'";

/// What the pages need.
#[derive(Debug)]
struct Portal {
    context: Context,
    /// On the developer's own machine, without TLS: cookies cannot be `Secure` there.
    dev: bool,
}

/// The state that every handler gets.
type Shared = Arc<Portal>;

/// A path as it is written in [`router`], for logs: the path itself names links.
pub(crate) fn template(path: &str) -> &'static str {
    let segments: Vec<&str> = path.strip_prefix("/external").unwrap_or_default().split('/').skip(1).collect();
    match segments.as_slice() {
        ["portal.css"] => "/external/portal.css",
        ["approve"] => "/external/approve",
        ["links", "request"] => "/external/links/request",
        [_] => "/external/{link}",
        [_, "comments"] => "/external/{link}/comments",
        [_, "renew"] => "/external/{link}/renew",
        [_, "artifacts", _] => "/external/{link}/artifacts/{key}",
        [_, "artifacts", _, "download"] => "/external/{link}/artifacts/{key}/download",
        [_, "approvals", _] => "/external/{link}/approvals/{approval}",
        [_, "approvals", _, "review"] => "/external/{link}/approvals/{approval}/review",
        [_, "approvals", _, "confirm"] => "/external/{link}/approvals/{approval}/confirm",
        [_, "approvals", _, "receipt"] => "/external/{link}/approvals/{approval}/receipt",
        _ => "/external",
    }
}

/// The routes below `/external`. `dev` is for a server without TLS on the developer's own machine.
pub fn router(context: Context, dev: bool) -> Router {
    let portal = Arc::new(Portal { context, dev });
    Router::new()
        .route("/external/portal.css", get(stylesheet))
        .route("/external/approve", get(link::open))
        .route("/external/links/request", post(link::request_new))
        .route("/external/{link}", get(home::show))
        .route("/external/{link}/comments", post(home::comment))
        .route("/external/{link}/renew", post(link::renew))
        .route("/external/{link}/artifacts/{key}", get(content::show))
        .route("/external/{link}/artifacts/{key}/download", get(content::download))
        .route("/external/{link}/approvals/{approval}", get(review::show))
        .route("/external/{link}/approvals/{approval}/review", post(review::choose))
        .route("/external/{link}/approvals/{approval}/confirm", post(review::confirm))
        .route("/external/{link}/approvals/{approval}/receipt", get(review::receipt))
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .layer(middleware::from_fn(guard))
        .with_state(portal)
}

async fn stylesheet() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("../../assets/portal.css"))
}

/// Puts the headers on every answer that keep a page, and the token in its URL, to itself.
async fn guard(request: Request, next: Next) -> Response {
    guarded(next.run(request).await)
}

/// Makes a page of a refusal that none of the portal's handlers wrote: nothing is at the path, the form is too long or
/// none, it came from another site.
pub(crate) fn readable(answer: Response) -> Response {
    let (code, headers) = (answer.status(), answer.headers());
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !(code.is_client_error() || code.is_server_error()) || kind.starts_with(b"text/html") {
        return answer;
    }
    let mut page = guarded(fault::unexplained(code));
    for name in [header::ALLOW, header::RETRY_AFTER] {
        if let Some(value) = headers.get(&name) {
            page.headers_mut().insert(name, value.clone());
        }
    }
    page
}

fn guarded(mut response: Response) -> Response {
    let fixed: [(HeaderName, &'static str); 5] = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
    ];
    for (name, value) in fixed {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

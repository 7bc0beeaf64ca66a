//! The pages that show caught mail. They fetch nothing, run nothing, and show what came from outside only escaped or in a
//! sandbox.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use super::mail::Mail;
use super::mailbox::{KEPT, Mailbox};

/// What a browser may do with the pages: show them. A mail's HTML inherits this.
const PROTECTION: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-src 'self'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

#[derive(Template)]
#[template(path = "mail/list.html")]
struct List {
    mails: Vec<Arc<Mail>>,
    kept: usize,
}

#[derive(Template)]
#[template(path = "mail/mail.html")]
struct One {
    mail: Arc<Mail>,
    document: String,
}

#[derive(Template)]
#[template(path = "mail/gone.html")]
struct Gone;

/// The pages of a mailbox.
pub(super) fn router(mailbox: Arc<Mailbox>) -> Router {
    Router::new()
        .route("/dev/mail", get(list))
        .route("/dev/mail/messages", get(messages))
        .route("/dev/mail/{id}", get(one))
        .with_state(mailbox)
}

async fn list(State(mailbox): State<Arc<Mailbox>>) -> Response {
    let mut mails = mailbox.all();
    mails.reverse();
    page(StatusCode::OK, &List { mails, kept: KEPT })
}

async fn messages(State(mailbox): State<Arc<Mailbox>>) -> Response {
    let mails = mailbox.all();
    let mails: Vec<&Mail> = mails.iter().map(Arc::as_ref).collect();
    (PROTECTION, axum::Json(mails)).into_response()
}

async fn one(State(mailbox): State<Arc<Mailbox>>, Path(id): Path<String>) -> Response {
    match mailbox.find(&id) {
        Some(mail) => {
            // Links in the mail open beside the page, not inside of it.
            let document = format!("<base target=\"_blank\">{}", mail.html);
            page(StatusCode::OK, &One { mail, document })
        }
        None => page(StatusCode::NOT_FOUND, &Gone),
    }
}

fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => (status, PROTECTION, Html(html)).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A time to the second, as people read it.
fn shown(mail: &Mail) -> String {
    let text = mail.received_at.to_string();
    match text.split_once('T') {
        Some((day, time)) => format!("{day} {}", time.chars().take(8).collect::<String>()),
        None => text,
    }
}

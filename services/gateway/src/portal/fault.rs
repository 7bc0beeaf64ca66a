//! What goes wrong in the portal, as pages that say what to do next.

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use tonic::{Code, Status};

const WITHDRAWN: &str = "This link was withdrawn";
const ENDED: &str = "This link has ended";
const BAD_FORM: (&str, &str) =
    ("That form could not be read", "Nothing was recorded. Go back and try again.");
/// After a refusal that passes by itself.
const RETRY_SECONDS: u64 = 60;

/// Why there is no page.
#[derive(Debug)]
pub(super) enum Fault {
    /// A service refused, or did not answer.
    Status(Box<Status>),
    /// The link has ended; its token asks for a fresh one.
    LinkEnded { revoked: bool, token: String },
    /// No session for this link.
    NoSession,
    /// The form came from elsewhere, or a second time.
    Csrf,
    /// The form cannot be read.
    BadForm,
    /// The page could not be made: our mistake.
    Template(askama::Error),
}

#[derive(Template)]
#[template(path = "portal/message.html")]
struct Message<'a> {
    heading: &'a str,
    text: &'a str,
    fresh_token: Option<&'a str>,
    link: Option<(&'a str, &'a str)>,
}

/// A page with a heading, a sentence, and perhaps a way on.
pub(super) fn message(status: StatusCode, heading: &str, text: &str, link: Option<(&str, &str)>) -> Response {
    render(status, &Message { heading, text, fresh_token: None, link })
}

/// A page, or a plain apology where it cannot be made.
pub(super) fn render(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => Fault::Template(error).into_response(),
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        match phasegate_rpc_error::reason_of(&status).as_deref() {
            Some("SESSION_EXPIRED") => Self::NoSession,
            Some("CSRF") => Self::Csrf,
            _ => Self::Status(Box::new(status)),
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        match self {
            Self::LinkEnded { revoked, token } => link_ended(revoked, &token),
            Self::NoSession => message(
                StatusCode::UNAUTHORIZED,
                "Please open your link again",
                "Your visit has ended, or your browser did not keep it. Open the link in your mail once more; it still works.",
                None,
            ),
            Self::Csrf => message(
                StatusCode::FORBIDDEN,
                "That page was out of date",
                "The form was sent twice, or did not come from this site. Nothing was recorded by it. Go back to your request and look again.",
                None,
            ),
            Self::BadForm => message(StatusCode::BAD_REQUEST, BAD_FORM.0, BAD_FORM.1, None),
            Self::Template(error) => {
                tracing::error!(%error, "a page could not be rendered");
                (StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong on our side.").into_response()
            }
            Self::Status(status) => refused(&status),
        }
    }
}

/// The page for a code alone.
pub(super) fn unexplained(code: StatusCode) -> Response {
    let (heading, text) = match code {
        StatusCode::FORBIDDEN => return Fault::Csrf.into_response(),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            ("There is nothing here", "Open the link in your mail once more; it leads to the right page.")
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            ("That is too long", "Nothing was recorded. Go back, write less, and send it again.")
        }
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => (
            "Your browser sent too much",
            "Nothing was recorded. Delete what your browser keeps of this site, and open the link in your mail again.",
        ),
        StatusCode::TOO_MANY_REQUESTS => {
            ("That was too often", "Your answer was not recorded. Wait a minute and try again.")
        }
        code if code.is_client_error() => BAD_FORM,
        _ => (
            "We are not there for a moment",
            "Your answer was not recorded. Try again in a minute; your link keeps working.",
        ),
    };
    message(code, heading, text, None)
}

fn link_ended(revoked: bool, token: &str) -> Response {
    let (heading, text) = if revoked {
        (
            WITHDRAWN,
            "It no longer opens anything. If you are still part of the process, we can mail a new one to the address on file.",
        )
    } else {
        (ENDED, "Links work for a limited time. We can mail a new one to the address on file.")
    };
    let page = Message { heading, text, fresh_token: Some(token), link: None };
    render(StatusCode::GONE, &page)
}

fn refused(status: &Status) -> Response {
    let reason = phasegate_rpc_error::reason_of(status).unwrap_or_default();
    let (code, heading, text) = match (status.code(), reason.as_str()) {
        (_, "LINK_INVALID") => (
            StatusCode::UNAUTHORIZED,
            "This link is not valid",
            "Perhaps it was cut in two by a line break. Copy the whole link from your mail, or ask the person who invited you.",
        ),
        (_, "LINK_EXPIRED" | "LINK_REVOKED") => (
            StatusCode::GONE,
            if reason == "LINK_REVOKED" { WITHDRAWN } else { ENDED },
            "Open your mail again and use the newest link, or ask for a fresh one from there.",
        ),
        (_, "LINK_EXHAUSTED") => (
            StatusCode::TOO_MANY_REQUESTS,
            "This link was used in too many places",
            "Nothing was recorded. You can go on where you used it before, or ask the person who invited you for another one.",
        ),
        (_, "NOT_AN_APPROVER") => (
            StatusCode::FORBIDDEN,
            "This is for somebody else",
            "You can see it, and somebody else is asked to decide.",
        ),
        (_, "LINK_PERMISSION_MISSING") => (
            StatusCode::FORBIDDEN,
            "You can view but not decide",
            "Your link does not allow this. Ask the person who invited you for another one.",
        ),
        (Code::NotFound, _) => (
            StatusCode::NOT_FOUND,
            "There is nothing here",
            "It may have been part of another process, or never existed.",
        ),
        (Code::PermissionDenied, _) => {
            (StatusCode::FORBIDDEN, "That is not allowed", "Nothing was recorded.")
        }
        (Code::InvalidArgument, _) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "That could not be taken",
            "Nothing was recorded. Go back and look at what you wrote.",
        ),
        (Code::FailedPrecondition | Code::Aborted, _) => (
            StatusCode::CONFLICT,
            "It has moved on",
            "Nothing was recorded. Open the request again to see where it stands.",
        ),
        (Code::ResourceExhausted, _) => (
            StatusCode::TOO_MANY_REQUESTS,
            "That was too often",
            "Your answer was not recorded. Wait a minute and try again.",
        ),
        (Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled, _) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "We are not there for a moment",
            "Your answer was not recorded. Try again in a minute; your link keeps working.",
        ),
        _ => {
            tracing::error!(code = ?status.code(), message = status.message(), "the portal got an answer it cannot explain");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "Something went wrong on our side",
                "Your answer was not recorded. Try again in a minute.",
            )
        }
    };
    let mut page = message(code, heading, text, None);
    if matches!(code, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        page.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
    }
    page
}

#[cfg(test)]
mod tests {
    use phasegate_rpc_error::{Kind, Refusal};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    struct Refused(Kind, &'static str);

    impl Refusal for Refused {
        fn kind(&self) -> Kind {
            self.0
        }

        fn reason(&self) -> &'static str {
            self.1
        }
    }

    #[tokio::test]
    async fn who_cannot_go_on_is_told_what_helps() {
        for (kind, reason, code, words) in [
            (Kind::Exhausted, "LINK_EXHAUSTED", StatusCode::TOO_MANY_REQUESTS, "used in too many places"),
            (Kind::Exhausted, "RATE_LIMITED", StatusCode::TOO_MANY_REQUESTS, "Wait a minute"),
            (Kind::Unauthenticated, "LINK_INVALID", StatusCode::UNAUTHORIZED, "not valid"),
            (Kind::NotFound, "APPROVAL_NOT_FOUND", StatusCode::NOT_FOUND, "nothing here"),
        ] {
            let response = refused(&phasegate_rpc_error::status(&Refused(kind, reason)));
            assert_eq!(response.status(), code, "{reason}");
            let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
            let page = String::from_utf8(body.to_vec()).unwrap();
            assert!(page.contains(words), "{reason}: {page}");
        }
    }
}

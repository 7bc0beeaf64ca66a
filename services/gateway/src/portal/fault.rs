//! What goes wrong in the portal, as pages that say what to do next.

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use tonic::{Code, Status};

const BAD_FORM: (&str, &str) =
    ("That form could not be read", "Nothing was recorded. Go back and try again.");
/// Of a moment without an answer, which a change may have come about in all the same.
const IN_DOUBT: &str = "If you were sending an answer, we do not know whether it was recorded. Open the request again in a minute to \
                        see where it stands; your link keeps working.";
/// Of a server that refuses at its door, before anything is done.
const NOT_LET_IN: (&str, &str) = (
    "We are not there for a moment",
    "Your answer was not recorded. Try again in a minute; your link keeps working.",
);
/// After a refusal that passes by itself.
const RETRY_SECONDS: u64 = 60;

/// Why there is no page.
#[derive(Debug)]
pub(super) enum Fault {
    /// A service refused, or did not answer.
    Status(Box<Status>),
    /// The link lets nobody in any more, or nobody else decide; its holder may ask for a fresh one.
    LinkOver { over: Over, renewal: Renewal },
    /// No session for this link.
    NoSession,
    /// The form came from elsewhere, or a second time.
    Csrf,
    /// The form cannot be read.
    BadForm,
    /// The page could not be made: our mistake.
    Template(askama::Error),
}

/// How a link came to be of no use.
#[derive(Debug, Clone, Copy)]
pub(super) enum Over {
    Expired,
    Revoked,
    Exhausted,
}

/// What a fresh link is asked for with.
#[derive(Debug)]
pub(super) enum Renewal {
    /// The token of the old one.
    Token(String),
    /// The cookie of a session that the old one opened.
    Session { link: String },
}

#[derive(Template)]
#[template(path = "portal/message.html")]
struct Message<'a> {
    heading: &'a str,
    text: &'a str,
    renewal: Option<&'a Renewal>,
    link: Option<(&'a str, &'a str)>,
}

/// A page with a heading, a sentence, and perhaps a way on.
pub(super) fn message(status: StatusCode, heading: &str, text: &str, link: Option<(&str, &str)>) -> Response {
    render(status, &Message { heading, text, renewal: None, link })
}

/// A page, or a plain apology where it cannot be made.
pub(super) fn render(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => Fault::Template(error).into_response(),
    }
}

impl Fault {
    /// What a service says of a link, or of a session that came from one.
    pub(super) fn of_link(status: Status, renewal: impl FnOnce() -> Renewal) -> Self {
        match Over::of(&phasegate_rpc_error::reason_of(&status).unwrap_or_default()) {
            Some(over) => Self::LinkOver { over, renewal: renewal() },
            None => Self::from(status),
        }
    }
}

impl Over {
    fn of(reason: &str) -> Option<Self> {
        match reason {
            "LINK_EXPIRED" => Some(Self::Expired),
            "LINK_REVOKED" => Some(Self::Revoked),
            "LINK_EXHAUSTED" => Some(Self::Exhausted),
            _ => None,
        }
    }

    /// The code, the heading, and what there is to know before a fresh one is asked for.
    fn told(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Expired => (
                StatusCode::GONE,
                "This link has ended",
                "Links work for a limited time. We can mail a new one to the address on file.",
            ),
            Self::Revoked => (
                StatusCode::GONE,
                "This link was withdrawn",
                "It no longer opens anything. If you are still part of the process, we can mail a new one to the address on file.",
            ),
            Self::Exhausted => (
                StatusCode::TOO_MANY_REQUESTS,
                "This link was used in too many places",
                "Nothing was recorded. You can go on where you used it before, or we can mail a new one to the address on file.",
            ),
        }
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
            Self::LinkOver { over, renewal } => {
                let (code, heading, text) = over.told();
                render(code, &Message { heading, text, renewal: Some(&renewal), link: None })
            }
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
        // The door says this of itself; what comes from behind it has a page by then.
        StatusCode::SERVICE_UNAVAILABLE => NOT_LET_IN,
        _ => (NOT_LET_IN.0, IN_DOUBT),
    };
    message(code, heading, text, None)
}

fn refused(status: &Status) -> Response {
    let reason = phasegate_rpc_error::reason_of(status).unwrap_or_default();
    let (code, heading, text) = match (status.code(), reason.as_str()) {
        (_, "LINK_INVALID") => (
            StatusCode::UNAUTHORIZED,
            "This link is not valid",
            "Perhaps it was cut in two by a line break. Copy the whole link from your mail, or ask the person who invited you.",
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
        (_, "DRAINING") => (StatusCode::SERVICE_UNAVAILABLE, NOT_LET_IN.0, NOT_LET_IN.1),
        (Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled, _) => {
            (StatusCode::SERVICE_UNAVAILABLE, NOT_LET_IN.0, IN_DOUBT)
        }
        _ => {
            tracing::error!(code = ?status.code(), message = status.message(), "the portal got an answer it cannot explain");
            (StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong on our side", IN_DOUBT)
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
            (Kind::Exhausted, "RATE_LIMITED", StatusCode::TOO_MANY_REQUESTS, "Wait a minute"),
            (Kind::Unauthenticated, "LINK_INVALID", StatusCode::UNAUTHORIZED, "not valid"),
            (Kind::NotFound, "APPROVAL_NOT_FOUND", StatusCode::NOT_FOUND, "nothing here"),
        ] {
            let response = refused(&phasegate_rpc_error::status(&Refused(kind, reason)));
            assert_eq!(response.status(), code, "{reason}");
            let page = text(response).await;
            assert!(page.contains(words), "{reason}: {page}");
        }
    }

    #[tokio::test]
    async fn a_link_that_is_over_can_be_asked_for_anew() {
        for (kind, reason, code, words) in [
            (Kind::Exhausted, "LINK_EXHAUSTED", StatusCode::TOO_MANY_REQUESTS, "used in too many places"),
            (Kind::Unauthenticated, "LINK_EXPIRED", StatusCode::GONE, "has ended"),
            (Kind::Unauthenticated, "LINK_REVOKED", StatusCode::GONE, "was withdrawn"),
        ] {
            let status = || phasegate_rpc_error::status(&Refused(kind, reason));
            let by_token = Fault::of_link(status(), || Renewal::Token("eyJ.a.b".to_owned()));
            let by_session = Fault::of_link(status(), || Renewal::Session { link: "lnk-1".to_owned() });
            for (fault, form) in [
                (by_token, "action=\"/external/links/request\""),
                (by_session, "action=\"/external/lnk-1/renew\""),
            ] {
                let response = fault.into_response();
                assert_eq!(response.status(), code, "{reason}");
                let page = text(response).await;
                assert!(page.contains(words) && page.contains(form), "{reason}: {page}");
            }
        }
    }

    #[tokio::test]
    async fn nobody_is_told_that_nothing_was_recorded_where_it_may_have_been() {
        for (kind, reason) in [
            (Kind::Unavailable, "STORE_UNAVAILABLE"),
            (Kind::Unavailable, "DEPENDENCY_DOWN"),
            (Kind::Deadline, "DEADLINE_EXCEEDED"),
            (Kind::Internal, "INTERNAL"),
        ] {
            let page = text(refused(&phasegate_rpc_error::status(&Refused(kind, reason)))).await;
            assert!(page.contains(IN_DOUBT) && !page.contains("not recorded"), "{reason}: {page}");
        }
        for code in [StatusCode::GATEWAY_TIMEOUT, StatusCode::INTERNAL_SERVER_ERROR, StatusCode::BAD_GATEWAY]
        {
            let page = text(unexplained(code)).await;
            assert!(page.contains(IN_DOUBT) && !page.contains("not recorded"), "{code}: {page}");
        }
        let draining = phasegate_rpc_error::status(&Refused(Kind::Unavailable, "DRAINING"));
        for refusal in [refused(&draining), unexplained(StatusCode::SERVICE_UNAVAILABLE)] {
            assert!(text(refusal).await.contains("was not recorded"), "it was refused at the door");
        }
    }

    async fn text(response: Response) -> String {
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }
}

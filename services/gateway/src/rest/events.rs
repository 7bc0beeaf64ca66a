//! Streams as Server-Sent Events, which every browser can read and take up again after a break.
//!
//! One event for each thing that happened, as its own JSON. The id is the resume token, so that `Last-Event-ID` brings
//! a client back to where it was; a message without events moves the token on without waking anybody.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::stream;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use phasegate_proto_json::{Style, decode};
use prost_reflect::{Kind, MessageDescriptor};
use serde_json::Value;
use tonic::{Status, Streaming};

use super::answer;
use crate::foreign;
use crate::method::PublicMethod;
use crate::refusal::Refused;
use crate::stream::Open;

/// Proxies cut what is silent for half a minute or so; a client is promised a sign of life every 15 s.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// A stream on its way to a client.
struct Feed {
    upstream: Streaming<Bytes>,
    method: Arc<PublicMethod>,
    output: MessageDescriptor,
    open: Open,
    opened: bool,
    ended: bool,
}

/// Answers with a stream of events.
pub(crate) fn respond(upstream: Streaming<Bytes>, method: &Arc<PublicMethod>, open: Open) -> Response<Body> {
    let (method, output) = (Arc::clone(method), method.descriptor.output());
    let feed = Feed { upstream, method, output, open, opened: false, ended: false };
    let chunks = stream::unfold(feed, |mut feed| async move {
        let chunk = feed.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(chunk)), feed))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl Feed {
    async fn next(&mut self) -> Option<String> {
        if !self.opened {
            self.opened = true;
            return Some("retry: 2000\n\n".to_owned());
        }
        if self.ended {
            return None;
        }
        let message = tokio::select! {
            message = self.upstream.message() => message,
            () = tokio::time::sleep(HEARTBEAT) => return Some(": still here\n\n".to_owned()),
            () = self.open.stop.cancelled() => return None,
        };
        match message {
            Ok(Some(bytes)) => match decode(&self.output, &bytes, Style::Full) {
                Ok(message) => Some(render(&self.output, &message)),
                Err(error) => {
                    let refused = Refused::Internal(format!("{}: {error}", self.output.full_name()));
                    Some(self.end(&phasegate_rpc_error::status(&refused)))
                }
            },
            Ok(None) => None,
            Err(status) => {
                let status = foreign::translate(status, &self.method);
                // Whoever was there has gone. The client comes back by itself, and goes on behind the last id.
                if foreign::passes(&status) {
                    return None;
                }
                Some(self.end(&status))
            }
        }
    }

    /// Says why the stream breaks off.
    fn end(&mut self, status: &Status) -> String {
        self.ended = true;
        format!("event: phasegate.error\ndata: {}\n\n", answer::error(status))
    }
}

/// Writes one message: an event for each of its items, or none.
fn render(output: &MessageDescriptor, message: &Value) -> String {
    let list = output.fields().find(|field| field.is_list() && matches!(field.kind(), Kind::Message(_)));
    let items = list.and_then(|field| message.get(field.json_name())).and_then(Value::as_array);
    let token = message.get("resumeToken").and_then(Value::as_str).filter(|token| is_one_line(token));
    let items = items.map(Vec::as_slice).unwrap_or_default();
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        // The token stands for the whole message: it comes with the last item, so that none is skipped.
        if let Some(token) = token.filter(|_| index + 1 == items.len()) {
            text.extend(["id: ", token, "\n"]);
        }
        if let Some(kind) = item.get("type").and_then(Value::as_str).filter(|kind| is_one_line(kind)) {
            text.extend(["event: ", kind, "\n"]);
        }
        text.extend(["data: ", &item.to_string(), "\n\n"]);
    }
    if items.is_empty() {
        // An id without data is remembered by the client and told to nobody.
        text.push_str(": checkpoint\n");
        if let Some(token) = token {
            text.extend(["id: ", token, "\n"]);
        }
        text.push('\n');
    }
    text
}

fn is_one_line(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_event_is_told_once_and_the_last_moves_the_token() {
        let output = phasegate_proto_json::message("phasegate.instance.v1.WatchEventsResponse").unwrap();
        let message = json!({
            "events": [{"id": "a", "type": "task.leased"}, {"id": "b", "type": "bad\ntype", "data": {"text": "x\ny"}}],
            "resumeToken": "42",
        });
        assert_eq!(
            render(&output, &message),
            "event: task.leased\ndata: {\"id\":\"a\",\"type\":\"task.leased\"}\n\n\
             id: 42\ndata: {\"data\":{\"text\":\"x\\ny\"},\"id\":\"b\",\"type\":\"bad\\ntype\"}\n\n"
        );
        let checkpoint = json!({"events": [], "resumeToken": "43", "checkpoint": true});
        assert_eq!(render(&output, &checkpoint), ": checkpoint\nid: 43\n\n");
        let injected = json!({"events": [], "resumeToken": "43\nevent: x"});
        assert_eq!(render(&output, &injected), ": checkpoint\n\n");
    }
}

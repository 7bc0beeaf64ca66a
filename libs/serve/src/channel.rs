//! The way to one copy of a service, on which every call is counted as its caller sees it: what a service says of the calls
//! that it has answered tells nothing about those that never reached it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use phasegate_telemetry::metrics::{Histogram, SECONDS};
use tonic::body::Body;
use tonic::codegen::{Bytes, StdError};
use tonic::{Code, Status, TimeoutExpired};
use tower::Service;

use crate::call::{code_in, method};
use crate::way::Way;

/// Calls to other services by method and outcome.
static DURATION: Histogram<2> = Histogram::new(
    "rpc_client_call_duration_seconds",
    "How long calls to other services took until the last byte of the answer, the way there included.",
    ["rpc_method", "rpc_response_status_code"],
    SECONDS,
);

/// A channel whose calls are counted.
#[derive(Debug, Clone)]
pub struct Channel(Way);

/// A call to another service. One that is dropped without an outcome was given up here.
#[derive(Debug)]
struct Asked {
    method: &'static str,
    started: Instant,
    is_over: bool,
}

/// The body of an answer on its way.
#[derive(Debug)]
struct Answer {
    body: Body,
    asked: Asked,
    /// From the headers of an answer that has no more than them.
    code: Option<Code>,
}

impl<W: Into<Way>> From<W> for Channel {
    fn from(way: W) -> Self {
        Self(way.into())
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = StdError;
    type Future = BoxFuture<'static, Result<Response<Body>, StdError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut asked =
            Asked { method: method(request.uri().path()), started: Instant::now(), is_over: false };
        let answer = self.0.call(request);
        Box::pin(async move {
            match answer.await {
                Ok(answer) => {
                    let code = code_in(answer.headers());
                    Ok(answer.map(|body| Body::new(Answer { body, asked, code })))
                }
                Err(error) => {
                    asked.finish(code_of(&error));
                    Err(error)
                }
            }
        })
    }
}

impl Asked {
    fn finish(&mut self, code: Code) {
        if !std::mem::replace(&mut self.is_over, true) {
            let name = phasegate_rpc_error::code_name(code);
            DURATION.record_time(self.started.elapsed(), [self.method, name]);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) = frame.trailers_ref().and_then(code_in) {
                    this.asked.finish(code);
                }
            }
            Some(Err(status)) => this.asked.finish(status.code()),
            None => this.asked.finish(this.code.unwrap_or(Code::Unknown)),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // A body without a frame is never asked for one.
        if let Some(code) = self.code {
            self.asked.finish(code);
        }
    }
}

/// The outcome of a call without an answer. A time that ran out here is told apart from a call that was given up.
fn code_of(error: &StdError) -> Code {
    if let Some(status) = error.downcast_ref::<Status>() {
        return status.code();
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return Code::DeadlineExceeded;
        }
        cause = error.source();
    }
    Code::Unavailable
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::transport::server::TcpIncoming;
    use tonic::transport::{Endpoint, Server};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;

    async fn counted(code: &str) -> bool {
        let line = format!(
            "rpc_client_call_duration_seconds_count{{rpc_method=\"grpc.health.v1.Health/Check\",\
             rpc_response_status_code=\"{code}\"}} 1\n"
        );
        phasegate_telemetry::metrics::text().await.contains(&line)
    }

    #[tokio::test]
    async fn a_call_is_counted_once_with_what_came_of_it() {
        let listener = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("here", tonic_health::ServingStatus::Serving).await;
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(Server::builder().add_service(health).serve_with_incoming(listener));
        // It takes connections, and never says a word.
        let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = |port: u16| {
            let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
            HealthClient::new(Channel::from(endpoint.connect_lazy()))
        };
        let about = |service: &str| HealthCheckRequest { service: service.to_owned() };

        to(port).check(about("here")).await.unwrap();
        assert_eq!(to(port).check(about("nowhere")).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(to(1).check(about("here")).await.unwrap_err().code(), Code::Unavailable);
        let mut late = tonic::Request::new(about("here"));
        late.set_timeout(Duration::from_millis(20));
        to(deaf.local_addr().unwrap().port()).check(late).await.unwrap_err();

        let mut given_up = to(deaf.local_addr().unwrap().port());
        tokio::time::timeout(Duration::from_millis(20), given_up.check(about("here"))).await.unwrap_err();

        for code in ["OK", "NOT_FOUND", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"] {
            assert!(counted(code).await, "{code}: {}", phasegate_telemetry::metrics::text().await);
        }
    }
}

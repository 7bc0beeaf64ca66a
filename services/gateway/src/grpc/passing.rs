//! The answer of a call on its way out. Whatever happens to it, it ends with a status: a service that dies in the middle
//! of a stream leaves nothing but a broken connection, and a client that hears "try again" knows what to do.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Code, Status};

use crate::foreign;
use crate::method::PublicMethod;
use crate::refusal::Refused;
use crate::stream::Open;

const GRPC_STATUS: &str = "grpc-status";

/// What passes.
pub(super) struct Passing {
    body: tonic::body::Body,
    method: Arc<PublicMethod>,
    /// Its status has been said.
    is_over: bool,
    /// Ends a stream: it is taken up again elsewhere, from where it was.
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Of a stream, until the last frame has gone.
    _open: Option<Open>,
}

/// Lets an answer pass; a stream for as long as it may be open.
pub(super) fn pass(
    answer: Response<tonic::body::Body>,
    method: &Arc<PublicMethod>,
    open: Option<Open>,
) -> Response<tonic::body::Body> {
    // A call that is answered without a message has its status among the headers.
    let is_over = answer.headers().contains_key(GRPC_STATUS);
    let stop = open.as_ref().map(|open| Box::pin(open.stop.clone().cancelled_owned()));
    answer.map(|body| {
        let method = Arc::clone(method);
        tonic::body::Body::new(Passing { body, method, is_over, stop, _open: open })
    })
}

impl Passing {
    /// Ends with a status.
    fn end(&mut self, status: &Status) -> Result<Frame<Bytes>, Status> {
        self.is_over = true;
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers)?;
        Ok(Frame::trailers(trailers))
    }

    /// Ends because whoever answered has gone.
    fn broken(&mut self, how: &dyn std::fmt::Display) -> Result<Frame<Bytes>, Status> {
        let service = self.method.home.name();
        tracing::debug!(service, %how, "an answer broke off");
        self.end(&phasegate_rpc_error::status(&Refused::Down { service }))
    }

    fn passed(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Status> {
        let Some(trailers) = frame.trailers_ref() else { return Ok(frame) };
        let failed = Status::from_header_map(trailers).filter(|status| status.code() != Code::Ok);
        if let Some(status) = failed {
            return self.end(&foreign::translate(status, &self.method));
        }
        self.is_over = true;
        Ok(frame)
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(this.passed(frame))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(this.broken(&error))),
            Poll::Ready(None) => Poll::Ready(Some(this.broken(&"there is no status at its end"))),
            Poll::Pending => match this.stop.as_mut().map(|stop| stop.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => {
                    Poll::Ready(Some(this.end(&phasegate_rpc_error::status(&Refused::Draining))))
                }
                Some(Poll::Pending) | None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

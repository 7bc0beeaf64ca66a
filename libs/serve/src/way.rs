//! The way to one copy of a service.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::transport::Channel;
use tower::Service;

use crate::direct::Direct;

/// A connection, or none where the service is in the same process.
#[derive(Debug, Clone)]
pub enum Way {
    /// Over the network, or through a pipe.
    Connection(Channel),
    /// See [`crate::direct`].
    Direct(Direct),
}

impl From<Channel> for Way {
    fn from(channel: Channel) -> Self {
        Self::Connection(channel)
    }
}

impl From<Direct> for Way {
    fn from(direct: Direct) -> Self {
        Self::Direct(direct)
    }
}

impl Service<Request<Body>> for Way {
    type Response = Response<Body>;
    type Error = StdError;
    type Future = BoxFuture<'static, Result<Response<Body>, StdError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        match self {
            Self::Connection(channel) => channel.poll_ready(cx).map_err(Into::into),
            Self::Direct(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Self::Connection(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { Ok(answer.await?) })
            }
            Self::Direct(direct) => Box::pin(direct.clone().call(request)),
        }
    }
}

//! A way to a service of the same process: a call goes straight to its routes, in the task of whoever calls. A connection in
//! memory costs nearly as much as one over the network: headers are packed and unpacked, and each of its ends is a task that
//! has to be woken.

use std::fmt;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use http::{Request, Response};
use phasegate_rpc_error::{Kind, Refusal};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::{Bytes, StdError};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};

use crate::{Listener, deadline};

/// What takes the calls.
type Routes = BoxCloneSyncService<Request<Body>, Response<Body>, StdError>;

/// The way.
#[derive(Debug, Clone)]
pub struct Direct(watch::Receiver<Taking>);

/// The end of the way, where a service takes calls.
#[derive(Debug)]
pub struct End(watch::Sender<Taking>);

/// Why a call has no answer of its service.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("the server is stopping")]
    Stopping,
    #[error("the deadline has passed")]
    Late,
    #[error("the call panicked")]
    Panicked,
}

/// Whether calls are taken.
#[derive(Clone)]
enum Taking {
    /// Not yet: they wait.
    Later,
    Now(Routes),
    NoMore,
}

/// A listener, and the way that leads to it.
pub fn direct() -> (Listener, Direct) {
    let (end, way) = watch::channel(Taking::Later);
    (Listener::Direct(End(end)), Direct(way))
}

impl Direct {
    /// Has a call answered, within the time that it gives. Nothing of it is done any more once this is dropped.
    pub(crate) async fn call(mut self, request: Request<Body>) -> Result<Response<Body>, StdError> {
        let given = deadline::given(request.headers());
        let answer = async {
            let routes = self.routes().await?;
            // Like one over a connection, a call that panics takes nobody along.
            let answer = AssertUnwindSafe(routes.oneshot(request)).catch_unwind();
            answer.await.unwrap_or_else(|_| Err(Unanswered::Panicked.status()))
        };
        match given {
            Some(given) => {
                let answer = tokio::time::timeout(given, answer).await;
                answer.unwrap_or_else(|_| Err(Unanswered::Late.status()))
            }
            None => answer.await,
        }
    }

    async fn routes(&mut self) -> Result<Routes, StdError> {
        let taking = self.0.wait_for(|taking| !matches!(taking, Taking::Later)).await;
        match taking.as_deref() {
            Ok(Taking::Now(routes)) => Ok(routes.clone()),
            Ok(Taking::Later | Taking::NoMore) | Err(_) => Err(Unanswered::Stopping.status()),
        }
    }
}

impl Unanswered {
    fn status(&self) -> StdError {
        phasegate_rpc_error::status(self).into()
    }
}

impl Refusal for Unanswered {
    fn kind(&self) -> Kind {
        match self {
            Self::Stopping => Kind::Unavailable,
            Self::Late => Kind::Deadline,
            Self::Panicked => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Stopping => "DRAINING",
            Self::Late => "DEADLINE_EXCEEDED",
            Self::Panicked => "INTERNAL",
        }
    }
}

impl End {
    /// Takes calls until `stop`.
    pub(crate) async fn take<S, B>(self, service: S, stop: impl Future<Output = ()>)
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<StdError>,
        S::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        let routes = service.map_response(|answer| answer.map(Body::new)).map_err(Into::into);
        self.0.send_replace(Taking::Now(Routes::new(routes)));
        stop.await;
        self.0.send_replace(Taking::NoMore);
    }
}

impl fmt::Debug for Taking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Later => "Later",
            Self::Now(_) => "Now",
            Self::NoMore => "NoMore",
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;
    use tonic::{Code, Status};

    use super::*;

    /// Answers `/well`, panics at `/panic`, and waits for ever at everything else.
    async fn answer(request: Request<Body>) -> Result<Response<Body>, StdError> {
        match request.uri().path() {
            "/well" => Ok(Response::new(Body::default())),
            "/panic" => panic!("as it was asked to"),
            _ => std::future::pending().await,
        }
    }

    fn request(path: &str) -> Request<Body> {
        Request::get(path).header(deadline::TIMEOUT_HEADER, "50m").body(Body::default()).unwrap()
    }

    async fn called(way: &Direct, path: &str) -> Code {
        match way.clone().call(request(path)).await {
            Ok(_) => Code::Ok,
            Err(error) => Status::from_error(error).code(),
        }
    }

    #[tokio::test]
    async fn calls_wait_for_the_service_and_end_with_it() {
        let (Listener::Direct(end), way) = direct() else { panic!("another listener") };
        assert_eq!(called(&way, "/well").await, Code::DeadlineExceeded);
        let stop = CancellationToken::new();
        let early = tokio::spawn({
            let way = way.clone();
            async move { called(&way, "/well").await }
        });
        tokio::task::yield_now().await;
        let taking = tokio::spawn({
            let stop = stop.clone();
            async move { end.take(tower::service_fn(answer), stop.cancelled()).await }
        });
        assert_eq!(early.await.unwrap(), Code::Ok);
        assert_eq!(called(&way, "/panic").await, Code::Internal);
        assert_eq!(called(&way, "/slow").await, Code::DeadlineExceeded);
        assert_eq!(called(&way, "/well").await, Code::Ok);
        stop.cancel();
        taking.await.unwrap();
        assert_eq!(called(&way, "/well").await, Code::Unavailable);
    }
}

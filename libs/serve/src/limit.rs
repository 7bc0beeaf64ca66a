//! Bounds what a service does at a time, and for how long: a call finds a place or is refused at once, is not begun when its
//! deadline has passed, and does not take longer than its kind may.
//!
//! The places are those of the whole service, not of one connection: the gateway is one client with thousands of calls on a few
//! connections, and a limit for each of them would say nothing about the sum.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use phasegate_principal::{Principal, is_internal};
use phasegate_rpc_error::{Kind, Refusal};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::deadline::{given, within};
use crate::place::{Limits, Overloaded, Place, Places};

/// Longest that a call with one answer takes. Nothing that is done right takes as long.
pub(crate) const UNARY_TIME_MAX: Duration = Duration::from_secs(10);
/// The same for a long poll, which waits up to a minute by itself.
const POLL_TIME_MAX: Duration = Duration::from_secs(75);
/// The one method that waits by itself before it answers.
const POLL: &str = "phasegate.worker.v1.WorkerService/PollTasks";

/// How a method answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// At once.
    Unary,
    /// When there is something, or after a while.
    Poll,
    /// Again and again. What bounds it is the number of streams, and that each ends by itself.
    Stream,
}

/// Bounds what one service does.
#[derive(Debug, Clone)]
pub(crate) struct LimitLayer {
    service: &'static str,
    calls: Places,
    polls: Places,
}

/// What [`LimitLayer`] makes.
#[derive(Debug, Clone)]
pub(crate) struct Limited<S> {
    inner: S,
    layer: LimitLayer,
}

/// The deadline of a call has passed.
#[derive(Debug, thiserror::Error)]
#[error("the answer did not come in time")]
struct TooLate;

impl LimitLayer {
    pub(crate) fn new(service: &'static str, limits: Limits) -> Self {
        Self { service, calls: Places::new(limits.calls_max), polls: Places::new(limits.polls_max) }
    }

    /// The place of a call; none where it needs none.
    fn place<B>(&self, manner: Manner, request: &Request<B>) -> Result<Option<Place>, Overloaded> {
        let principal = request.extensions().get::<Principal>();
        let tenant = principal.map_or("", |principal| principal.tenant.as_str());
        let place = match manner {
            Manner::Stream => return Ok(None),
            Manner::Poll => self.polls.enter(tenant),
            Manner::Unary if is_internal(request.uri().path()) => self.calls.enter_again(tenant),
            Manner::Unary => self.calls.enter(tenant),
        };
        place.map(Some).ok_or_else(|| Overloaded::shed(self.service))
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner, layer: self.clone() }
    }
}

impl<S, B, R> Service<Request<B>> for Limited<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // What nobody knows is answered by nobody, at once; probes must be answered above all.
        let Some(manner) = manner(request.uri().path()) else { return Box::pin(self.inner.call(request)) };
        let asked = given(request.headers());
        let most = match manner {
            Manner::Unary => Some(UNARY_TIME_MAX),
            Manner::Poll => Some(POLL_TIME_MAX),
            Manner::Stream => None,
        };
        let time_max = match (asked, most) {
            (Some(asked), Some(most)) => Some(asked.min(most)),
            (asked, most) => asked.or(most),
        };
        if time_max.is_some_and(|time_max| time_max.is_zero()) {
            return refuse(&TooLate);
        }
        let place = match self.layer.place(manner, &request) {
            Ok(place) => place,
            Err(overloaded) => return refuse(&overloaded),
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let _place = place;
            let Some(time_max) = time_max else { return answer.await };
            let until = Instant::now() + time_max;
            match tokio::time::timeout_at(until, within(until, answer)).await {
                Ok(answer) => answer,
                Err(_) => Ok(phasegate_rpc_error::status(&TooLate).into_http()),
            }
        })
    }
}

fn refuse<R, E>(refusal: &(impl Refusal + ?Sized)) -> BoxFuture<'static, Result<Response<R>, E>>
where
    R: Default + Send + 'static,
    E: Send + 'static,
{
    let answer = phasegate_rpc_error::status(refusal).into_http();
    Box::pin(std::future::ready(Ok(answer)))
}

/// How the method at a path answers, if any service has it.
fn manner(path: &str) -> Option<Manner> {
    static KNOWN: OnceLock<BTreeMap<String, Manner>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let services = phasegate_proto_json::pool().services();
        let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
        let manners = methods.map(|method| {
            let name = format!("{}/{}", method.parent_service().full_name(), method.name());
            let manner = match name.as_str() {
                _ if method.is_server_streaming() => Manner::Stream,
                POLL => Manner::Poll,
                _ => Manner::Unary,
            };
            (name, manner)
        });
        manners.collect()
    });
    known.get(path.strip_prefix('/').unwrap_or(path)).copied()
}

impl Refusal for TooLate {
    fn kind(&self) -> Kind {
        Kind::Deadline
    }

    fn reason(&self) -> &'static str {
        "DEADLINE_EXCEEDED"
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tonic::{Code, Status};
    use tower::ServiceExt as _;

    use super::*;
    use crate::deadline::{TIMEOUT_HEADER, remaining};

    const GET: &str = "/phasegate.instance.v1.InstanceService/GetInstance";
    const WATCH: &str = "/phasegate.instance.v1.EventService/WatchEvents";
    const PIN: &str = "/phasegate.internal.definition.v1.DefinitionInternalService/PinDefinition";

    /// A service that never answers, and says how many calls it has begun, and how long the last one may take.
    #[derive(Clone, Default)]
    struct Silent {
        begun: Arc<AtomicUsize>,
        left: Arc<std::sync::Mutex<Option<Duration>>>,
    }

    impl Silent {
        fn limited(&self, calls_max: usize) -> Limited<impl TestService + use<>> {
            let Self { begun, left } = self.clone();
            let inner = tower::service_fn(move |_: Request<()>| {
                let (begun, left) = (begun.clone(), left.clone());
                async move {
                    begun.fetch_add(1, Ordering::SeqCst);
                    *left.lock().unwrap() = remaining();
                    std::future::pending::<Result<Response<()>, std::convert::Infallible>>().await
                }
            });
            LimitLayer::new("test", Limits { calls_max, polls_max: 1 }).layer(inner)
        }
    }

    trait TestService:
        Service<
            Request<()>,
            Response = Response<()>,
            Error = std::convert::Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + 'static
    {
    }

    impl<S> TestService for S where
        S: Service<
                Request<()>,
                Response = Response<()>,
                Error = std::convert::Infallible,
                Future: Send + 'static,
            > + Clone
            + Send
            + 'static
    {
    }

    fn request(path: &str, tenant: &str, timeout: &str) -> Request<()> {
        let mut request = Request::builder().uri(path).header(TIMEOUT_HEADER, timeout).body(()).unwrap();
        request.extensions_mut().insert(Principal::system("test", tenant));
        request
    }

    async fn code(service: &Limited<impl TestService>, request: Request<()>) -> (Code, String) {
        let Ok(answer) = service.clone().oneshot(request).await;
        let status = Status::from_header_map(answer.headers()).unwrap();
        (status.code(), phasegate_rpc_error::reason_of(&status).unwrap_or_default())
    }

    #[tokio::test]
    async fn one_tenant_does_not_take_all_places() {
        let silent = Silent::default();
        let service = silent.limited(8);
        let flood: Vec<_> =
            (0..100).map(|_| tokio::spawn(service.clone().oneshot(request(GET, "flood", "60S")))).collect();
        let mut shed = 0;
        while shed + silent.begun.load(Ordering::SeqCst) < 100 {
            tokio::task::yield_now().await;
            shed = flood.iter().filter(|call| call.is_finished()).count();
        }
        assert_eq!(silent.begun.load(Ordering::SeqCst), 6);
        // Begun, and given up by its own deadline only; and there is room for what goes on elsewhere.
        let late = (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned());
        assert_eq!(code(&service, request(GET, "other", "20m")).await, late);
        assert_eq!(code(&service, request(PIN, "flood", "20m")).await, late);
        assert_eq!(code(&service, request(WATCH, "flood", "20m")).await, late);
        let shed = (Code::Unavailable, "OVERLOADED".to_owned());
        assert_eq!(code(&service, request(GET, "flood", "60S")).await, shed);
        assert_eq!(silent.begun.load(Ordering::SeqCst), 9);
        for call in flood {
            call.abort();
        }
    }

    #[tokio::test]
    async fn what_is_too_late_is_not_begun() {
        let silent = Silent::default();
        let service = silent.limited(8);
        assert_eq!(code(&service, request(GET, "a", "0n")).await.0, Code::DeadlineExceeded);
        assert_eq!(silent.begun.load(Ordering::SeqCst), 0);
        assert_eq!(code(&service, request(GET, "a", "30m")).await.0, Code::DeadlineExceeded);
        assert!(silent.left.lock().unwrap().is_some_and(|left| left <= Duration::from_millis(30)));
        // Whoever gives no deadline, or a long one, has as long as the kind of call may take.
        for timeout in ["", "1H"] {
            let call = tokio::spawn(service.clone().oneshot(request(GET, "a", timeout)));
            let before = silent.begun.load(Ordering::SeqCst);
            while silent.begun.load(Ordering::SeqCst) == before {
                tokio::task::yield_now().await;
            }
            let left = silent.left.lock().unwrap().unwrap();
            assert!(left <= UNARY_TIME_MAX && left > UNARY_TIME_MAX / 2, "{left:?}");
            call.abort();
        }
    }
}

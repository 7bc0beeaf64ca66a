//! No call is looked at before its principal has been verified and found to have the scope that the method needs. What it
//! does then reaches the rows of that principal's tenant, and so does what streams its answer.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use phasegate_database::Reach;
use phasegate_principal::{Forbidden, HEADER, Need, Principal, Refused, Scope, Verifier, is_internal};
use tower::{Layer, Service};

/// Probes ask for health without a principal; it says nothing about anybody.
const OPEN_PREFIX: &str = "/grpc.health.v1.Health/";

/// Puts the verified principal of a call into its extensions, or refuses the call.
#[derive(Debug, Clone)]
pub struct VerifyLayer(Verifier);

/// The service that [`VerifyLayer`] makes.
#[derive(Debug, Clone)]
pub struct Verify<S> {
    inner: S,
    verifier: Verifier,
}

impl VerifyLayer {
    /// Believes what `verifier` does.
    pub fn new(verifier: Verifier) -> Self {
        Self(verifier)
    }
}

impl<S> Layer<S> for VerifyLayer {
    type Service = Verify<S>;

    fn layer(&self, inner: S) -> Verify<S> {
        Verify { inner, verifier: self.0.clone() }
    }
}

impl<S, B, R> Service<Request<B>> for Verify<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<Within<R>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let token = request.headers_mut().remove(HEADER);
        let reach = if request.uri().path().starts_with(OPEN_PREFIX) {
            Reach::default()
        } else {
            let token = token.as_ref().and_then(|token| token.to_str().ok());
            match self.verified(token, request.uri().path()) {
                Ok(principal) => {
                    let reach = Reach::of_tenant(&principal.tenant);
                    request.extensions_mut().insert(principal);
                    reach
                }
                Err(refused) => {
                    let answer = refused.into_http::<R>();
                    return Box::pin(std::future::ready(Ok(
                        answer.map(|body| Within::new(body, Reach::default()))
                    )));
                }
            }
        };
        let answer = reach.step(|| self.inner.call(request));
        Box::pin(async move {
            let answer = reach.clone().within(answer).await?;
            Ok(answer.map(|body| Within::new(body, reach)))
        })
    }
}

impl<S> Verify<S> {
    /// The caller of a method, if its token is good for this service and it may call the method.
    fn verified(&self, token: Option<&str>, path: &str) -> Result<Principal, tonic::Status> {
        let verified = token.ok_or(Refused::Missing).and_then(|token| self.verifier.verify(token));
        let principal = verified.map_err(|refused| phasegate_rpc_error::status(&refused))?;
        crate::call::note_caller(&principal);
        authorize(&principal, path).map_err(|missing| phasegate_rpc_error::status(&missing))?;
        Ok(principal)
    }
}

/// The body of an answer that is made while it is sent, within the reach of its caller.
#[derive(Debug)]
pub struct Within<R> {
    body: R,
    reach: Reach,
}

impl<R> Within<R> {
    const fn new(body: R, reach: Reach) -> Self {
        Self { body, reach }
    }
}

impl<R: Default> Default for Within<R> {
    fn default() -> Self {
        Self::new(R::default(), Reach::default())
    }
}

impl<R: Body + Unpin> Body for Within<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let this = &mut *self;
        let body = &mut this.body;
        this.reach.step(|| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Refuses a call that the caller has no scope for. The table of scopes is in the contracts: `phasegate.auth.v1.scope`.
fn authorize(principal: &Principal, path: &str) -> Result<(), Forbidden> {
    match Need::of(path) {
        Some(Need::Known) => Ok(()),
        Some(Need::OneOf(scopes)) => principal.needs_one_of(scopes),
        // What services ask each other. Somebody's own principal, seen on the wire, must not open what nobody may ask
        // for: the address behind a link, or whose a session is.
        None if is_internal(path) => principal.needs_to_be_a_service_of_ours(),
        // A method that says nothing is nobody's but an administrator's.
        None => principal.needs(Scope::Admin),
    }
}

//! No call is looked at before its principal has been verified and found to have the scope that the method needs.

use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use http::{Request, Response};
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
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if request.uri().path().starts_with(OPEN_PREFIX) {
            return Either::Left(self.inner.call(request));
        }
        let token = request.headers_mut().remove(HEADER);
        let verified = token
            .as_ref()
            .and_then(|token| token.to_str().ok())
            .ok_or(Refused::Missing)
            .and_then(|token| self.verifier.verify(token));
        let refused = match &verified {
            Ok(principal) => match authorize(principal, request.uri().path()) {
                Ok(()) => None,
                Err(missing) => Some(phasegate_rpc_error::status(&missing)),
            },
            Err(refused) => Some(phasegate_rpc_error::status(refused)),
        };
        if let Ok(principal) = verified {
            crate::call::note_caller(&principal);
            request.extensions_mut().insert(principal);
        }
        match refused {
            None => Either::Left(self.inner.call(request)),
            Some(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

/// Refuses a call that the caller has no scope for. The table of scopes is in the contracts: `phasegate.auth.v1.scope`.
fn authorize(principal: &Principal, path: &str) -> Result<(), Forbidden> {
    match Need::of(path) {
        Some(Need::Known) => Ok(()),
        Some(Need::OneOf(scopes)) => principal.needs_one_of(scopes),
        // What services ask each other. Somebody's own principal, seen on the wire, must not open what nobody may ask
        // for: the address behind a link, or whose a session is.
        None if is_internal(path) && principal.is_system() => Ok(()),
        // A method that says nothing is nobody's but an administrator's.
        None => principal.needs(Scope::Admin),
    }
}

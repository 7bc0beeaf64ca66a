//! No call is looked at before its principal has been verified.

use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use http::{Request, Response};
use phasegate_principal::{HEADER, Refused, Verifier};
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
        match verified {
            Ok(principal) => {
                request.extensions_mut().insert(principal);
                Either::Left(self.inner.call(request))
            }
            Err(refused) => Either::Right(ready(Ok(phasegate_rpc_error::status(&refused).into_http()))),
        }
    }
}

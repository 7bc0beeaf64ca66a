//! REST, for every public method: the routes, the JSON and the errors all come from the descriptors.

pub(crate) mod answer;
mod body;
mod content;
mod events;
mod query;
mod request;
pub(crate) mod route;

use std::sync::Arc;

use axum::body::Body;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use tokio::time::Instant;

use self::request::Call;
use self::route::{Form, Found, Route, Routes};
use crate::caller::Callers;
use crate::config::Config;
use crate::method::PublicMethod;
use crate::refusal::Refused;
use crate::room::Room;
use crate::stream::Streams;
use crate::upstream::Upstream;

pub(crate) use self::body::drop_rest;
pub(crate) use self::request::query_fields;

/// Metadata of an answer whose effect was there before the call.
const REPEATED: &str = "phasegate-repeated";

/// Answers REST calls.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) routes: Arc<Routes>,
    pub(crate) upstream: Upstream,
    pub(crate) callers: Arc<Callers>,
    pub(crate) config: Config,
    pub(crate) streams: Streams,
    pub(crate) room: Room,
}

impl Rest {
    /// The method that a call is to, for logs: the path itself may hold names.
    pub(crate) fn method(&self, method: &Method, path: &str) -> Option<&Arc<PublicMethod>> {
        match self.routes.find(method, path) {
            Found::Route(route, _) => Some(&route.method),
            Found::OtherMethods(_) | Found::Nothing => None,
        }
    }

    /// Answers a call. Whatever is refused becomes the answer.
    pub(crate) async fn answer(&self, parts: Parts, body: Body) -> Response<Body> {
        let path = parts.uri.path().to_owned();
        let (route, variables) = match self.routes.find(&parts.method, &path) {
            Found::Route(route, variables) => (route, variables),
            Found::OtherMethods(allow) if parts.method == Method::OPTIONS => return options(&allow),
            Found::OtherMethods(allow) => {
                let method = parts.method.to_string();
                return answer::refused(&Refused::WrongMethod { method, path: path.clone(), allow });
            }
            Found::Nothing => {
                return answer::refused(&Refused::NoRoute {
                    method: parts.method.to_string(),
                    path: path.clone(),
                });
            }
        };
        let call = Box::pin(self.call(route, variables, &parts, body));
        let answer = match route.method.time_max {
            Some(time_max) => phasegate_serve::within(Instant::now() + time_max, call).await,
            None => call.await,
        };
        match answer {
            Ok(response) => response,
            Err(refused) => answer::refused(&refused),
        }
    }

    async fn call(
        &self,
        route: &Arc<Route>,
        variables: Vec<&str>,
        parts: &Parts,
        mut body: Body,
    ) -> Result<Response<Body>, Refused> {
        let limits = &self.config.limits;
        let bytes_max = route.method.body_bytes_max;
        // What a stranger sends is not kept.
        let principal = match self.callers.identify(parts).await {
            Ok(principal) => principal,
            Err(refused) => {
                drop_rest(&mut body).await;
                return Err(refused);
            }
        };
        let body = body::read(&parts.headers, body, bytes_max, limits.arrival_time_max).await?;
        phasegate_serve::note_caller(&principal);
        let query = parts.uri.query().unwrap_or_default();
        let message = Call { route, variables, query, headers: &parts.headers, body }.message()?;
        let _place = self.room.enter(&route.method, &principal.tenant)?;
        if route.form == Form::Events {
            let open = self.streams.open(parts, &principal)?;
            return Ok(match self.upstream.stream(&route.method, &principal, message).await {
                Ok(stream) => events::respond(stream, &route.method, open),
                Err(status) => answer::failure(&status),
            });
        }
        let answer = match self.upstream.unary(&route.method, &principal, message).await {
            Ok(answer) => answer,
            Err(status) => return Ok(answer::failure(&status)),
        };
        let repeated = answer.metadata().contains_key(REPEATED);
        match route.form {
            Form::Content => content::respond(answer.get_ref(), &parts.headers),
            Form::Json | Form::Events => answer::success(route, answer.get_ref(), repeated),
        }
    }
}

/// Answers a preflight without a word of permission: no page of another site may call.
fn options(allow: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(allow) = allow.parse() {
        response.headers_mut().insert(http::header::ALLOW, allow);
    }
    response
}

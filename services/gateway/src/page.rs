//! Pages and probes of the gateway itself: the documents, the way in for a developer, health.

use std::time::Duration;

use askama::Template;
use axum::body::Body;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Response, StatusCode};
use phasegate_serve::{Peers, Service};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::document;
use crate::rest::answer;
use crate::rest::route::Routes;

/// How long a service may take to say that it is there.
const PROBE_TIME_MAX: Duration = Duration::from_secs(2);
/// Nothing is loaded, nothing runs.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";

/// What is served besides the calls.
#[derive(Debug)]
pub(crate) struct Pages {
    openapi: String,
    docs: String,
    /// In `dev` only.
    index: Option<String>,
    peers: Peers,
    shutdown: CancellationToken,
}

#[derive(Debug, Template)]
#[template(path = "index.html")]
struct Index<'a> {
    version: &'a str,
    url: &'a str,
}

impl Pages {
    pub(crate) fn new(
        routes: &Routes,
        dev: bool,
        public_url: &str,
        peers: Peers,
        shutdown: CancellationToken,
    ) -> Self {
        let openapi = document::openapi(routes, dev);
        let index = Index { version: env!("CARGO_PKG_VERSION"), url: public_url };
        Self {
            docs: document::page(&openapi),
            openapi: openapi.to_string(),
            index: dev.then(|| index.render().unwrap_or_default()),
            peers,
            shutdown,
        }
    }

    /// Whether a page of the gateway is at a path.
    pub(crate) fn has(&self, path: &str) -> bool {
        match path {
            "/openapi.json" | "/docs" | "/healthz" | "/readyz" => true,
            "/" => self.index.is_some(),
            _ => false,
        }
    }

    /// Answers with the page at a path.
    pub(crate) async fn answer(&self, method: &Method, path: &str) -> Response<Body> {
        if ![Method::GET, Method::HEAD].contains(method) {
            return answer::refused(&crate::refusal::Refused::WrongMethod {
                method: method.to_string(),
                path: path.to_owned(),
                allow: "GET, HEAD".to_owned(),
            });
        }
        match path {
            "/openapi.json" => page(StatusCode::OK, "application/json", self.openapi.clone()),
            "/docs" => page(StatusCode::OK, "text/html; charset=utf-8", self.docs.clone()),
            "/" => page(StatusCode::OK, "text/html; charset=utf-8", self.index.clone().unwrap_or_default()),
            "/readyz" => self.ready().await,
            _ => page(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".to_owned()),
        }
    }

    /// Says whether every service answers, and which does not.
    async fn ready(&self) -> Response<Body> {
        let mut silent = Vec::new();
        if self.shutdown.is_cancelled() {
            silent.push("gateway");
        }
        let probes = Service::ALL.map(|service| async move { (service.name(), self.serves(service).await) });
        let answers = futures::future::join_all(probes).await;
        silent.extend(answers.into_iter().filter(|(_, serves)| !serves).map(|(name, _)| name));
        match silent.as_slice() {
            [] => page(StatusCode::OK, "text/plain; charset=utf-8", "ready\n".to_owned()),
            names => {
                let text = format!("not ready: {}\n", names.join(", "));
                page(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", text)
            }
        }
    }

    async fn serves(&self, service: Service) -> bool {
        let mut client = HealthClient::new(self.peers.channel(service));
        let question = HealthCheckRequest { service: service.name().to_owned() };
        let answer = tokio::time::timeout(PROBE_TIME_MAX, client.check(question)).await;
        matches!(answer, Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving)
    }
}

fn page(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

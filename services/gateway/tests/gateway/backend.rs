//! All six services in one: answers every method with what a test has laid ready, and remembers what it was asked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::{StreamExt as _, stream};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use phasegate_bus::Bus;
use phasegate_clock::SystemClock;
use phasegate_gateway::{Config, Service as Gateway};
use phasegate_principal::{Principal, Signer};
use phasegate_proto_json::{Style, decode, encode, pool};
use phasegate_serve::{Context, Keys, Peers, Service, pipe, serve};
use prost_reflect::MethodDescriptor;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::RoutesBuilder;

/// What a method answers with.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A message, and whether it was there before.
    Message { message: Value, repeated: bool },
    /// Messages in a row.
    Stream(Vec<Value>),
    /// Messages in a row, and then nothing but a broken connection.
    Broken(Vec<Value>),
    /// A status.
    Refusal(Status),
    /// What the transport says of a service that is down.
    Down,
    /// Nothing, for ever.
    Silence,
    /// Messages without end: none, for ever.
    Endless,
    /// Bytes that are no message.
    Nonsense,
}

/// What a method was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) message: Value,
    pub(crate) principal: Principal,
    pub(crate) headers: HeaderMap,
}

#[derive(Debug, Default)]
pub(crate) struct Backend {
    answers: Mutex<BTreeMap<String, Answer>>,
    asked: Mutex<Vec<Asked>>,
}

/// A gateway on a port of its own, in front of a backend.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) backend: Arc<Backend>,
    pub(crate) context: Context,
    pub(crate) http: reqwest::Client,
}

impl Server {
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(Config { dev: true, ..Config::default() }).await
    }

    pub(crate) async fn start_with(config: Config) -> Result<Self> {
        let keys = Keys::derive(&[1; 32]);
        let clock = SystemClock::shared();
        let mut channels = BTreeMap::new();
        let mut listeners = Vec::new();
        for service in Service::ALL {
            let (listener, channel) = pipe();
            channels.insert(service, channel);
            listeners.push((service, listener));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let context = Context {
            peers: Peers::new(channels, Signer::new(&keys.principal, clock.clone())),
            clock,
            bus: Bus::local(),
            keys,
            public_url: format!("http://{address}"),
            limits: phasegate_serve::Limits::default(),
            draining: CancellationToken::new(),
            shutdown: CancellationToken::new(),
        };
        let backend = Arc::new(Backend::default());
        for (service, listener) in listeners {
            let everything = Router::new().fallback(answer).with_state(backend.clone());
            let routes = RoutesBuilder::from(everything).routes();
            let context = context.clone();
            tokio::spawn(async move { serve(service, routes, &context, listener).await });
        }
        let extra = Router::new().route("/dev/boom", axum::routing::get(boom));
        let gateway = Gateway::open(config, context.clone(), extra)?;
        tokio::spawn(gateway.run(listener));
        let http =
            reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self { address, backend, context, http })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Calls over REST and reads the answer.
    pub(crate) async fn call(&self, verb: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let mut request = self.http.request(verb.parse()?, self.url(path));
        if let Some(body) = body {
            request = request.json(body);
        }
        read(request).await
    }

    /// Sends a body as it is.
    pub(crate) async fn send(
        &self,
        verb: &str,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> Result<(u16, Value)> {
        let request =
            self.http.request(verb.parse()?, self.url(path)).header("content-type", "application/json");
        read(request.body(body)).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

pub(crate) async fn read(request: reqwest::RequestBuilder) -> Result<(u16, Value)> {
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    let text = answer.text().await?;
    Ok((status, serde_json::from_str(&text).with_context(|| text.clone())?))
}

/// The reason in an error, and how often it is there: once.
pub(crate) fn reason(error: &Value) -> &str {
    error["error"]["details"][0]["reason"].as_str().unwrap_or("none")
}

impl Backend {
    pub(crate) fn answer(&self, method: &str, message: Value) {
        self.lay(method, Answer::Message { message, repeated: false });
    }

    pub(crate) fn lay(&self, method: &str, answer: Answer) {
        lock(&self.answers).insert(method.to_owned(), answer);
    }

    /// What came in last; forgets all.
    pub(crate) fn last(&self) -> Result<Asked> {
        let mut asked = lock(&self.asked);
        let last = asked.pop().context("nothing was asked")?;
        asked.clear();
        Ok(last)
    }

    pub(crate) fn asked(&self) -> usize {
        lock(&self.asked).len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn boom() -> Response {
    assert!(std::env::args().count() == 0, "a page that falls over");
    Response::new(Body::empty())
}

async fn answer(State(backend): State<Arc<Backend>>, request: Request) -> Response {
    respond(&backend, request).await.unwrap_or_else(|error| {
        let (code, message) = (tonic::Code::Internal, format!("{error:#}"));
        Status::with_details(code, message, Bytes::new()).into_http()
    })
}

async fn respond(backend: &Backend, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let descriptor = method(&path).with_context(|| path.clone())?;
    let framed = body.collect().await?.to_bytes();
    let message = decode(&descriptor.input(), framed.get(5..).context("no message")?, Style::Brief)?;
    let name = descriptor.name().to_owned();
    let principal = parts.extensions.get::<Principal>().context("no principal")?.clone();
    lock(&backend.asked).push(Asked { method: name.clone(), message, principal, headers: parts.headers });
    let laid =
        lock(&backend.answers).get(&name).cloned().with_context(|| format!("nothing laid for {name}"))?;
    let frame = |message: &Value| -> Result<Bytes> {
        let bytes = encode(&descriptor.output(), message)?;
        Ok([&[0][..], &u32::try_from(bytes.len())?.to_be_bytes(), &bytes].concat().into())
    };
    match laid {
        Answer::Message { message, repeated } => {
            let mut response = framed_response(vec![frame(&message)?]);
            if repeated {
                response.headers_mut().insert("phasegate-repeated", "1".parse()?);
            }
            Ok(response)
        }
        Answer::Stream(messages) => {
            Ok(framed_response(messages.iter().map(frame).collect::<Result<Vec<Bytes>>>()?))
        }
        Answer::Broken(messages) => {
            let whole = messages.iter().map(frame).collect::<Result<Vec<Bytes>>>()?;
            let whole = whole.into_iter().map(|message| Ok(Frame::data(message)));
            let broken = Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
            // Not at once, so that what came before is on its way.
            let later = stream::once(async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                broken
            });
            let body = StreamBody::new(stream::iter(whole).chain(later));
            let mut response = framed_response(Vec::new());
            *response.body_mut() = Body::new(body);
            Ok(response)
        }
        Answer::Refusal(status) => Ok(status.into_http()),
        Answer::Down => {
            let (code, message) = (tonic::Code::Unavailable, "gone");
            Ok(Status::with_details(code, message, Bytes::new()).into_http())
        }
        Answer::Silence => {
            tokio::time::sleep(Duration::from_hours(1)).await;
            Ok(Response::new(Body::empty()))
        }
        Answer::Endless => {
            let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
            let mut response = framed_response(Vec::new());
            *response.body_mut() = Body::new(body);
            Ok(response)
        }
        Answer::Nonsense => Ok(framed_response(vec![Bytes::from_static(&[0, 0, 0, 0, 2, 0xff, 0xff])])),
    }
}

fn framed_response(frames: Vec<Bytes>) -> Response {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frames = frames.into_iter().map(Frame::data).chain([Frame::trailers(trailers)]);
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    response
}

fn method(path: &str) -> Option<MethodDescriptor> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    pool().get_service_by_name(service)?.methods().find(|descriptor| descriptor.name() == method)
}

//! Calls to the services behind the gateway, without knowing their messages.

use std::time::Duration;

use axum::body::Bytes;
use phasegate_principal::Principal;
use phasegate_serve::{Channel, MESSAGE_BYTES_MAX, Peers, Raw, Service};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use tower::ServiceExt;

use crate::affinity;
use crate::foreign;
use crate::method::{Home, PublicMethod};
use crate::refusal::Refused;

/// The services behind the gateway, and the one that it serves itself.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    peers: Peers,
    local: Routes,
    shutdown: CancellationToken,
}

impl Upstream {
    /// What waits for work by itself is given up with `shutdown`.
    pub(crate) fn new(peers: Peers, local: Routes, shutdown: CancellationToken) -> Self {
        Self { peers, local, shutdown }
    }

    /// Calls a method with one answer.
    pub(crate) async fn unary(
        &self,
        method: &PublicMethod,
        principal: &Principal,
        message: Vec<u8>,
    ) -> Result<Response<Bytes>, Status> {
        // What is left since the call arrived.
        let left = phasegate_serve::remaining().or(method.time_max);
        if left.is_some_and(|left| left.is_zero()) {
            return Err(phasegate_rpc_error::status(&Refused::Deadline));
        }
        let time_max = left.unwrap_or(Duration::MAX);
        let instance = instance_in(method, &message);
        let mut request = self.request(method, principal, message);
        if let Some(limit) = left {
            request.set_timeout(limit);
        }
        let path = method.path.clone();
        let call = async {
            match method.home {
                Home::Peer(service) => {
                    let mut client = client(self.channel(service, instance.as_deref()));
                    ready(&mut client).await?;
                    client.unary(request, path, Raw).await
                }
                Home::Gateway => client(self.local.clone()).unary(request, path, Raw).await,
            }
        };
        let call = self.unless_idle(method, Box::pin(call));
        let answer = tokio::time::timeout(time_max, call).await;
        let answer = answer.unwrap_or_else(|_| Err(phasegate_rpc_error::status(&Refused::Deadline)));
        answer.map_err(|status| foreign::translate(status, method))
    }

    /// Calls a method with a stream of answers.
    pub(crate) async fn stream(
        &self,
        method: &PublicMethod,
        principal: &Principal,
        message: Vec<u8>,
    ) -> Result<Streaming<Bytes>, Status> {
        let instance = instance_in(method, &message);
        let request = self.request(method, principal, message);
        let path = method.path.clone();
        let answer = match method.home {
            Home::Peer(service) => {
                let mut client = client(self.channel(service, instance.as_deref()));
                match ready(&mut client).await {
                    Ok(()) => client.server_streaming(request, path, Raw).await,
                    Err(status) => Err(status),
                }
            }
            Home::Gateway => client(self.local.clone()).server_streaming(request, path, Raw).await,
        };
        answer.map(Response::into_inner).map_err(|status| foreign::translate(status, method))
    }

    /// Passes a gRPC call on as it is.
    pub(crate) async fn forward(
        &self,
        method: &PublicMethod,
        principal: &Principal,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Status> {
        let answer = match method.home {
            Home::Peer(service) => {
                let mut metadata = tonic::metadata::MetadataMap::new();
                self.peers.sign(service, principal, &mut metadata);
                request.headers_mut().extend(metadata.into_headers());
                let (request, instance) = match method.instance_field {
                    Some(field) => {
                        let (parts, body) = request.into_parts();
                        let (instance, body) = affinity::peeked(field, body).await;
                        (http::Request::from_parts(parts, body), instance)
                    }
                    None => (request, None),
                };
                let answer = self.channel(service, instance.as_deref()).oneshot(request);
                let answer = async { answer.await.map_err(Status::from_error) };
                self.unless_idle(method, answer).await
            }
            Home::Gateway => {
                request.extensions_mut().insert(principal.clone());
                self.local(request).await
            }
        };
        answer.map_err(|status| foreign::translate(status, method))
    }

    /// Waits for an answer. A poll, which may wait for a minute for nothing, does not keep a gateway from stopping: its
    /// worker goes on at another one, and the engine takes back what it hands out to nobody.
    async fn unless_idle<T>(
        &self,
        method: &PublicMethod,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        if !method.waits {
            return answer.await;
        }
        tokio::select! {
            biased;
            answer = answer => answer,
            () = self.shutdown.cancelled() => Err(phasegate_rpc_error::status(&Refused::Draining)),
        }
    }

    /// Answers a call to what the gateway serves itself.
    pub(crate) async fn local(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        match self.local.clone().oneshot(request).await {
            Ok(answer) => Ok(answer),
            Err(never) => match never {},
        }
    }

    /// The copy of a service that a call goes to: of its instance, or the one whose turn it is.
    fn channel(&self, service: Service, instance: Option<&str>) -> Channel {
        match instance {
            Some(instance) => self.peers.channel_of(service, instance),
            None => self.peers.channel(service),
        }
    }

    fn request(&self, method: &PublicMethod, principal: &Principal, message: Vec<u8>) -> Request<Bytes> {
        let mut request = Request::new(Bytes::from(message));
        match method.home {
            Home::Peer(service) => self.peers.sign(service, principal, request.metadata_mut()),
            Home::Gateway => {
                request.extensions_mut().insert(principal.clone());
            }
        }
        request
    }
}

fn instance_in(method: &PublicMethod, message: &[u8]) -> Option<String> {
    method.instance_field.and_then(|field| affinity::instance_in(field, message))
}

fn client<T>(service: T) -> Grpc<T>
where
    T: GrpcService<Body>,
{
    Grpc::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

async fn ready<T>(client: &mut Grpc<T>) -> Result<(), Status>
where
    T: GrpcService<Body>,
    T::Error: Into<tonic::codegen::StdError>,
{
    client.ready().await.map_err(|error| Status::from_error(error.into()))
}

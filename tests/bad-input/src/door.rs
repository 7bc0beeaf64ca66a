//! The two doors: one message, sent over gRPC and over REST by what the contracts say, and the refusal as each tells it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use phasegate_proto_json::{Style, decode, encode, pool};
use phasegate_serve::Raw;
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, MapKey, MethodDescriptor, ReflectMessage as _, Value as Reflected};
use reqwest::header::HeaderMap;
use serde_json::{Map, Value};
use tokio::net::TcpStream;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

/// No call here takes longer, or it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Both doors of a running server.
#[derive(Debug)]
pub struct Doors {
    /// Base of every URL.
    pub address: String,
    /// Follows no redirect.
    pub http: reqwest::Client,
    /// To the same port.
    pub channel: Channel,
}

/// How a call was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// gRPC code, as the protocol spells it.
    pub code: String,
    /// Of `google.rpc.ErrorInfo`.
    pub reason: String,
    /// Of `google.rpc.ErrorInfo`.
    pub domain: String,
    /// Of `google.rpc.ErrorInfo`.
    pub metadata: BTreeMap<String, String>,
    /// For people.
    pub message: String,
    /// Of `google.rpc.BadRequest`: field and code.
    pub violations: Vec<(String, String)>,
    /// Of `google.rpc.PreconditionFailure`: type and subject.
    pub blockers: Vec<(String, String)>,
    /// Of `google.rpc.RetryInfo`.
    pub retries: bool,
}

/// An answer of REST.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body; null where it is not JSON.
    pub body: Value,
}

/// A REST call, ready to be sent.
#[derive(Debug, Clone)]
pub struct RestCall {
    /// HTTP method.
    pub verb: String,
    /// With the query.
    pub path: String,
    /// JSON, where there is a body.
    pub body: Option<Value>,
}

impl Doors {
    /// Both doors of the server at an address such as `http://127.0.0.1:7460`.
    pub fn new(address: String) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(PATIENCE);
        let channel = Channel::from_shared(address.clone())?.connect_lazy();
        Ok(Self { address, http: http.build()?, channel })
    }

    /// Sends a message over gRPC. A method with a stream of answers gives the first one.
    pub async fn grpc(&self, method: &str, message: &Value) -> anyhow::Result<Result<Value, Status>> {
        let bytes = self::message(method, message)?;
        self.grpc_bytes(&find(method)?, Bytes::from(bytes)).await
    }

    /// Sends bytes over gRPC as the message of a method.
    pub async fn grpc_bytes(
        &self,
        method: &MethodDescriptor,
        bytes: Bytes,
    ) -> anyhow::Result<Result<Value, Status>> {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let mut request = Request::new(bytes);
        request.set_timeout(PATIENCE);
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await?;
        let answer = client.server_streaming(request, path.parse()?, Raw).await;
        let bytes = match answer {
            Ok(answer) => answer.into_inner().message().await,
            Err(status) => Err(status),
        };
        Ok(match bytes {
            Ok(bytes) => Ok(decode(&method.output(), &bytes.context("no answer")?, Style::Full)?),
            Err(status) => Err(status),
        })
    }

    /// Sends bytes over gRPC as the message of a method, packed with gzip.
    pub async fn grpc_packed(&self, method: &MethodDescriptor, bytes: Bytes) -> anyhow::Result<Refusal> {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let mut client = Grpc::new(self.channel.clone()).send_compressed(CompressionEncoding::Gzip);
        client.ready().await?;
        match client.unary(Request::new(bytes), path.parse()?, Raw).await {
            Ok(_) => bail!("it was not refused"),
            Err(status) => Ok(Refusal::of_status(&status)),
        }
    }

    /// Sends any frame over gRPC on a connection of its own, with any headers, and reads the refusal from the headers of the
    /// answer. Nobody on this side looks at either.
    pub async fn grpc_frame(
        &self,
        path: &str,
        frame: Vec<u8>,
        headers: &[(&'static str, &str)],
    ) -> anyhow::Result<Refusal> {
        let host = self.address.trim_start_matches("http://");
        let stream = TokioIo::new(TcpStream::connect(host).await?);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
        let connection = tokio::spawn(connection);
        let mut request = http::Request::post(format!("{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = sender.send_request(request.body(Full::new(Bytes::from(frame)))?);
        let answer = tokio::time::timeout(PATIENCE, answer).await??;
        let status = Status::from_header_map(answer.headers()).context("no status among the headers")?;
        connection.abort();
        Ok(Refusal::of_status(&status))
    }

    /// Sends a message over REST, by the first route of its method.
    pub async fn rest(&self, method: &str, message: &Value) -> anyhow::Result<Answer> {
        let call = rest_call(method, message)?;
        let request = self.http.request(call.verb.parse()?, format!("{}{}", self.address, call.path));
        let request = match &call.body {
            Some(body) => request.json(body),
            None => request,
        };
        self.send(request).await
    }

    /// Begins any HTTP request.
    pub fn request(&self, verb: &str, path: &str) -> anyhow::Result<reqwest::RequestBuilder> {
        Ok(self.http.request(verb.parse()?, format!("{}{path}", self.address)))
    }

    /// Sends any HTTP request.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await?;
        Ok(Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or_default() })
    }
}

impl Refusal {
    /// As gRPC tells it.
    pub fn of_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
        let blockers =
            details.precondition_failure().map(|failure| failure.violations.clone()).unwrap_or_default();
        Self {
            code: phasegate_rpc_error::code_name(status.code()).to_owned(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            domain: info.map(|info| info.domain.clone()).unwrap_or_default(),
            metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
            message: status.message().to_owned(),
            violations: violations.into_iter().map(|one| (one.field, one.reason)).collect(),
            blockers: blockers.into_iter().map(|one| (one.r#type, one.subject)).collect(),
            retries: details.retry_info().is_some(),
        }
    }

    /// As REST tells it.
    pub fn of_body(body: &Value) -> anyhow::Result<Self> {
        let error = &body["error"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let detail = |name: &str| {
            let found = error["details"].as_array().into_iter().flatten();
            let mut found = found.filter(|one| {
                one["@type"].as_str() == Some(&format!("type.googleapis.com/google.rpc.{name}"))
            });
            found.next().cloned().unwrap_or_default()
        };
        let pairs = |list: &Value, keys: [&str; 2]| -> Vec<(String, String)> {
            let list = list.as_array().into_iter().flatten();
            list.map(|one| (text(&one[keys[0]]), text(&one[keys[1]]))).collect()
        };
        ensure!(error.is_object(), "not an error: {body}");
        let info = detail("ErrorInfo");
        let metadata = info["metadata"].as_object().into_iter().flatten();
        Ok(Self {
            code: text(&error["status"]),
            reason: text(&info["reason"]),
            domain: text(&info["domain"]),
            metadata: metadata.map(|(key, value)| (key.clone(), text(value))).collect(),
            message: text(&error["message"]),
            violations: pairs(&detail("BadRequest")["fieldViolations"], ["field", "reason"]),
            blockers: pairs(&detail("PreconditionFailure")["violations"], ["type", "subject"]),
            retries: detail("RetryInfo").is_object(),
        })
    }

    /// The violations in a line: the field, and the code where it is not the reason itself.
    pub fn at(&self) -> String {
        let shown = self.violations.iter().map(|(field, code)| {
            if *code == self.reason { field.clone() } else { format!("{field} {code}") }
        });
        shown.collect::<Vec<_>>().join("; ")
    }
}

/// A message as bytes.
pub fn message(method: &str, message: &Value) -> anyhow::Result<Vec<u8>> {
    encode(&find(method)?.input(), message).map_err(|faults| anyhow::anyhow!("{faults:?}"))
}

/// Finds a public method by its name alone; no two have the same.
pub fn find(name: &str) -> anyhow::Result<MethodDescriptor> {
    let public = pool().services().filter(|service| !service.package_name().contains(".internal."));
    let mut found = public.flat_map(|service| service.methods().collect::<Vec<_>>());
    found.find(|method| method.name() == name).with_context(|| format!("there is no method {name}"))
}

/// The bytes of a message in which the enum at a JSON Pointer is a number, of which no word may exist. The message must have
/// a word there.
pub fn with_number(method: &str, message: &Value, pointer: &str, number: i32) -> anyhow::Result<Bytes> {
    let input = find(method)?.input();
    let bytes = encode(&input, message).map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
    let mut message = Reflected::Message(DynamicMessage::decode(input, bytes.as_slice())?);
    let steps: Vec<&str> = pointer.split('/').skip(1).collect();
    *place(&mut message, &steps).with_context(|| format!("{pointer} leads nowhere"))? =
        Reflected::EnumNumber(number);
    Ok(Bytes::from(message.as_message().context("a message")?.encode_to_vec()))
}

fn place<'m>(value: &'m mut Reflected, steps: &[&str]) -> Option<&'m mut Reflected> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    if let Reflected::List(items) = value {
        return place(items.get_mut(step.parse::<usize>().ok()?)?, rest);
    }
    if let Reflected::Map(entries) = value {
        return place(entries.get_mut(&MapKey::String((*step).to_owned()))?, rest);
    }
    let message = value.as_message_mut()?;
    let field = message.descriptor().get_field_by_json_name(step)?;
    place(message.get_field_mut(&field), rest)
}

/// The REST call that says the same as a message, by the first route of its method whose path it can fill.
pub fn rest_call(method: &str, message: &Value) -> anyhow::Result<RestCall> {
    let method = find(method)?;
    let rule = pool().get_extension_by_name("google.api.http").context("the contracts know routes")?;
    let Reflected::Message(rule) = method.options().get_extension(&rule).into_owned() else {
        bail!("{} has no route", method.name())
    };
    let more = rule.get_field_by_name("additional_bindings").map(std::borrow::Cow::into_owned);
    let more = more.as_ref().and_then(Reflected::as_list).unwrap_or_default();
    let mut rules = std::iter::once(&rule).chain(more.iter().filter_map(Reflected::as_message));
    let call = rules.find_map(|rule| by_rule(&method, rule, message));
    call.with_context(|| format!("{message} leaves the path of {} open", method.name()))
}

fn by_rule(method: &MethodDescriptor, rule: &DynamicMessage, message: &Value) -> Option<RestCall> {
    let text = |name: &str| {
        rule.get_field_by_name(name).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let json_name = |name: &str| Some(method.input().get_field_by_name(name)?.json_name().to_owned());
    let verb = ["get", "put", "post", "delete", "patch"].into_iter().find(|verb| !text(verb).is_empty())?;
    let mut fields = message.as_object()?.clone();
    let mut path = String::new();
    for segment in text(verb).split('/').skip(1) {
        path.push('/');
        let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            path.push_str(segment);
            continue;
        };
        let value = plain(&fields.remove(&json_name(name)?).unwrap_or_default());
        if value.is_empty() {
            return None;
        }
        path.push_str(&percent(&value));
    }
    let body = match text("body").as_str() {
        "" => None,
        "*" => Some(Value::Object(std::mem::take(&mut fields))),
        name => Some(fields.remove(&json_name(name)?).unwrap_or(Value::Object(Map::new()))),
    };
    let mut query = Vec::new();
    for (name, value) in fields {
        let values = if let Value::Array(values) = value { values } else { vec![value] };
        query.extend(values.iter().map(|value| format!("{name}={}", percent(&plain(value)))));
    }
    if !query.is_empty() {
        path = format!("{path}?{}", query.join("&"));
    }
    Some(RestCall { verb: verb.to_uppercase(), path, body })
}

/// A value as it stands in an address.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn percent(text: &str) -> String {
    let encoded = text.bytes().map(|byte| {
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if is_plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    });
    encoded.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_becomes_its_rest_call() -> anyhow::Result<()> {
        let call = rest_call("GetProcessDefinition", &json!({"processId": "a b", "version": "1.0.0"}))?;
        assert_eq!((call.verb.as_str(), call.path.as_str()), ("GET", "/api/processes/a%20b?version=1.0.0"));
        assert_eq!(call.body, None);
        let call = rest_call(
            "CreateProcessDefinition",
            &json!({"processDefinition": {"id": "a"}, "requestId": "r"}),
        )?;
        assert_eq!(call.path, "/api/processes?requestId=r");
        assert_eq!(call.body, Some(json!({"id": "a"})));
        let call = rest_call("PauseInstance", &json!({"instanceId": "i", "reason": "r"}))?;
        assert_eq!(
            (call.path.as_str(), call.body),
            ("/api/processes/instances/i/pause", Some(json!({"reason": "r"})))
        );
        assert!(rest_call("GetInstance", &json!({})).is_err());
        Ok(())
    }
}

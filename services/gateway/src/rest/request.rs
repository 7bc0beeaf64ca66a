//! From a REST call to the message of its method: body, path, query and headers become one JSON object, which is then
//! read as the message. Two places that name one thing must agree.

use axum::body::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderName};
use phasegate_proto_json::{Faults, Reason, encode, parse};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Number, Value};

use super::query;
use super::route::{Body, Form, Route};
use crate::refusal::Refused;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Names that are understood besides a field's own: the alias, and the field that it stands for.
const ALIASES: [(&str, &str); 2] = [("processInstanceId", "instanceId"), ("limit", "pageSize")];

/// Messages whose JSON is text.
const TEXT_MESSAGES: [&str; 2] = ["google.protobuf.Timestamp", "google.protobuf.Duration"];

/// A REST call, as far as its message goes.
pub(crate) struct Call<'a> {
    pub(crate) route: &'a Route,
    /// What the variables of the path are, still percent-encoded.
    pub(crate) variables: Vec<&'a str>,
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: Bytes,
}

impl Call<'_> {
    /// Makes the message.
    pub(crate) fn message(&self) -> Result<Vec<u8>, Refused> {
        let input = self.route.method.descriptor.input();
        let mut object = self.body_object(&input)?;
        for (field, text) in self.route.variables.iter().zip(&self.variables) {
            let value = from_text(field, field.json_name(), query::segment(field.json_name(), text)?)?;
            agree(&mut object, field.json_name(), value)?;
        }
        self.add_query(&input, &mut object)?;
        self.add_headers(&input, &mut object)?;
        encode(&input, &Value::Object(object)).map_err(|faults| Refused::Json(self.seen_from_body(faults)))
    }

    fn body_object(&self, input: &MessageDescriptor) -> Result<Map<String, Value>, Refused> {
        check_content_type(self.headers, !self.body.is_empty())?;
        match &self.route.body {
            Body::Absent if self.body.is_empty() => Ok(Map::new()),
            Body::Absent => Err(malformed("this call takes no body")),
            Body::Whole if self.body.is_empty() => Ok(Map::new()),
            Body::Whole => unalias(input, self.parsed_object()?),
            Body::Field(_) if self.body.is_empty() => Err(malformed("the body must not be empty")),
            Body::Field(field) => {
                Ok(Map::from_iter([(field.json_name().to_owned(), Value::Object(self.parsed_object()?))]))
            }
        }
    }

    fn parsed_object(&self) -> Result<Map<String, Value>, Refused> {
        if let Value::Object(object) = parse(&self.body)? {
            return Ok(object);
        }
        Err(Refused::parameter("TYPE_INVALID", "the body", "must be an object"))
    }

    fn add_query(&self, input: &MessageDescriptor, object: &mut Map<String, Value>) -> Result<(), Refused> {
        let mut seen = Vec::new();
        for (name, text) in query::parameters(self.query)? {
            let field = self.query_field(input, &name).ok_or_else(|| self.unknown_parameter(input, &name))?;
            let value = from_text(&field, &name, text)?;
            if field.is_list() {
                let items = object.entry(field.json_name()).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = items {
                    items.push(value);
                }
                continue;
            }
            if seen.contains(&field.number()) {
                return Err(Refused::parameter("DUPLICATE_KEY", &name, "must be given once"));
            }
            seen.push(field.number());
            agree(object, field.json_name(), value)?;
        }
        Ok(())
    }

    fn query_field(&self, input: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
        // What the path says may be said again, as long as it is the same.
        let mut fields = query_fields(self.route).chain(self.route.variables.iter().cloned());
        fields.find(|field| {
            field.json_name() == name || alias(input, name).is_some_and(|target| field.json_name() == target)
        })
    }

    fn unknown_parameter(&self, input: &MessageDescriptor, name: &str) -> Refused {
        let allowed: Vec<String> =
            query_fields(self.route).map(|field| field.json_name().to_owned()).collect();
        let in_body = matches!(self.route.body, Body::Whole) && input.get_field_by_json_name(name).is_some();
        let message = match allowed.as_slice() {
            _ if in_body => "belongs into the body".to_owned(),
            [] => "is unknown; this call takes no parameters".to_owned(),
            _ => format!("is unknown; allowed are {}", allowed.join(", ")),
        };
        Refused::parameter("UNKNOWN_FIELD", name, message)
    }

    fn add_headers(&self, input: &MessageDescriptor, object: &mut Map<String, Value>) -> Result<(), Refused> {
        let text = |name: &HeaderName| match self.headers.get(name).map(|value| value.to_str()) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(Value::String(text.to_owned()))),
            Some(Err(_)) => Err(Refused::parameter("INVALID_TEXT", name.as_str(), "must be visible ASCII")),
        };
        if input.get_field_by_name("request_id").is_some()
            && let Some(key) = text(&IDEMPOTENCY_KEY)?
        {
            agree(object, "requestId", key)?;
        }
        // A browser that comes back asks for the same address: where it has got to is in the header alone.
        if self.route.form == Form::Events
            && let Some(token) = text(&LAST_EVENT_ID)?
        {
            object.insert("resumeToken".to_owned(), token);
        }
        Ok(())
    }

    /// Makes the paths of faults begin at the body, where the body is one field.
    fn seen_from_body(&self, Faults(mut faults): Faults) -> Faults {
        if let Body::Field(field) = &self.route.body {
            let prefix = format!("/{}", field.json_name());
            for fault in &mut faults {
                if let Some(rest) = fault.path.strip_prefix(&prefix)
                    && (rest.is_empty() || rest.starts_with('/'))
                {
                    fault.path = rest.to_owned();
                }
            }
        }
        Faults(faults)
    }
}

/// The fields that a query may name: those that neither the path nor the body brings, and that are text on a line.
pub(crate) fn query_fields(route: &Route) -> impl Iterator<Item = FieldDescriptor> {
    let input = route.method.descriptor.input();
    let fields: Vec<FieldDescriptor> = input.fields().collect();
    fields.into_iter().filter(|field| {
        let in_path = route.variables.iter().any(|variable| variable.number() == field.number());
        let in_body = match &route.body {
            Body::Absent => false,
            Body::Whole => true,
            Body::Field(body) => body.number() == field.number(),
        };
        let kind = field.kind();
        let is_text = kind != Kind::Bytes
            && kind.as_message().is_none_or(|message| TEXT_MESSAGES.contains(&message.full_name()));
        !in_path && !in_body && is_text && !field.is_map()
    })
}

/// The field that an alias stands for in a message, unless the message has a field of that name.
fn alias(input: &MessageDescriptor, name: &str) -> Option<&'static str> {
    if input.get_field_by_json_name(name).is_some() {
        return None;
    }
    let (_, target) = ALIASES.into_iter().find(|(alias, _)| *alias == name)?;
    input.get_field_by_json_name(target).map(|_| target)
}

fn unalias(input: &MessageDescriptor, object: Map<String, Value>) -> Result<Map<String, Value>, Refused> {
    let mut plain = Map::new();
    let (aliased, own): (Vec<_>, Vec<_>) =
        object.into_iter().partition(|(name, _)| alias(input, name).is_some());
    plain.extend(own);
    for (name, value) in aliased {
        agree(&mut plain, alias(input, &name).unwrap_or_default(), value)?;
    }
    Ok(plain)
}

/// Sets a field, or sees to it that it has this value already.
fn agree(object: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), Refused> {
    match object.get(name) {
        // An empty field is one that is not set.
        None | Some(Value::Null) => {}
        Some(Value::String(text)) if text.is_empty() => {}
        Some(before) if *before == value => {}
        Some(_) => return Err(Refused::IdMismatch { field: name.to_owned() }),
    }
    object.insert(name.to_owned(), value);
    Ok(())
}

/// Turns the text of an address into the JSON of a field.
fn from_text(field: &FieldDescriptor, name: &str, text: String) -> Result<Value, Refused> {
    let kind = field.kind();
    if kind == Kind::Bool {
        return match text.as_str() {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(Refused::parameter("TYPE_INVALID", name, "must be true or false")),
        };
    }
    if matches!(kind, Kind::Int32 | Kind::Uint32 | Kind::Sint32 | Kind::Fixed32 | Kind::Sfixed32) {
        let number = text.parse::<i32>().map(|number| Value::Number(Number::from(number)));
        return number
            .map_err(|_| Refused::parameter("INVALID_NUMBER", name, "must be a whole number of 32 bits"));
    }
    Ok(Value::String(text))
}

/// Only JSON is read, and a form is not: a page of another site can send a form without asking first.
fn check_content_type(headers: &HeaderMap, has_body: bool) -> Result<(), Refused> {
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("unreadable"));
    let Some(content_type) = content_type else {
        let refused = Refused::UnsupportedMediaType { content_type: "nothing".to_owned() };
        return if has_body { Err(refused) } else { Ok(()) };
    };
    let mut parts = content_type.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    let is_utf8 = parts.all(|parameter| {
        let charset = parameter.to_lowercase();
        charset.is_empty() || charset == "charset=utf-8" || charset == "charset=\"utf-8\""
    });
    if is_json && is_utf8 {
        return Ok(());
    }
    Err(Refused::UnsupportedMediaType { content_type: content_type.to_owned() })
}

fn malformed(message: &str) -> Refused {
    let fault = phasegate_proto_json::Fault {
        path: String::new(),
        reason: Reason::MalformedJson,
        message: message.to_owned(),
        values: Vec::new(),
    };
    Refused::Json(Faults(vec![fault]))
}

//! JSON Schemas of messages and enums, as our JSON writes them.

use std::collections::BTreeMap;

use phasegate_proto_json::{pool, word};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::comment::Comments;
use crate::method::is_public;

/// How the comment of a field begins that callers only read.
const OUTPUT_ONLY: &str = "Output only.";

/// The schemas that a document needs, each once.
#[derive(Debug)]
pub(crate) struct Schemas<'a> {
    comments: &'a Comments,
    done: BTreeMap<String, Value>,
}

impl<'a> Schemas<'a> {
    pub(crate) fn new(comments: &'a Comments) -> Self {
        Self { comments, done: BTreeMap::from([("Error".to_owned(), error())]) }
    }

    /// Refers to the schema of a message, and sees to it that it is there.
    pub(crate) fn reference(&mut self, message: &MessageDescriptor) -> Value {
        if let Some(known) = well_known(message.full_name()) {
            return known;
        }
        let name = name(message.full_name(), message.package_name());
        if !self.done.contains_key(&name) {
            // Stands in while its fields are read, which may lead back to it.
            self.done.insert(name.clone(), Value::Null);
            let schema = self.message(message);
            self.done.insert(name.clone(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// Gives the schemas away, by name.
    pub(crate) fn finish(self) -> Value {
        Value::Object(self.done.into_iter().collect())
    }

    fn message(&mut self, message: &MessageDescriptor) -> Value {
        let mut properties = Map::new();
        for field in message.fields() {
            let mut schema = field_schema(&field, self);
            let comment = self.comments.of_field(&field);
            if let Some(schema) = schema.as_object_mut() {
                schema.insert("description".to_owned(), json!(comment));
                if comment.starts_with(OUTPUT_ONLY) {
                    schema.insert("readOnly".to_owned(), json!(true));
                }
            }
            properties.insert(field.json_name().to_owned(), schema);
        }
        json!({"type": "object", "description": self.comments.of_message(message), "properties": properties})
    }

    fn enumeration(&mut self, descriptor: &EnumDescriptor) -> Value {
        let name = name(descriptor.full_name(), descriptor.package_name());
        if !self.done.contains_key(&name) {
            let values: Vec<_> = descriptor.values().filter(|value| value.number() != 0).collect();
            let words: Vec<String> = values.iter().map(word).collect();
            let meanings: Vec<String> = values
                .iter()
                .map(|value| format!("- `{}`: {}", word(value), self.comments.of_enum_value(value)))
                .collect();
            let description = format!("{}\n\n{}", self.comments.of_enum(descriptor), meanings.join("\n"));
            self.done
                .insert(name.clone(), json!({"type": "string", "enum": words, "description": description}));
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }
}

/// The schema of a field's value.
pub(crate) fn field_schema(field: &FieldDescriptor, schemas: &mut Schemas<'_>) -> Value {
    let kind = field.kind();
    if field.is_map() {
        let value =
            kind.as_message().map(|entry| kind_schema(&entry.map_entry_value_field().kind(), schemas));
        return json!({"type": "object", "additionalProperties": value});
    }
    let schema = kind_schema(&kind, schemas);
    if field.is_list() { json!({"type": "array", "items": schema}) } else { schema }
}

fn kind_schema(kind: &Kind, schemas: &mut Schemas<'_>) -> Value {
    match kind {
        Kind::Message(message) => schemas.reference(message),
        Kind::Enum(descriptor) => schemas.enumeration(descriptor),
        Kind::String => json!({"type": "string"}),
        Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Double | Kind::Float => json!({"type": "number"}),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Uint32 | Kind::Fixed32 => {
            json!({"type": "integer", "format": "int32"})
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64 => {
            json!({"type": "string", "format": "int64"})
        }
    }
}

fn well_known(name: &str) -> Option<Value> {
    match name {
        "google.protobuf.Timestamp" => Some(json!({"type": "string", "format": "date-time"})),
        "google.protobuf.Duration" => {
            Some(json!({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$", "examples": ["30s"]}))
        }
        "google.protobuf.Struct" => Some(json!({"type": "object", "additionalProperties": true})),
        "google.protobuf.Value" => Some(json!({})),
        "google.protobuf.ListValue" => Some(json!({"type": "array", "items": {}})),
        _ => None,
    }
}

/// The name without its package, unless another public package has the same.
fn name(full_name: &str, package: &str) -> String {
    let short = full_name.strip_prefix(package).unwrap_or(full_name).trim_start_matches('.');
    let is_same = |other: &str, other_package: &str| {
        other != full_name
            && is_public(other_package)
            && other.strip_prefix(other_package) == Some(&format!(".{short}"))
    };
    let in_messages = pool().all_messages().any(|other| is_same(other.full_name(), other.package_name()));
    let in_enums = pool().all_enums().any(|other| is_same(other.full_name(), other.package_name()));
    if in_messages || in_enums { full_name.to_owned() } else { short.to_owned() }
}

fn error() -> Value {
    json!({
        "type": "object",
        "description": "Why a call was refused. A gRPC caller gets the same code, message and details.",
        "required": ["error"],
        "properties": {"error": {
            "type": "object",
            "required": ["code", "status", "message", "details"],
            "properties": {
                "code": {"type": "integer", "description": "HTTP status."},
                "status": {"type": "string", "description": "gRPC code.", "examples": ["NOT_FOUND"]},
                "message": {"type": "string", "description": "For people."},
                "details": {
                    "type": "array",
                    "description": "ErrorInfo first; BadRequest, PreconditionFailure and RetryInfo where they help.",
                    "items": {
                        "type": "object",
                        "required": ["@type"],
                        "properties": {
                            "@type": {"type": "string"},
                            "reason": {"type": "string", "description": "Stable name, in ErrorInfo."},
                            "domain": {"type": "string", "const": "phasegate"},
                            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                            "fieldViolations": {"type": "array", "items": {"type": "object", "properties": {
                                "field": {"type": "string"},
                                "reason": {"type": "string"},
                                "description": {"type": "string"},
                            }}},
                            "violations": {"type": "array", "items": {"type": "object", "properties": {
                                "type": {"type": "string"},
                                "subject": {"type": "string"},
                                "description": {"type": "string"},
                            }}},
                            "retryDelay": {"type": "string", "examples": ["1s"]},
                        },
                    },
                },
            },
        }},
    })
}

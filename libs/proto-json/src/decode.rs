//! From the wire format to JSON, by descriptor.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds of fields and values are the formats' own, which never grow"
)]

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Number, Value};

use crate::{known, words};

/// Nested messages at which a reader stops.
const MESSAGE_DEPTH_MAX: usize = 100;

/// Which unset fields are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Scalars, lists and maps are always there, as zero, "" or empty. Absent are unset messages, optional scalars,
    /// enums and bytes, whose default would be no answer.
    Full,
    /// Only what is set and differs from its default.
    Brief,
}

/// A message that has no JSON.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such message is in `proto/`.
    #[error("the message {0} is unknown")]
    UnknownMessage(String),
    /// The bytes are not the message.
    #[error("the bytes are not the message")]
    Malformed(#[from] DecodeError),
    /// A value that JSON cannot have, or one of another wire type than the field's.
    #[error("the field {0} has a value that JSON cannot have")]
    Field(String),
    /// Nested too deep.
    #[error("the message is nested too deep")]
    TooDeep,
}

/// Reads a message that the descriptor names, as JSON.
pub fn decode(descriptor: &MessageDescriptor, bytes: &[u8], style: Style) -> Result<Value, Error> {
    message(descriptor, bytes, style, 0)
}

/// A value as it stands on the wire.
#[derive(Clone, Copy)]
enum Raw<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
}

/// Reads the fields of one message without interpreting them.
fn scan(mut bytes: &[u8]) -> Result<Vec<(u32, Raw<'_>)>, Error> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let (number, wire_type) = decode_key(&mut bytes)?;
        let raw = match wire_type {
            WireType::Varint => Raw::Varint(decode_varint(&mut bytes)?),
            WireType::SixtyFourBit => Raw::Fixed64(take(&mut bytes)?),
            WireType::ThirtyTwoBit => Raw::Fixed32(take(&mut bytes)?),
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut bytes)?).map_err(|_| Error::TooDeep)?;
                let (value, rest) = bytes.split_at_checked(length).ok_or_else(underflow)?;
                bytes = rest;
                Raw::Bytes(value)
            }
            WireType::StartGroup | WireType::EndGroup => {
                skip_field(wire_type, number, &mut bytes, DecodeContext::default())?;
                continue;
            }
        };
        fields.push((number, raw));
    }
    Ok(fields)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Error> {
    let (value, rest) = bytes.split_first_chunk().ok_or_else(underflow)?;
    *bytes = rest;
    Ok(*value)
}

fn underflow() -> Error {
    Error::Field("length".to_owned())
}

fn message(descriptor: &MessageDescriptor, bytes: &[u8], style: Style, depth: usize) -> Result<Value, Error> {
    if depth > MESSAGE_DEPTH_MAX {
        return Err(Error::TooDeep);
    }
    match descriptor.full_name() {
        "google.protobuf.Timestamp" => {
            let (seconds, nanos) = seconds_and_nanos(bytes)?;
            let text = known::timestamp_to_text(seconds, nanos);
            text.map(Value::String).ok_or_else(|| Error::Field("google.protobuf.Timestamp".to_owned()))
        }
        "google.protobuf.Duration" => {
            let (seconds, nanos) = seconds_and_nanos(bytes)?;
            Ok(Value::String(known::duration_to_text(seconds, nanos)))
        }
        "google.protobuf.Struct" => structure(bytes, depth),
        "google.protobuf.Value" => any_value(bytes, depth),
        "google.protobuf.ListValue" => list_value(bytes, depth),
        _ => fields(descriptor, bytes, style, depth),
    }
}

fn fields(descriptor: &MessageDescriptor, bytes: &[u8], style: Style, depth: usize) -> Result<Value, Error> {
    let mut found: BTreeMap<u32, Vec<Raw<'_>>> = BTreeMap::new();
    for (number, raw) in scan(bytes)? {
        found.entry(number).or_default().push(raw);
    }
    let mut object = Map::new();
    for field in descriptor.fields() {
        let values = found.get(&field.number()).map(Vec::as_slice).unwrap_or_default();
        if let Some(value) = field_value(&field, values, style, depth)? {
            object.insert(field.json_name().to_owned(), value);
        }
    }
    Ok(Value::Object(object))
}

fn field_value(
    field: &FieldDescriptor,
    values: &[Raw<'_>],
    style: Style,
    depth: usize,
) -> Result<Option<Value>, Error> {
    let written = |is_default: bool| style == Style::Full || !is_default;
    if field.is_map() {
        let map = map(field, values, style, depth)?;
        return Ok(written(map.is_empty()).then_some(Value::Object(map)));
    }
    let kind = field.kind();
    if field.is_list() {
        let mut items = Vec::with_capacity(values.len());
        for raw in values {
            list_items(field, &kind, *raw, style, depth, &mut items)?;
        }
        return Ok(written(items.is_empty()).then_some(Value::Array(items)));
    }
    if let Kind::Message(descriptor) = &kind {
        // A message that comes in pieces is the pieces in a row.
        return match values {
            [] => Ok(None),
            [Raw::Bytes(bytes)] => message(descriptor, bytes, style, depth + 1).map(Some),
            pieces => message(descriptor, &joined(field, pieces)?, style, depth + 1).map(Some),
        };
    }
    let value = values.last().map(|raw| scalar(field, &kind, *raw)).transpose()?;
    match value {
        Some(value) if field.supports_presence() || !is_default(&kind, &value) => Ok(Some(value)),
        _ if field.supports_presence() => Ok(None),
        _ => Ok(default(&kind).filter(|_| style == Style::Full)),
    }
}

fn joined(field: &FieldDescriptor, pieces: &[Raw<'_>]) -> Result<Vec<u8>, Error> {
    let mut whole = Vec::new();
    for piece in pieces {
        let Raw::Bytes(bytes) = piece else { return Err(mismatch(field)) };
        whole.extend_from_slice(bytes);
    }
    Ok(whole)
}

fn map(
    field: &FieldDescriptor,
    values: &[Raw<'_>],
    style: Style,
    depth: usize,
) -> Result<Map<String, Value>, Error> {
    let Kind::Message(entry) = field.kind() else { return Err(mismatch(field)) };
    let (key_field, value_field) = (entry.map_entry_key_field(), entry.map_entry_value_field());
    let mut map = Map::new();
    for raw in values {
        let Raw::Bytes(bytes) = *raw else { return Err(mismatch(field)) };
        let (mut keys, mut contents) = (Vec::new(), Vec::new());
        for (number, raw) in scan(bytes)? {
            match number {
                1 => keys.push(raw),
                2 => contents.push(raw),
                _ => {}
            }
        }
        let key = match field_value(&key_field, &keys, Style::Full, depth + 1)? {
            Some(Value::String(key)) => key,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let content = match field_value(&value_field, &contents, Style::Full, depth + 1)? {
            Some(content) => content,
            None => match value_field.kind() {
                Kind::Message(descriptor) => message(&descriptor, &[], style, depth + 2)?,
                _ => Value::String(String::new()),
            },
        };
        map.insert(key, content);
    }
    Ok(map)
}

/// Adds what one occurrence of a repeated field carries: one item, or several packed together.
fn list_items(
    field: &FieldDescriptor,
    kind: &Kind,
    raw: Raw<'_>,
    style: Style,
    depth: usize,
    items: &mut Vec<Value>,
) -> Result<(), Error> {
    match (kind, raw) {
        (Kind::Message(descriptor), Raw::Bytes(bytes)) => {
            items.push(message(descriptor, bytes, style, depth + 1)?);
        }
        (Kind::String | Kind::Bytes, raw) => items.push(scalar(field, kind, raw)?),
        (kind, Raw::Bytes(mut packed)) => {
            while !packed.is_empty() {
                let raw = match kind.wire_type() {
                    WireType::SixtyFourBit => Raw::Fixed64(take(&mut packed)?),
                    WireType::ThirtyTwoBit => Raw::Fixed32(take(&mut packed)?),
                    _ => Raw::Varint(decode_varint(&mut packed)?),
                };
                items.push(scalar(field, kind, raw)?);
            }
        }
        (kind, raw) => items.push(scalar(field, kind, raw)?),
    }
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the wire format has every number in 64 bits, and negative ones as their complement"
)]
fn scalar(field: &FieldDescriptor, kind: &Kind, raw: Raw<'_>) -> Result<Value, Error> {
    let value = match (kind, raw) {
        (Kind::String, Raw::Bytes(bytes)) => {
            Value::String(std::str::from_utf8(bytes).map_err(|_| mismatch(field))?.to_owned())
        }
        (Kind::Bytes, Raw::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        (Kind::Bool, Raw::Varint(value)) => Value::Bool(value != 0),
        (Kind::Enum(descriptor), Raw::Varint(value)) => match descriptor.get_value(value as i32) {
            Some(known) => Value::String(words::word(&known)),
            // A word that a later version has added.
            None => Value::Number((value as i32).into()),
        },
        (Kind::Int32, Raw::Varint(value)) => Value::Number((value as i32).into()),
        (Kind::Uint32, Raw::Varint(value)) => Value::Number((value as u32).into()),
        (Kind::Sint32, Raw::Varint(value)) => Value::Number((unzigzag(value) as i32).into()),
        (Kind::Int64, Raw::Varint(value)) => Value::String((value as i64).to_string()),
        (Kind::Uint64, Raw::Varint(value)) => Value::String(value.to_string()),
        (Kind::Sint64, Raw::Varint(value)) => Value::String(unzigzag(value).to_string()),
        (Kind::Fixed32, Raw::Fixed32(bytes)) => Value::Number(u32::from_le_bytes(bytes).into()),
        (Kind::Sfixed32, Raw::Fixed32(bytes)) => Value::Number(i32::from_le_bytes(bytes).into()),
        (Kind::Float, Raw::Fixed32(bytes)) => double(f32::from_le_bytes(bytes).into()),
        (Kind::Fixed64, Raw::Fixed64(bytes)) => Value::String(u64::from_le_bytes(bytes).to_string()),
        (Kind::Sfixed64, Raw::Fixed64(bytes)) => Value::String(i64::from_le_bytes(bytes).to_string()),
        (Kind::Double, Raw::Fixed64(bytes)) => double(f64::from_le_bytes(bytes)),
        _ => return Err(mismatch(field)),
    };
    Ok(value)
}

#[expect(clippy::cast_possible_wrap, reason = "this is the inverse of the zigzag encoding")]
fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Writes a double as a whole number where it is one: 5000, not 5000.0.
fn double(value: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked beside it")]
    let whole = value as i64;
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
        return Value::Number(whole.into());
    }
    // What JSON cannot have as a number is its name, as in proto JSON.
    Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number)
}

fn is_default(kind: &Kind, value: &Value) -> bool {
    match value {
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => match kind {
            Kind::Enum(descriptor) => words::number(descriptor, text).is_none(),
            Kind::String | Kind::Bytes => text.is_empty(),
            _ => text == "0",
        },
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// The default that stands for an unset field, if that says something.
fn default(kind: &Kind) -> Option<Value> {
    match kind {
        Kind::Enum(_) | Kind::Bytes | Kind::Message(_) => None,
        Kind::String => Some(Value::String(String::new())),
        Kind::Bool => Some(Value::Bool(false)),
        Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64 => {
            Some(Value::String("0".to_owned()))
        }
        Kind::Double
        | Kind::Float
        | Kind::Int32
        | Kind::Uint32
        | Kind::Sint32
        | Kind::Fixed32
        | Kind::Sfixed32 => Some(Value::Number(0.into())),
    }
}

fn mismatch(field: &FieldDescriptor) -> Error {
    Error::Field(field.full_name().to_owned())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the wire format has negative numbers as their complement in 64 bits"
)]
fn seconds_and_nanos(bytes: &[u8]) -> Result<(i64, i32), Error> {
    let (mut seconds, mut nanos) = (0, 0);
    for (number, raw) in scan(bytes)? {
        match (number, raw) {
            (1, Raw::Varint(value)) => seconds = value as i64,
            (2, Raw::Varint(value)) => nanos = value as i32,
            _ => {}
        }
    }
    Ok((seconds, nanos))
}

fn structure(bytes: &[u8], depth: usize) -> Result<Value, Error> {
    let mut object = Map::new();
    for (number, raw) in scan(bytes)? {
        let (1, Raw::Bytes(entry)) = (number, raw) else { continue };
        let (mut key, mut value) = ("", Value::Null);
        for (number, raw) in scan(entry)? {
            match (number, raw) {
                (1, Raw::Bytes(text)) => key = utf8(text)?,
                (2, Raw::Bytes(bytes)) => value = any_value(bytes, depth + 2)?,
                _ => {}
            }
        }
        object.insert(key.to_owned(), value);
    }
    Ok(Value::Object(object))
}

fn list_value(bytes: &[u8], depth: usize) -> Result<Value, Error> {
    let mut array = Vec::new();
    for (number, raw) in scan(bytes)? {
        if let (1, Raw::Bytes(bytes)) = (number, raw) {
            array.push(any_value(bytes, depth + 1)?);
        }
    }
    Ok(Value::Array(array))
}

/// Reads a `google.protobuf.Value`; the last of its alternatives counts.
fn any_value(bytes: &[u8], depth: usize) -> Result<Value, Error> {
    if depth > MESSAGE_DEPTH_MAX {
        return Err(Error::TooDeep);
    }
    let mut value = Value::Null;
    for (number, raw) in scan(bytes)? {
        value = match (number, raw) {
            (2, Raw::Fixed64(bytes)) => double(f64::from_le_bytes(bytes)),
            (3, Raw::Bytes(text)) => Value::String(utf8(text)?.to_owned()),
            (4, Raw::Varint(truth)) => Value::Bool(truth != 0),
            (5, Raw::Bytes(bytes)) => structure(bytes, depth + 1)?,
            (6, Raw::Bytes(bytes)) => list_value(bytes, depth + 1)?,
            _ => Value::Null,
        };
    }
    Ok(value)
}

fn utf8(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|_| Error::Field("google.protobuf.Struct".to_owned()))
}

//! From JSON to the wire format, by descriptor.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds of fields and values are the formats' own, which never grow"
)]

use std::fmt::Write as _;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Number, Value};

use crate::{Fault, Faults, Reason, known, words};

/// Faults that one answer lists.
const FAULTS_MAX: usize = 100;

/// Nested messages and map entries that a document may become. Readers of the wire format stop at 100, and an answer
/// wraps what it carries in a few messages of its own.
const MESSAGE_DEPTH_MAX: usize = 92;

/// Largest whole number that every JSON reader keeps exactly: 2^53 - 1.
const EXACT_MAX: u64 = (1 << 53) - 1;

/// Writes a JSON document as the message that the descriptor names.
pub fn encode(descriptor: &MessageDescriptor, value: &Value) -> Result<Vec<u8>, Faults> {
    let mut encoder = Encoder { faults: Vec::new(), path: Vec::new() };
    let mut out = Vec::new();
    encoder.message(descriptor, value, &mut out, 0);
    if encoder.faults.is_empty() { Ok(out) } else { Err(Faults(encoder.faults)) }
}

/// One step of the path to a value.
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

struct Encoder<'a> {
    faults: Vec<Fault>,
    path: Vec<Step<'a>>,
}

impl<'a> Encoder<'a> {
    fn message(&mut self, descriptor: &MessageDescriptor, value: &'a Value, out: &mut Vec<u8>, depth: usize) {
        if depth > MESSAGE_DEPTH_MAX {
            return self.fault(Reason::JsonTooDeep, "is nested too deep".to_owned());
        }
        match descriptor.full_name() {
            "google.protobuf.Timestamp" => self.timestamp(value, out),
            "google.protobuf.Duration" => self.duration(value, out),
            "google.protobuf.Struct" => match value {
                Value::Object(object) => self.structure(object, out, depth),
                other => self.wrong_type("an object", other),
            },
            "google.protobuf.Value" => self.any_value(value, out, depth),
            "google.protobuf.ListValue" => match value {
                Value::Array(array) => self.list_value(array, out, depth),
                other => self.wrong_type("a list", other),
            },
            _ => match value {
                Value::Object(object) => self.fields(descriptor, object, out, depth),
                other => self.wrong_type("an object", other),
            },
        }
    }

    fn fields(
        &mut self,
        descriptor: &MessageDescriptor,
        object: &'a Map<String, Value>,
        out: &mut Vec<u8>,
        depth: usize,
    ) {
        let mut alternatives = Vec::new();
        for (name, value) in object {
            self.path.push(Step::Key(name));
            match descriptor.get_field_by_json_name(name) {
                None => self.fault(Reason::UnknownField, unknown_field(descriptor, name)),
                Some(field) => {
                    let chosen = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
                    let chosen = chosen.map(|oneof| oneof.full_name().to_owned());
                    if chosen.as_ref().is_some_and(|name| alternatives.contains(name)) {
                        self.fault(Reason::TypeInvalid, "excludes another field that is set, too".to_owned());
                    }
                    alternatives.extend(chosen);
                    self.field(&field, value, out, depth);
                }
            }
            self.path.pop();
        }
    }

    fn field(&mut self, field: &FieldDescriptor, value: &'a Value, out: &mut Vec<u8>, depth: usize) {
        if field.is_map() {
            match value {
                Value::Null => {}
                Value::Object(entries) => self.map(field, entries, out, depth),
                other => self.wrong_type("an object", other),
            }
        } else if field.is_list() {
            match value {
                Value::Null => {}
                Value::Array(items) => {
                    for (index, item) in items.iter().enumerate() {
                        self.path.push(Step::Index(index));
                        self.value(&field.kind(), field.number(), item, out, depth);
                        self.path.pop();
                    }
                }
                other => self.wrong_type("a list", other),
            }
        } else if !value.is_null() || is_json_value(&field.kind()) {
            self.value(&field.kind(), field.number(), value, out, depth);
        }
    }

    fn map(
        &mut self,
        field: &FieldDescriptor,
        entries: &'a Map<String, Value>,
        out: &mut Vec<u8>,
        depth: usize,
    ) {
        let Kind::Message(entry) = field.kind() else { return };
        for (key, value) in entries {
            self.path.push(Step::Key(key));
            let mut bytes = Vec::new();
            self.map_key(&entry.map_entry_key_field().kind(), key, &mut bytes);
            self.value(&entry.map_entry_value_field().kind(), 2, value, &mut bytes, depth + 1);
            put_bytes(field.number(), &bytes, out);
            self.path.pop();
        }
    }

    fn map_key(&mut self, kind: &Kind, key: &str, out: &mut Vec<u8>) {
        match kind {
            Kind::String => put_bytes(1, key.as_bytes(), out),
            Kind::Bool if key == "true" || key == "false" => put_varint(1, u64::from(key == "true"), out),
            _ => match key.parse::<Number>() {
                Ok(number) => self.number(kind, 1, &number, true, out),
                Err(_) => self.fault(Reason::TypeInvalid, "is not a key of this map".to_owned()),
            },
        }
    }

    fn value(&mut self, kind: &Kind, number: u32, value: &'a Value, out: &mut Vec<u8>, depth: usize) {
        match (kind, value) {
            (Kind::Message(message), value) => {
                let mut bytes = Vec::new();
                self.message(message, value, &mut bytes, depth + 1);
                put_bytes(number, &bytes, out);
            }
            (Kind::String, Value::String(text)) => put_bytes(number, text.as_bytes(), out),
            (Kind::String, other) => self.wrong_type("text", other),
            (Kind::Bool, Value::Bool(truth)) => put_varint(number, u64::from(*truth), out),
            (Kind::Bool, other) => self.wrong_type("true or false", other),
            (Kind::Enum(descriptor), Value::String(text)) => self.enum_word(descriptor, number, text, out),
            (Kind::Enum(descriptor), _) => self.wrong_word(descriptor),
            (Kind::Bytes, Value::String(text)) => match base64_engine().decode(plain_base64(text)) {
                Ok(bytes) => put_bytes(number, &bytes, out),
                Err(_) => self.fault(Reason::TypeInvalid, "must be base64".to_owned()),
            },
            (Kind::Bytes, other) => self.wrong_type("base64 text", other),
            (numeric, Value::Number(literal)) => self.number(numeric, number, literal, false, out),
            (
                Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64,
                Value::String(text),
            ) => match text.parse::<Number>() {
                Ok(literal) if !literal.is_f64() => self.number(kind, number, &literal, true, out),
                _ => self.fault(Reason::InvalidNumber, "must be a whole number of 64 bits".to_owned()),
            },
            (_, other) => self.wrong_type("a number", other),
        }
    }

    fn enum_word(&mut self, descriptor: &EnumDescriptor, number: u32, text: &str, out: &mut Vec<u8>) {
        match words::number(descriptor, text).and_then(|value| u64::try_from(value).ok()) {
            Some(value) => put_varint(number, value, out),
            None => self.wrong_word(descriptor),
        }
    }

    /// Writes a number. `exact` says that it came as text, which every reader keeps exactly.
    fn number(&mut self, kind: &Kind, number: u32, literal: &Number, exact: bool, out: &mut Vec<u8>) {
        let Some(whole) = whole(literal) else {
            return match kind {
                Kind::Double => put_double(number, literal, out),
                Kind::Float => put_float(number, literal, out),
                _ => self.fault(Reason::InvalidNumber, "must be a whole number".to_owned()),
            };
        };
        let fits = |low: i128, high: i128| (low..=high).contains(&whole);
        match kind {
            Kind::Double => put_double(number, literal, out),
            Kind::Float => put_float(number, literal, out),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 if !fits(i32::MIN.into(), i32::MAX.into()) => {
                self.fault(Reason::InvalidNumber, format!("must be {} to {}", i32::MIN, i32::MAX));
            }
            Kind::Uint32 | Kind::Fixed32 if !fits(0, u32::MAX.into()) => {
                self.fault(Reason::InvalidNumber, format!("must be 0 to {}", u32::MAX));
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 if !fits(i64::MIN.into(), i64::MAX.into()) => {
                self.fault(Reason::InvalidNumber, format!("must be {} to {}", i64::MIN, i64::MAX));
            }
            Kind::Uint64 | Kind::Fixed64 if !fits(0, u64::MAX.into()) => {
                self.fault(Reason::InvalidNumber, format!("must be 0 to {}", u64::MAX));
            }
            _ if !exact && whole.unsigned_abs() > u128::from(EXACT_MAX) => {
                self.fault(
                    Reason::InvalidNumber,
                    format!("a number beyond {EXACT_MAX} must be written as text"),
                );
            }
            _ => put_whole(kind, number, whole, out),
        }
    }

    fn structure(&mut self, object: &'a Map<String, Value>, out: &mut Vec<u8>, depth: usize) {
        for (key, value) in object {
            self.path.push(Step::Key(key));
            let mut entry = Vec::new();
            put_bytes(1, key.as_bytes(), &mut entry);
            self.nested_value(2, value, &mut entry, depth + 2);
            put_bytes(1, &entry, out);
            self.path.pop();
        }
    }

    fn list_value(&mut self, array: &'a [Value], out: &mut Vec<u8>, depth: usize) {
        for (index, value) in array.iter().enumerate() {
            self.path.push(Step::Index(index));
            self.nested_value(1, value, out, depth + 1);
            self.path.pop();
        }
    }

    fn nested_value(&mut self, number: u32, value: &'a Value, out: &mut Vec<u8>, depth: usize) {
        let mut bytes = Vec::new();
        self.any_value(value, &mut bytes, depth);
        put_bytes(number, &bytes, out);
    }

    /// Writes a `google.protobuf.Value`.
    fn any_value(&mut self, value: &'a Value, out: &mut Vec<u8>, depth: usize) {
        if depth > MESSAGE_DEPTH_MAX {
            return self.fault(Reason::JsonTooDeep, "is nested too deep".to_owned());
        }
        match value {
            Value::Null => put_varint(1, 0, out),
            Value::Number(number) if !is_exact_double(number) => {
                self.fault(Reason::InvalidNumber, "cannot be kept exactly; write it as text".to_owned());
            }
            Value::Number(number) => put_double(2, number, out),
            Value::String(text) => put_bytes(3, text.as_bytes(), out),
            Value::Bool(truth) => put_varint(4, u64::from(*truth), out),
            Value::Object(object) => {
                let mut bytes = Vec::new();
                self.structure(object, &mut bytes, depth + 1);
                put_bytes(5, &bytes, out);
            }
            Value::Array(array) => {
                let mut bytes = Vec::new();
                self.list_value(array, &mut bytes, depth + 1);
                put_bytes(6, &bytes, out);
            }
        }
    }

    fn timestamp(&mut self, value: &Value, out: &mut Vec<u8>) {
        match value.as_str().and_then(known::timestamp_from_text) {
            Some((seconds, nanos)) => put_seconds(seconds, nanos, out),
            None => self.fault(
                Reason::TimestampInvalid,
                "must be a time as in RFC 3339, such as 2026-01-31T09:30:00Z".to_owned(),
            ),
        }
    }

    fn duration(&mut self, value: &Value, out: &mut Vec<u8>) {
        match value.as_str().and_then(known::duration_from_text) {
            Some((seconds, nanos)) => put_seconds(seconds, nanos, out),
            None => self.fault(
                Reason::DurationInvalid,
                "must be seconds with an \"s\", such as 30s or 1.5s".to_owned(),
            ),
        }
    }

    fn wrong_type(&mut self, wanted: &str, found: &Value) {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.fault(Reason::TypeInvalid, format!("must be {wanted}, not {found}"));
    }

    fn wrong_word(&mut self, descriptor: &EnumDescriptor) {
        let allowed = words::words(descriptor).join(", ");
        let message = format!("must be one of {allowed}");
        self.fault_with(Reason::EnumInvalid, message, vec![("allowed", allowed)]);
    }

    fn fault(&mut self, reason: Reason, message: String) {
        self.fault_with(reason, message, Vec::new());
    }

    fn fault_with(&mut self, reason: Reason, message: String, values: Vec<(&'static str, String)>) {
        if self.faults.len() < FAULTS_MAX {
            let path = self.pointer();
            self.faults.push(Fault { path, reason, message, values });
        }
    }

    fn pointer(&self) -> String {
        let mut pointer = String::new();
        for step in &self.path {
            pointer.push('/');
            match step {
                Step::Key(key) => pointer.push_str(&key.replace('~', "~0").replace('/', "~1")),
                // Writing to a String cannot fail.
                Step::Index(index) => _ = write!(pointer, "{index}"),
            }
        }
        pointer
    }
}

fn is_json_value(kind: &Kind) -> bool {
    kind.as_message().is_some_and(|message| message.full_name() == "google.protobuf.Value")
}

fn unknown_field(descriptor: &MessageDescriptor, name: &str) -> String {
    let known: Vec<String> = descriptor.fields().map(|field| field.json_name().to_owned()).collect();
    let plain = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    let close = known.iter().find(|field| plain(field) == plain(name)).or_else(|| {
        let nearest = known.iter().min_by_key(|field| distance(field, name));
        nearest.filter(|field| distance(field, name) <= 2)
    });
    match close {
        Some(close) => format!("is unknown; did you mean {close}?"),
        None if known.is_empty() => "is unknown; no field is allowed here".to_owned(),
        None => format!("is unknown; allowed are {}", known.join(", ")),
    }
}

/// Counts the letters that must be put in, taken out or replaced to come from one name to the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        let mut next = vec![left];
        for (above, candidate) in row.iter().skip(1).zip(&other) {
            let replaced = diagonal + usize::from(letter != *candidate);
            diagonal = *above;
            left = replaced.min(*above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

/// Returns the number as a whole one, if it is: 3, 3.0 and 3e2 are.
fn whole(number: &Number) -> Option<i128> {
    if let Some(value) = number.as_i64() {
        return Some(value.into());
    }
    if let Some(value) = number.as_u64() {
        return Some(value.into());
    }
    let value = number.as_f64()?;
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked beside it")]
    let truncated = value as i128;
    (value.fract() == 0.0 && value.abs() < 1e19).then_some(truncated)
}

/// Whether a double holds the number exactly, as far as its author can have meant it so.
fn is_exact_double(number: &Number) -> bool {
    if number.is_f64() {
        return true;
    }
    #[expect(clippy::cast_possible_truncation, reason = "comes from a number of 64 bits")]
    let back = number.as_f64().map(|value| value as i128);
    back == whole(number)
}

fn put_varint(number: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_double(number: u32, literal: &Number, out: &mut Vec<u8>) {
    encode_key(number, WireType::SixtyFourBit, out);
    out.extend_from_slice(&literal.as_f64().unwrap_or_default().to_le_bytes());
}

#[expect(clippy::cast_possible_truncation, reason = "a float field asks for the nearest float")]
fn put_float(number: u32, literal: &Number, out: &mut Vec<u8>) {
    encode_key(number, WireType::ThirtyTwoBit, out);
    out.extend_from_slice(&(literal.as_f64().unwrap_or_default() as f32).to_le_bytes());
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the caller has checked the range"
)]
fn put_whole(kind: &Kind, number: u32, whole: i128, out: &mut Vec<u8>) {
    let value = whole as i64;
    match kind {
        Kind::Sint32 | Kind::Sint64 => put_varint(number, ((value << 1) ^ (value >> 63)) as u64, out),
        Kind::Fixed32 | Kind::Sfixed32 => {
            encode_key(number, WireType::ThirtyTwoBit, out);
            out.extend_from_slice(&(whole as u32).to_le_bytes());
        }
        Kind::Fixed64 | Kind::Sfixed64 => {
            encode_key(number, WireType::SixtyFourBit, out);
            out.extend_from_slice(&(whole as u64).to_le_bytes());
        }
        _ => put_varint(number, whole as u64, out),
    }
}

/// Writes the two fields that Timestamp and Duration share.
#[expect(clippy::cast_sign_loss, reason = "the wire format has negative numbers as their complement")]
fn put_seconds(seconds: i64, nanos: i32, out: &mut Vec<u8>) {
    put_varint(1, seconds as u64, out);
    put_varint(2, i64::from(nanos) as u64, out);
}

/// Both alphabets are read; this is the one that the other is turned into.
fn plain_base64(text: &str) -> String {
    text.replace('-', "+").replace('_', "/")
}

fn base64_engine() -> GeneralPurpose {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&alphabet::STANDARD, lenient)
}

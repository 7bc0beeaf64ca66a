//! JSON and the messages that carry it.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value as ProtoValue};
use serde_json::{Map, Number, Value};

/// Objects and lists in each other, the outermost included. A message may have 100 messages in each other, or its readers
/// give up; an object in an object takes three of them, and an answer holds it some levels further down.
pub(crate) const LEVELS_MAX: usize = 24;
/// Integers beyond this are not exact as a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// An object of JSON as protobuf carries it.
pub(crate) fn json_to_struct(object: &Map<String, Value>) -> Struct {
    Struct { fields: object.iter().map(|(key, value)| (key.clone(), to_proto(value))).collect() }
}

/// What protobuf carries, as JSON. Protobuf knows only doubles, so a whole number becomes one again.
pub(crate) fn struct_to_json(object: &Struct) -> Map<String, Value> {
    object.fields.iter().map(|(key, value)| (key.clone(), from_proto(value))).collect()
}

/// Anything that has a JSON form and is an object, as an object.
pub(crate) fn json_object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        Value::Null => Map::new(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            Map::from_iter([("value".to_owned(), other)])
        }
    }
}

/// How many objects and lists are in each other, the outermost included.
pub(crate) fn levels(object: &Map<String, Value>) -> usize {
    let mut levels = 1;
    let mut level: Vec<&Value> = object.values().collect();
    loop {
        let mut inner = Vec::new();
        let mut deeper = false;
        for value in level {
            match value {
                Value::Object(object) => inner.extend(object.values()),
                Value::Array(values) => inner.extend(values),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => continue,
            }
            deeper = true;
        }
        if !deeper {
            return levels;
        }
        levels += 1;
        level = inner;
    }
}

fn to_proto(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(0.0)),
        Value::String(value) => Kind::StringValue(value.clone()),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(to_proto).collect() }),
        Value::Object(object) => Kind::StructValue(json_to_struct(object)),
    };
    ProtoValue { kind: Some(kind) }
}

fn from_proto(value: &ProtoValue) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        Some(Kind::NumberValue(value)) => number(*value),
        Some(Kind::StringValue(value)) => Value::String(value.clone()),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(from_proto).collect()),
        Some(Kind::StructValue(object)) => Value::Object(struct_to_json(object)),
    }
}

fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() <= EXACT {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the value was found to be a whole number in range"
        )]
        return Value::Number(Number::from(value as i64));
    }
    // JSON has no infinity.
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use prost::Message as _;
    use prost_types::Struct;

    use super::{LEVELS_MAX, json_object, json_to_struct, levels, struct_to_json};

    #[test]
    fn levels_are_objects_and_lists_in_each_other() {
        for (object, expected) in [
            (json!({}), 1),
            (json!({"a": 1, "b": "x", "c": null}), 1),
            (json!({"a": {}}), 2),
            (json!({"a": []}), 2),
            (json!({"a": 1, "b": [1, {"c": [true]}], "d": {"e": 2}}), 4),
        ] {
            assert_eq!(levels(&json_object(object.clone())), expected, "{object}");
        }
    }

    #[test]
    fn what_is_allowed_can_be_read_with_room_to_spare() {
        // As deep as it gets in an answer: a response, its list, an entry, its details, and a member in them.
        let spare = 8;
        let nested = |levels| (1..levels).fold(json!({}), |inner, _| json!({ "a": inner }));
        let read = |levels| {
            let object = json_to_struct(&json_object(nested(levels)));
            Struct::decode(object.encode_to_vec().as_slice()).is_ok()
        };
        assert!(read(LEVELS_MAX + spare));
        assert!(!read(100 / 3 + 2), "the reader goes on, and the limit may be another one");
    }

    #[test]
    fn json_comes_back_as_it_went() {
        let object = json_object(json!({
            "text": "é", "whole": 500, "negative": -3, "half": 0.5, "yes": true, "none": null,
            "list": [1, [2, {"deep": "x"}]], "empty": {}, "big": 9_007_199_254_740_991_i64,
        }));
        assert_eq!(struct_to_json(&json_to_struct(&object)), object);
    }
}

//! One text for one content: keys sorted, no white space, whole numbers without a fraction. Digests are over this text,
//! so two doors that carry the same definition agree on what it is.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Largest magnitude below which every whole number has a `f64` of its own (2^53).
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The canonical bytes of `value`.
pub fn canonical_json(value: &Value) -> Vec<u8> {
    normal(value).to_string().into_bytes()
}

/// `sha256:` and the hex digest of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

pub(crate) fn normal(value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => value.clone(),
        Value::Number(number) => Value::Number(whole(number)),
        Value::Array(items) => Value::Array(items.iter().map(normal).collect()),
        Value::Object(members) => {
            // The map of serde_json keeps the order of insertion when any crate of the build asks it to.
            let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            let mut object = Map::new();
            for (name, member) in sorted {
                object.insert(name.clone(), normal(member));
            }
            Value::Object(object)
        }
    }
}

/// Protobuf has one kind of number: what was written as 5 comes back as 5.0 through that door.
pub(crate) fn whole(number: &serde_json::Number) -> serde_json::Number {
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < EXACT =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53, so it is exact")]
            serde_json::Number::from(float as i64)
        }
        Some(_) | None => number.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_keys_and_kind_of_number_do_not_matter() {
        let left: Value = serde_json::from_str(r#"{"b": 1.0, "a": [{"y": -0.0, "x": 2.5}]}"#).unwrap();
        let right: Value = serde_json::from_str(r#"{"a":[{"x":2.5,"y":0}],"b":1}"#).unwrap();
        assert_eq!(canonical_json(&left), canonical_json(&right));
        assert_eq!(canonical_json(&left), br#"{"a":[{"x":2.5,"y":0}],"b":1}"#);
    }

    #[test]
    fn a_digest_is_sha256() {
        assert_eq!(digest(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}

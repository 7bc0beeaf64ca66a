//! JSON as one text: RFC 8785. The digest of an artifact is over this text, so that what two callers wrote differently
//! is the same content when it is, and so that anybody can compute it from the JSON alone.
//!
//! Values come from a decoded message, whose nesting the decoder has bounded; recursion here is no deeper.

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use sha2::{Digest, Sha256};

/// A number that JSON has no text for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite;

/// Writes a value.
pub fn value(value: &Value) -> Result<Vec<u8>, NotFinite> {
    let mut out = Vec::new();
    write_value(value, &mut out)?;
    Ok(out)
}

/// Writes an object.
pub fn object(object: &Struct) -> Result<Vec<u8>, NotFinite> {
    let mut out = Vec::new();
    write_object(object, &mut out)?;
    Ok(out)
}

/// Reads what [`value`] wrote.
pub fn parse_value(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(bytes).map(from_json)
}

/// Reads what [`object`] wrote.
pub fn parse_object(bytes: &[u8]) -> Result<Struct, serde_json::Error> {
    let members: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(bytes)?;
    Ok(struct_of(members))
}

/// "sha256:" and hex.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn write_value(value: &Value, out: &mut Vec<u8>) -> Result<(), NotFinite> {
    match &value.kind {
        // A value without a kind stands for nothing that JSON could say but null.
        None | Some(Kind::NullValue(_)) => out.extend_from_slice(b"null"),
        Some(Kind::BoolValue(true)) => out.extend_from_slice(b"true"),
        Some(Kind::BoolValue(false)) => out.extend_from_slice(b"false"),
        Some(Kind::NumberValue(number)) => write_number(*number, out)?,
        Some(Kind::StringValue(text)) => write_text(text, out),
        Some(Kind::StructValue(object)) => write_object(object, out)?,
        Some(Kind::ListValue(list)) => {
            out.push(b'[');
            for (index, item) in list.values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(item, out)?;
            }
            out.push(b']');
        }
    }
    Ok(())
}

fn write_object(object: &Struct, out: &mut Vec<u8>) -> Result<(), NotFinite> {
    let mut members: Vec<(&String, &Value)> = object.fields.iter().collect();
    // RFC 8785 sorts by UTF-16 code units, which differs from the order of characters beyond the basic plane.
    members.sort_by(|(left, _), (right, _)| left.encode_utf16().cmp(right.encode_utf16()));
    out.push(b'{');
    for (index, (name, value)) in members.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(name, out);
        out.push(b':');
        write_value(value, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// Escapes what must be, and nothing else.
fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\0'..='\u{1f}' => out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// As ECMAScript writes a number: the shortest digits that read back as the same one, in one of four layouts.
fn write_number(number: f64, out: &mut Vec<u8>) -> Result<(), NotFinite> {
    if !number.is_finite() {
        return Err(NotFinite);
    }
    if number == 0.0 {
        out.push(b'0');
        return Ok(());
    }
    if number < 0.0 {
        out.push(b'-');
    }
    // "d.ddde-x": the digits, and the power of ten of the first one.
    let scientific = shortest(number.abs());
    let (mantissa, exponent) = scientific.split_once('e').ok_or(NotFinite)?;
    let digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
    let exponent: i32 = exponent.parse().map_err(|_| NotFinite)?;
    // Where the decimal point stands, counted from before the first digit.
    let point = exponent + 1;
    let length = i32::try_from(digits.len()).map_err(|_| NotFinite)?;
    let zeros = |count: i32| std::iter::repeat_n(b'0', usize::try_from(count).unwrap_or(0));
    if length <= point && point <= 21 {
        out.extend_from_slice(&digits);
        out.extend(zeros(point - length));
    } else if (1..=21).contains(&point) {
        let (whole, fraction) = digits.split_at(usize::try_from(point).unwrap_or(0));
        out.extend_from_slice(whole);
        out.push(b'.');
        out.extend_from_slice(fraction);
    } else if (-5..=0).contains(&point) {
        out.extend_from_slice(b"0.");
        out.extend(zeros(-point));
        out.extend_from_slice(&digits);
    } else {
        let (first, rest) = digits.split_at(1);
        out.extend_from_slice(first);
        if !rest.is_empty() {
            out.push(b'.');
            out.extend_from_slice(rest);
        }
        out.extend_from_slice(format!("e{exponent:+}").as_bytes());
    }
    Ok(())
}

/// The shortest digits that read back as the same number; of several, the nearest, and the even one of two that are
/// equally near, which is where Rust and ECMAScript differ.
fn shortest(number: f64) -> String {
    let some = format!("{number:e}");
    let fraction = some.split(['.', 'e']).nth(1).filter(|_| some.contains('.')).map_or(0, str::len);
    let nearest = format!("{number:.fraction$e}");
    if nearest.parse() == Ok(number) { nearest } else { some }
}

fn from_json(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(truth) => Kind::BoolValue(truth),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(0.0)),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(items) => {
            Kind::ListValue(prost_types::ListValue { values: items.into_iter().map(from_json).collect() })
        }
        serde_json::Value::Object(members) => Kind::StructValue(struct_of(members)),
    };
    Value { kind: Some(kind) }
}

fn struct_of(members: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: members.into_iter().map(|(name, value)| (name, from_json(value))).collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(number: f64) -> String {
        let mut out = Vec::new();
        write_number(number, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_written_as_in_appendix_b_of_rfc_8785() {
        for (bits, expected) in [
            (0x0000_0000_0000_0000_u64, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            assert_eq!(number(f64::from_bits(bits)), expected, "{bits:x}");
        }
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(write_number(bad, &mut Vec::new()), Err(NotFinite));
        }
    }

    #[test]
    fn names_sort_by_utf_16_and_texts_are_escaped_as_little_as_may_be() {
        let text = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew","1":"One",
            "\ud83d\ude00":"Emoji","\u0080":"Control","\u00f6":"o","x":"\u0000\u001f\b\t\n\f\r\"\\/\u007f"}"#;
        let canonical = value(&parse_value(text.as_bytes()).unwrap()).unwrap();
        let expected = "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\
            \"x\":\"\\u0000\\u001f\\b\\t\\n\\f\\r\\\"\\\\/\u{7f}\",\"\u{80}\":\"Control\",\"\u{f6}\":\"o\",\
            \"\u{20ac}\":\"Euro Sign\",\"\u{1f600}\":\"Emoji\",\"\u{fb33}\":\"Hebrew\"}";
        assert_eq!(String::from_utf8(canonical).unwrap(), expected);
    }

    #[test]
    fn the_same_content_has_the_same_digest_however_it_was_written() {
        let left = parse_value(br#"{ "b": 1.0, "a": [1e2, null, true] }"#).unwrap();
        let right = parse_value(br#"{"a":[100,null,true],"b":1}"#).unwrap();
        let canonical = value(&left).unwrap();
        assert_eq!(canonical, value(&right).unwrap());
        assert_eq!(canonical, br#"{"a":[100,null,true],"b":1}"#);
        // sha256sum over that text.
        assert_eq!(
            digest(&canonical),
            "sha256:6e0b3122daf3bb0059d517693840327dac626524f748b5605d46da9b5d215cac"
        );
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Kind::NullValue(0)),
            any::<bool>().prop_map(Kind::BoolValue),
            any::<f64>().prop_filter("json", |n| n.is_finite()).prop_map(|n| Kind::NumberValue(n + 0.0)),
            any::<String>().prop_map(Kind::StringValue),
        ]
        .prop_map(|kind| Value { kind: Some(kind) });
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(|values| Value {
                    kind: Some(Kind::ListValue(prost_types::ListValue { values }))
                }),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|fields| Value { kind: Some(Kind::StructValue(Struct { fields })) }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(given in any_value()) {
            let canonical = value(&given).unwrap();
            let read = parse_value(&canonical).unwrap();
            prop_assert_eq!(&value(&read).unwrap(), &canonical);
            prop_assert_eq!(read, given);
        }
    }
}

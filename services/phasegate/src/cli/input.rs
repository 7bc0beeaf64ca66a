//! What a command is given: files, standard input, and pairs on the command line.

use std::io::Read as _;

use phasegate_proto_json::Faults;
use serde_json::{Map, Value};

use super::failure::Failure;
use super::output::Output;

/// Largest input.
const BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Reads a file; "-" is standard input.
pub(super) fn bytes(path: &str) -> Result<Vec<u8>, Failure> {
    let doing = format!("read {}", if path == "-" { "standard input" } else { path });
    let mut bytes = Vec::new();
    let read = if path == "-" {
        std::io::stdin().lock().take(BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::local(&doing, &error))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > BYTES_MAX {
        return Err(Failure::Local(format!("could not {doing}: it is larger than {BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// Reads a JSON file.
pub(super) fn json(path: &str, output: &mut Output) -> Result<Value, Failure> {
    let bytes = bytes(path)?;
    phasegate_proto_json::parse(&bytes).map_err(|faults| faulty(path, &faults, output))
}

/// Reads a message from a JSON file.
pub(super) fn message<M: prost::Message + Default>(
    path: &str,
    name: &str,
    output: &mut Output,
) -> Result<M, Failure> {
    let value = json(path, output)?;
    phasegate_proto_json::from_json(&value, name).map_err(|faults| faulty(path, &faults, output))
}

/// Takes what a JSON Pointer names out of a document.
pub(super) fn take_out(document: &mut Value, pointer: &str) {
    let Some((parent, last)) = pointer.rsplit_once('/') else { return };
    let name = last.replace("~1", "/").replace("~0", "~");
    match document.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.remove(&name);
        }
        // The places of the others must stay what they are.
        Some(Value::Array(items)) => {
            if let Some(item) = name.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                *item = Value::Object(Map::new());
            }
        }
        _ => {}
    }
}

/// Writes every fault of a file.
pub(super) fn faulty(path: &str, faults: &Faults, output: &mut Output) -> Failure {
    for fault in &faults.0 {
        let place = if fault.path.is_empty() { "/" } else { &fault.path };
        output.note(&format!(
            "{path}:{place}  {}  {}",
            fault.reason.as_str(),
            super::output::clean(&fault.message)
        ));
    }
    let count = faults.0.len();
    Failure::Faulty(format!("{path} has {count} fault{}", if count == 1 { "" } else { "s" }))
}

/// Puts a context together: each part is a JSON object, `@file`, or `key=value` where the value is JSON or else text. Later parts
/// win.
pub(super) fn context(parts: &[String], output: &mut Output) -> Result<Map<String, Value>, Failure> {
    let mut context = Map::new();
    for part in parts {
        if let Some(path) = part.strip_prefix('@') {
            context.extend(object(path, json(path, output)?)?);
        } else if part.trim_start().starts_with('{') {
            let value = phasegate_proto_json::parse(part.as_bytes())
                .map_err(|faults| Failure::Usage(format!("--context {part}: {faults}")))?;
            context.extend(object("--context", value)?);
        } else {
            let (key, value) = pair(part).map_err(Failure::Usage)?;
            let value = phasegate_proto_json::parse(value.as_bytes()).unwrap_or(Value::String(value));
            context.insert(key, value);
        }
    }
    Ok(context)
}

fn object(what: &str, value: Value) -> Result<Map<String, Value>, Failure> {
    if let Value::Object(map) = value {
        Ok(map)
    } else {
        Err(Failure::Usage(format!("{what} must be a JSON object")))
    }
}

/// Splits "key=value".
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("{text} is not key=value")),
    }
}

/// Makes a protobuf struct of a JSON object.
pub(super) fn structure(map: Map<String, Value>) -> Result<prost_types::Struct, Failure> {
    phasegate_proto_json::from_json(&Value::Object(map), "google.protobuf.Struct")
        .map_err(|faults| Failure::Usage(faults.to_string()))
}

/// Makes a protobuf value of a JSON value.
pub(super) fn value(value: &Value) -> Result<prost_types::Value, Failure> {
    phasegate_proto_json::from_json(value, "google.protobuf.Value")
        .map_err(|faults| Failure::Usage(faults.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Format;

    #[test]
    fn what_a_pointer_names_is_taken_out() {
        let mut document = serde_json::json!({"a": {"b/c": 1, "d": 2}, "list": [1, {"x": 1, "y": 2}]});
        for pointer in ["/a/b~1c", "/list/1/x", "/list/0", "/nothing/here", "", "/list/9"] {
            take_out(&mut document, pointer);
        }
        assert_eq!(document, serde_json::json!({"a": {"d": 2}, "list": [{}, {"y": 2}]}));
    }

    #[test]
    fn a_context_is_put_together_from_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("context.json");
        std::fs::write(&file, r#"{"idpType": "okta", "userCount": 1}"#).unwrap();
        let mut output = Output::to(Box::new(std::io::sink()), Box::new(std::io::sink()), Format::Table);
        let parts = [
            format!("@{}", file.display()),
            r#"{"userCount": 5000}"#.to_owned(),
            "customerName=Acme Corporation".to_owned(),
            "trial=false".to_owned(),
            "note=a=b".to_owned(),
        ];
        let context = context(&parts, &mut output).unwrap();
        let expected = serde_json::json!({
            "idpType": "okta", "userCount": 5000, "customerName": "Acme Corporation", "trial": false, "note": "a=b",
        });
        assert_eq!(Value::Object(context), expected);
    }

    #[test]
    fn what_is_no_context_is_refused() {
        let mut output = Output::to(Box::new(std::io::sink()), Box::new(std::io::sink()), Format::Table);
        for (part, code) in
            [("nothing", 2), ("=x", 2), ("{\"a\":1,\"a\":2}", 2), ("{", 2), ("@/nowhere/at/all", 1)]
        {
            let failure = context(&[part.to_owned()], &mut output).unwrap_err();
            assert_eq!(failure.exit_code(), code, "{part}: {failure:?}");
        }
    }
}

//! What many tests store.

use crate::world::INSTANCE;
use phasegate_proto::artifact::v1::StoreArtifactRequest;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

pub(crate) fn store(key: &str, content: Value) -> StoreArtifactRequest {
    let metadata =
        Struct { fields: [("phase".to_owned(), text("discovery")), ("score".to_owned(), list(2))].into() };
    StoreArtifactRequest {
        instance_id: INSTANCE.into(),
        key: key.into(),
        r#type: "document".into(),
        content: Some(content),
        metadata: Some(metadata),
        ..Default::default()
    }
}

pub(crate) fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.into())) }
}

pub(crate) fn list(count: u32) -> Value {
    let values = (0..count).map(|n| Value { kind: Some(Kind::NumberValue(f64::from(n) + 0.5)) }).collect();
    Value { kind: Some(Kind::ListValue(ListValue { values })) }
}

pub(crate) fn metadata(status: &tonic::Status, key: &str) -> Option<String> {
    use tonic_types::StatusExt as _;
    status.get_details_error_info().and_then(|info| info.metadata.get(key).cloned())
}

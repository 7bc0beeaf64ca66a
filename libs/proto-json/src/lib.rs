//! The JSON of our REST surface: proto JSON with camelCase names, lower-case enum words and no nulls.
//!
//! It differs from plain proto JSON where people read and write it by hand: an enum is the word after its prefix
//! (`running`, not `INSTANCE_STATUS_RUNNING`), only the camelCase name of a field is known, a whole number in a
//! `Struct` has no decimal point, and what cannot be kept exactly is refused instead of rounded. Every fault of a
//! document is reported at once, each with its JSON Pointer.
//!
//! Both directions work on the wire format itself, by descriptor. A `DynamicMessage` costs some hundred bytes for
//! every node of a `Struct`, which a large artifact would multiply by a million.
//!
//! It never contains routes, HTTP or the rules of any one message.

mod decode;
mod encode;
mod fault;
mod known;
mod parse;
mod words;

use std::sync::OnceLock;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage as _};
use serde_json::Value;

pub use decode::{Error, Style, decode};
pub use encode::encode;
pub use fault::{Fault, Faults, Reason};
pub use parse::{DEPTH_MAX, parse};
pub use words::{word, words};

/// Returns the descriptors of everything in `proto/`, comments and own options included.
///
/// An empty pool stands in for one that cannot be read, which the tests of this crate rule out.
pub fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(phasegate_proto::FILE_DESCRIPTOR_SET).unwrap_or_default())
}

/// Returns the descriptor of a message, such as "phasegate.definition.v1.ProcessDefinition".
pub fn message(full_name: &str) -> Result<MessageDescriptor, Error> {
    pool().get_message_by_name(full_name).ok_or_else(|| Error::UnknownMessage(full_name.to_owned()))
}

/// Writes a message as JSON, with unset scalars and lists as their defaults.
pub fn to_json<M: prost::Message>(message: &M, full_name: &str) -> Result<Value, Error> {
    decode(&self::message(full_name)?, &message.encode_to_vec(), Style::Full)
}

/// Writes a message as JSON, with nothing that is unset or default.
pub fn to_brief_json<M: prost::Message>(message: &M, full_name: &str) -> Result<Value, Error> {
    decode(&self::message(full_name)?, &message.encode_to_vec(), Style::Brief)
}

/// Reads a message from JSON. Every fault is reported, not only the first.
pub fn from_json<M: prost::Message + Default>(value: &Value, full_name: &str) -> Result<M, Faults> {
    let descriptor = message(full_name).map_err(|error| Faults::unreadable(&error))?;
    M::decode(encode(&descriptor, value)?.as_slice()).map_err(|error| Faults::unreadable(&error))
}

/// Writes a message that is known only by its descriptor.
pub fn dynamic_to_json(message: &DynamicMessage) -> Result<Value, Error> {
    decode(&message.descriptor(), &message.encode_to_vec(), Style::Full)
}

/// Reads a message that is known only by its descriptor.
pub fn dynamic_from_json(descriptor: &MessageDescriptor, value: &Value) -> Result<DynamicMessage, Faults> {
    let bytes = encode(descriptor, value)?;
    DynamicMessage::decode(descriptor.clone(), bytes.as_slice()).map_err(|error| Faults::unreadable(&error))
}

#[cfg(test)]
mod tests;

//! Which instance a call is about, so that its calls go to the same copy of the engine, which has it in memory. It is
//! looked for in the bytes of the message, which are not decoded; where it is not found, any copy will do.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::Frame;
use http_body_util::BodyExt as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_reflect::{Kind, MessageDescriptor};
use tonic::Status;
use tonic::body::Body;

/// The field of a request that names an instance.
const FIELD: &str = "instance_id";
/// Before a message on the wire: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The number of the field that names an instance, where there is one.
pub(crate) fn instance_field(request: &MessageDescriptor) -> Option<u32> {
    let field = request.get_field_by_name(FIELD)?;
    (field.kind() == Kind::String && !field.is_list()).then(|| field.number())
}

/// Finds the instance in an encoded message, or in the beginning of one.
pub(crate) fn instance_in(field: u32, mut message: &[u8]) -> Option<String> {
    while message.has_remaining() {
        let (number, kind) = decode_key(&mut message).ok()?;
        let length = match kind {
            WireType::Varint => {
                decode_varint(&mut message).ok()?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut message).ok()?).ok()?,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        let value = message.get(..length)?;
        if number == field && kind == WireType::LengthDelimited {
            return std::str::from_utf8(value).ok().filter(|id| !id.is_empty()).map(str::to_owned);
        }
        message.advance(length);
    }
    None
}

/// Looks into the first piece of a body, and gives back the whole.
pub(crate) async fn peeked(field: u32, mut body: Body) -> (Option<String>, Body) {
    let Some(first) = body.frame().await else { return (None, body) };
    let data = first.as_ref().ok().and_then(|frame| frame.data_ref());
    let is_plain = data.is_some_and(|data| data.first() == Some(&0));
    let message = data.filter(|_| is_plain).and_then(|data| data.get(PREFIX..));
    let instance = message.and_then(|message| instance_in(field, message));
    (instance, Body::new(Again { first: Some(first), rest: body }))
}

/// A body whose first piece was read.
struct Again {
    first: Option<Result<Frame<Bytes>, Status>>,
    rest: Body,
}

impl http_body::Body for Again {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use phasegate_proto::instance::v1::AdvancePhaseRequest;
    use phasegate_proto_json::pool;
    use prost::Message as _;

    use super::*;

    fn field_of(name: &str) -> Option<u32> {
        instance_field(&pool().get_message_by_name(&format!("phasegate.instance.v1.{name}"))?)
    }

    #[test]
    fn the_instance_is_found_wherever_it_stands() {
        let field = field_of("AdvancePhaseRequest").unwrap();
        let request = AdvancePhaseRequest {
            instance_id: "proc-inst-1".to_owned(),
            request_id: "r".repeat(40),
            ..AdvancePhaseRequest::default()
        };
        let bytes = request.encode_to_vec();
        assert_eq!(instance_in(field, &bytes).as_deref(), Some("proc-inst-1"));
        // In front of it something of every kind that can be passed over.
        let before =
            [&[0x78, 0x96, 0x01][..], &[0x79, 1, 2, 3, 4, 5, 6, 7, 8], &[0x7d, 1, 2, 3, 4], &[0x7a, 1, 9]];
        let bytes = [before.concat(), bytes].concat();
        assert_eq!(instance_in(field, &bytes).as_deref(), Some("proc-inst-1"));
    }

    #[test]
    fn nothing_is_found_in_what_holds_none_or_is_cut_off() {
        assert_eq!(field_of("ListInstancesRequest"), None);
        let request = AdvancePhaseRequest { instance_id: "proc-inst-1".to_owned(), ..Default::default() };
        let bytes = request.encode_to_vec();
        let field = field_of("AdvancePhaseRequest").unwrap();
        for length in 0..bytes.len() {
            assert_eq!(instance_in(field, &bytes[..length]), None);
        }
        for broken in [&[0xff; 12][..], &[0x0b], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f], &[0x0a, 1, 0xff]] {
            assert_eq!(instance_in(field, broken), None, "{broken:?}");
        }
    }

    #[tokio::test]
    async fn a_body_that_was_looked_into_is_whole() {
        let request = AdvancePhaseRequest { instance_id: "i".to_owned(), ..Default::default() };
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let bytes = Bytes::from([&[0][..], &length, &message].concat());
        let body = Body::new(http_body_util::Full::new(bytes.clone()));
        let field = field_of("AdvancePhaseRequest").unwrap();
        let (instance, body) = peeked(field, body).await;
        assert_eq!(instance.as_deref(), Some("i"));
        assert_eq!(body.collect().await.unwrap().to_bytes(), bytes);
        let (instance, body) = peeked(field, Body::empty()).await;
        assert_eq!(instance, None);
        assert!(body.collect().await.unwrap().to_bytes().is_empty());
    }
}

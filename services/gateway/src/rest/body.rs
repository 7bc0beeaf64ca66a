//! Reads the body of a call, which may be endless, slow or cut.

use std::time::Duration;

use axum::body::{Body, Bytes};
use bytes::BytesMut;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::BodyExt;

use crate::refusal::Refused;

/// Of a body that is too large, this much more is read and dropped: most clients listen only after they have sent all.
const DROPPED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// For at most this long.
const DROP_TIME_MAX: Duration = Duration::from_secs(2);

/// Reads a REST body of at most `bytes_max`. A compressed one is refused: it could be anything once unpacked.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    bytes_max: usize,
    time_max: Duration,
) -> Result<Bytes, Refused> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let encoding = encoding.to_str().unwrap_or("unreadable");
        return Err(Refused::UnsupportedMediaType { content_type: format!("Content-Encoding: {encoding}") });
    }
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        drop_rest(&mut body).await;
        return Err(Refused::BodyTooLarge { bytes_max });
    }
    let collected = tokio::time::timeout(time_max, collect(&mut body, bytes_max)).await;
    match collected {
        Err(_) => Err(Refused::BodyTooSlow(time_max)),
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            drop_rest(&mut body).await;
            Err(Refused::BodyTooLarge { bytes_max })
        }
    }
}

/// Reads at most so many bytes; nothing if there are more.
async fn collect(body: &mut Body, bytes_max: usize) -> Option<Result<Bytes, Refused>> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Some(Err(Refused::BodyCut)) };
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > bytes_max {
            return None;
        }
        bytes.extend_from_slice(data);
    }
    Some(Ok(bytes.freeze()))
}

pub(crate) async fn drop_rest(body: &mut Body) {
    let dropping = async {
        let mut dropped = 0;
        while let Some(Ok(frame)) = body.frame().await {
            dropped += frame.data_ref().map_or(0, Bytes::len);
            if dropped > DROPPED_BYTES_MAX {
                break;
            }
        }
    };
    // Whether all of it has come does not matter.
    let _ = tokio::time::timeout(DROP_TIME_MAX, dropping).await;
}

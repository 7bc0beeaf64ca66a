//! More than a connection may ask for.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use phasegate_bad_input::{Check, World, on_both};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Kinds of frames.
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// Flag of the last frame of headers.
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], stream.to_be_bytes().as_slice(), payload].concat()
}

/// The headers of a call, without any table: POST, http, a path and the host.
fn headers(host: &str) -> Vec<u8> {
    let path = b"/phasegate.instance.v1.InstanceService/GetInstance";
    let literal = |index: u8, text: &[u8]| {
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        [&[index, length], text].concat()
    };
    [&[0x83, 0x86], literal(4, path).as_slice(), literal(1, host.as_bytes()).as_slice()].concat()
}

/// Sends frames on a connection of its own, and waits until it is closed: the reason, if it can still be read. What the
/// other side has not read when it hangs up may wipe out its last words.
async fn gone_away(world: &World, frames: Vec<u8>) -> anyhow::Result<Option<u32>> {
    let host = world.doors.address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    let (mut reader, mut writer) = stream.into_split();
    // The other side may hang up in the middle of it.
    let writing = tokio::spawn(async move { writer.write_all(&frames).await });
    let found = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let mut head = [0; 9];
            if reader.read_exact(&mut head).await.is_err() {
                return Ok(None);
            }
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if reader.read_exact(&mut payload).await.is_err() {
                return Ok(None);
            }
            if head[3] == GOAWAY {
                let code = payload.get(4..8).and_then(|code| code.try_into().ok()).context("a reason")?;
                return anyhow::Ok(Some(u32::from_be_bytes(code)));
            }
        }
    });
    let found = found.await.context("nobody told it to go away")??;
    writing.abort();
    Ok(found)
}

#[test]
fn resets_without_end_close_the_connection() -> anyhow::Result<()> {
    /// Too much of something.
    const ENHANCE_YOUR_CALM: u32 = 11;
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        let host = world.doors.address.trim_start_matches("http://");
        let mut resets = Vec::new();
        for stream in (1..4000).step_by(2) {
            resets.extend(frame(HEADERS, END_HEADERS, stream, &headers(host)));
            resets.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        }
        let mut endless = frame(HEADERS, 0, 1, &headers(host));
        for _ in 0..2000 {
            // A header of a hundred bytes, again and again.
            let header = [&[0, 1, b'a', 100][..], &[b'b'; 100]].concat();
            endless.extend(frame(CONTINUATION, 0, 1, &header));
        }
        for (what, frames) in [("resets", resets), ("headers that never end", endless)] {
            let outcome = match gone_away(world, frames).await {
                Ok(None | Some(ENHANCE_YOUR_CALM)) => Ok(()),
                other => Err(anyhow::anyhow!("{other:?}")),
            };
            check.note("B015", what, outcome).await?;
            // Others are served as before.
            let other = world.doors.rest("GetCaller", &json!({})).await?;
            ensure!(other.status == 200, "B015: {other:?}");
        }
        check.done()
    })
}

#[test]
fn more_streams_than_allowed_wait() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        // B016: the server takes 256 at a time on one connection; a client that has more in hand waits with the rest.
        let mut check = Check::new(world).await?;
        let message = json!({"instanceId": scene.instance});
        let calls = (0..300).map(async |_| match world.doors.grpc("GetInstance", &message).await? {
            Ok(_) => Ok(()),
            Err(status) => Err(anyhow::anyhow!("{status}")),
        });
        let outcome = try_join_all(calls).await.map(drop);
        check.note("B016", "300 at a time", outcome).await?;
        check.done()
    })
}

//! More than a connection may ask for.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use phasegate_bad_input::{Check, World, alone, on_both};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Kinds of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// Flag of the last frame of a stream.
const END_STREAM: u8 = 1;
/// Flag of the last frame of headers.
const END_HEADERS: u8 = 4;
/// A setting: streams at a time.
const MAX_CONCURRENT_STREAMS: u16 = 3;
/// Why a stream was reset: nothing of it was begun.
const REFUSED_STREAM: u32 = 7;
/// Why a connection was closed: too much of something.
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], stream.to_be_bytes().as_slice(), payload].concat()
}

/// The headers of a call over gRPC, without any table: POST, http, a path, the host and the type of what follows.
fn headers(host: &str) -> Vec<u8> {
    let path = b"/phasegate.instance.v1.InstanceService/GetInstance";
    let literal = |name: &[u8], text: &[u8]| {
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        [name, &[length], text].concat()
    };
    // Numbers of names that everybody knows: four bits hold up to 14, and 31 is 15 and 16 more.
    let content_type = literal(&[0x0f, 16], b"application/grpc");
    let path = literal(&[4], path);
    [&[0x83, 0x86], path.as_slice(), literal(&[1], host.as_bytes()).as_slice(), content_type.as_slice()]
        .concat()
}

/// One frame that came in.
#[derive(Debug)]
struct Incoming {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Incoming {
    /// The number at some place of what it carries.
    fn number(&self, at: usize) -> anyhow::Result<u32> {
        let bytes = self.payload.get(at..at + 4).context("a number")?;
        Ok(u32::from_be_bytes(bytes.try_into()?))
    }

    /// A setting, if it holds that one.
    fn setting(&self, id: u16) -> Option<u32> {
        let found = self.payload.chunks_exact(6).find(|setting| setting[..2] == id.to_be_bytes())?;
        found[2..].try_into().ok().map(u32::from_be_bytes)
    }
}

fn host(world: &World) -> &str {
    world.doors.address.trim_start_matches("http://")
}

async fn connect(world: &World) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(host(world)).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    Ok(stream)
}

/// Reads a frame; nothing if the other side has hung up.
async fn read(reader: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Incoming> {
    let mut head = [0; 9];
    reader.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    reader.read_exact(&mut payload).await.ok()?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some(Incoming { kind: head[3], flags: head[4], stream, payload })
}

/// Sends frames on a connection of its own, and reads until something is found. What the other side has not read when it
/// hangs up may wipe out its last words, which is told as nothing.
async fn told<T>(
    world: &World,
    frames: Vec<u8>,
    mut find: impl FnMut(&Incoming) -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    let (mut reader, mut writer) = connect(world).await?.into_split();
    // The other side may hang up in the middle of it.
    let writing = tokio::spawn(async move { writer.write_all(&frames).await.map(|()| writer) });
    let found = tokio::time::timeout(Duration::from_secs(10), async {
        while let Some(frame) = read(&mut reader).await {
            if let Some(found) = find(&frame)? {
                return anyhow::Ok(Some(found));
            }
        }
        Ok(None)
    });
    let found = found.await.context("nothing was said")??;
    writing.abort();
    Ok(found)
}

/// Why a connection is closed.
fn goodbye(frame: &Incoming) -> anyhow::Result<Option<u32>> {
    if frame.kind == GOAWAY { frame.number(4).map(Some) } else { Ok(None) }
}

#[test]
fn resets_without_end_close_the_connection() -> anyhow::Result<()> {
    alone(async |world| {
        let mut check = Check::new(world).await?;
        let headers = headers(host(world));
        let mut resets = Vec::new();
        for stream in (1..4000).step_by(2) {
            resets.extend(frame(HEADERS, END_HEADERS, stream, &headers));
            resets.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        }
        let mut endless = frame(HEADERS, 0, 1, &headers);
        for _ in 0..2000 {
            // A header of a hundred bytes, again and again.
            let header = [&[0, 1, b'a', 100][..], &[b'b'; 100]].concat();
            endless.extend(frame(CONTINUATION, 0, 1, &header));
        }
        for (what, frames) in [("resets", resets), ("headers that never end", endless)] {
            let outcome = match told(world, frames, goodbye).await {
                Ok(None | Some(ENHANCE_YOUR_CALM)) => Ok(()),
                other => Err(anyhow::anyhow!("{other:?}")),
            };
            check.note("B015", what, outcome).await?;
            served(world).await?;
        }
        // Frames with nothing in them: they cost what they weigh, and the call ends like any other.
        let mut empty = frame(HEADERS, END_HEADERS, 1, &headers);
        for _ in 0..50_000 {
            empty.extend(frame(DATA, 0, 1, &[]));
        }
        empty.extend(frame(DATA, END_STREAM, 1, &[]));
        let ends = |frame: &Incoming| {
            let is_over = frame.stream == 1
                && (frame.kind == RST_STREAM
                    || [DATA, HEADERS].contains(&frame.kind) && frame.flags & END_STREAM != 0);
            Ok((is_over || goodbye(frame)? == Some(ENHANCE_YOUR_CALM)).then_some(()))
        };
        let (outcome, others) =
            tokio::join!(told(world, empty, ends), try_join_all((0..20).map(async |_| served(world).await)));
        others?;
        check.note("B015", "empty frames", outcome.map(drop)).await?;
        served(world).await?;
        check.done()
    })
}

/// Others are served as before.
async fn served(world: &World) -> anyhow::Result<()> {
    let other = world.doors.rest("GetCaller", &json!({})).await?;
    ensure!(other.status == 200, "B015: {other:?}");
    Ok(())
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

#[test]
fn a_stream_beyond_those_allowed_is_refused() -> anyhow::Result<()> {
    alone(async |world| {
        let mut check = Check::new(world).await?;
        let mut stream = connect(world).await?;
        let allowed = loop {
            let frame = read(&mut stream).await.context("no settings")?;
            if frame.kind == SETTINGS && frame.flags == 0 {
                break frame.setting(MAX_CONCURRENT_STREAMS).context("streams without end")?;
            }
        };
        ensure!((1..=1_000).contains(&allowed), "B016: {allowed} streams on one connection");
        stream.write_all(&frame(SETTINGS, 1, 0, &[])).await?;
        // Calls whose message does not come: each holds its stream.
        let headers = headers(host(world));
        for number in 0..=allowed {
            stream.write_all(&frame(HEADERS, END_HEADERS, 2 * number + 1, &headers)).await?;
        }
        let beyond = 2 * allowed + 1;
        let outcome = tokio::time::timeout(Duration::from_secs(5), async {
            while let Some(frame) = read(&mut stream).await {
                ensure!(frame.kind != GOAWAY, "the connection is closed: {frame:?}");
                if frame.kind == RST_STREAM {
                    let reset = (frame.stream, frame.number(0)?);
                    ensure!(
                        reset == (beyond, REFUSED_STREAM),
                        "another stream, or for another reason: {reset:?}"
                    );
                    return Ok(());
                }
            }
            anyhow::bail!("the connection is closed")
        });
        let outcome = outcome.await.unwrap_or_else(|_| Err(anyhow::anyhow!("one more was taken")));
        check.note("B016", "one more", outcome).await?;
        served(world).await?;
        check.done()
    })
}

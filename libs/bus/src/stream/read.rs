//! Reads the streams for one receiver: what is new on a connection of its own, because a read that waits keeps
//! everything else on its connection waiting; and what others took and left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use phasegate_clock::{Clock as _, SystemClock, Timestamp};
use phasegate_proto::internal::event::v1::Event;
use phasegate_telemetry::metrics::Counter;
use prost::Message as _;
use rand::Rng as _;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamAutoClaimReply, StreamId, StreamInfoConsumersReply, StreamReadReply};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::lane::{Entry, Lanes};
use super::{RESPONSE_TIMEOUT, Stream, field, seal};
use crate::{Handler, Receiver};

/// Entries of one stream that are read at once: half of what is held, so that what was left finds room beside what is new.
const BATCH: u32 = 32;
/// How long one read waits for something new. Short, because it is never broken off: its answer would be lost.
const BLOCK: Duration = Duration::from_secs(1);
/// A read that has not answered by then has lost its connection.
const READ_TIMEOUT: Duration = Duration::from_secs(4);
/// What was left is looked for this often in the time after which it is, with half as much jitter.
const CLAIMS: u32 = 3;
/// A consumer that has not been heard of for this long, and holds nothing, is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);
/// From the time to stop until everything is taken or handed back.
const FINISHED_WITHIN: Duration = Duration::from_secs(3);
/// What was put into a stream before this is not read any more: streams are short and kept for long, and a group that is
/// made anew begins at their beginning. Much shorter than receivers know what they have taken; what was not confirmed is
/// sent again, and is new then.
const OLD_AFTER: Duration = Duration::from_hours(7 * 24);
/// Wait after a failure, with as much jitter.
const BACKOFF: Duration = Duration::from_millis(250);

static FORGED: Counter<1> = Counter::new(
    "phasegate_events_forged_total",
    "Events in Redis that no service of this installation has sealed, and that were dropped.",
    ["receiver"],
);

/// Reads for one receiver.
#[derive(Clone)]
pub(super) struct Reader {
    stream: Stream,
    receiver: Receiver,
    /// Of this process, among the copies.
    consumer: String,
    lanes: Lanes,
    shutdown: CancellationToken,
}

/// Which entries to read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// What this consumer was given before and has not acknowledged.
    Own,
    /// What nobody was given.
    New,
}

impl Reader {
    #[expect(clippy::disallowed_methods, reason = "a name among consumers, and no id that anybody keeps")]
    pub(super) fn new(
        stream: Stream,
        receiver: Receiver,
        handler: Arc<dyn Handler>,
        shutdown: CancellationToken,
    ) -> Self {
        let lanes = Lanes::new(stream.clone(), receiver, handler, shutdown.clone());
        Self { stream, receiver, consumer: Uuid::now_v7().to_string(), lanes, shutdown }
    }

    /// Reads until the time to stop, then finishes what is under way and hands back what was not begun.
    pub(super) async fn run(self) {
        let shutdown = self.shutdown.clone();
        let claims = tokio::spawn({
            let (reader, shutdown) = (self.clone(), shutdown.clone());
            async move { reader.claim_on(shutdown).await }
        });
        while !shutdown.is_cancelled() {
            let read = self.read_on(&shutdown).await;
            if let Err(error) = self.stream.noted(read) {
                if error.code() == Some("NOGROUP") {
                    tracing::info!(receiver = self.receiver.name(), "Redis has no such group; making it");
                } else {
                    tracing::debug!(receiver = self.receiver.name(), %error, "the streams cannot be read");
                }
                pause(BACKOFF, &shutdown).await;
            }
        }
        if claims.await.is_err() {
            tracing::error!(
                receiver = self.receiver.name(),
                "the search for what was left ended before its time"
            );
        }
        let finish = async {
            self.lanes.idle().await;
            self.leave().await;
        };
        if tokio::time::timeout(FINISHED_WITHIN, finish).await.is_err() {
            tracing::debug!(
                receiver = self.receiver.name(),
                "Redis was left in a hurry; others claim the rest"
            );
        }
    }

    /// Reads on one connection until it fails.
    async fn read_on(&self, shutdown: &CancellationToken) -> redis::RedisResult<()> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(RESPONSE_TIMEOUT))
            .set_response_timeout(None);
        let mut connection =
            self.stream.0.client.get_multiplexed_async_connection_with_config(&config).await?;
        self.make_groups(&mut connection).await?;
        // The answer of a read that was cut off never came, and what was in it is ours.
        self.read(&mut connection, Which::Own).await?;
        while !shutdown.is_cancelled() {
            self.read(&mut connection, Which::New).await?;
        }
        Ok(())
    }

    async fn make_groups(&self, connection: &mut MultiplexedConnection) -> redis::RedisResult<()> {
        for key in self.stream.keys() {
            let mut command = redis::cmd("XGROUP");
            command.arg("CREATE").arg(key).arg(self.receiver.name()).arg("0").arg("MKSTREAM");
            match answered(command.exec_async(connection)).await {
                Err(error) if error.code() == Some("BUSYGROUP") => {}
                other => other?,
            }
        }
        Ok(())
    }

    async fn read(&self, connection: &mut MultiplexedConnection, which: Which) -> redis::RedisResult<()> {
        let streams = self.stream.0.streams;
        let Some(mut room) = self.lanes.room(streams, BATCH).await else { return Ok(()) };
        let count = room.num_permits() / usize::from(streams);
        let keys = self.stream.keys();
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(self.receiver.name()).arg(&self.consumer).arg("COUNT").arg(count);
        if which == Which::New {
            command.arg("BLOCK").arg(BLOCK.as_millis().to_string());
        }
        command.arg("STREAMS").arg(&keys);
        for _ in &keys {
            command.arg(if which == Which::New { ">" } else { "0" });
        }
        let reply: Option<StreamReadReply> = answered(command.query_async(connection)).await?;
        self.stream.0.outage.passed();
        for found in reply.map(|reply| reply.keys).unwrap_or_default() {
            let stream = keys.iter().position(|key| *key == found.key);
            let Some(stream) = stream.and_then(|stream| u16::try_from(stream).ok()) else { continue };
            self.add_all(stream, found.ids, which == Which::Own, &mut room).await;
        }
        Ok(())
    }

    /// Hands entries on, and is done at once with those that are none of ours.
    async fn add_all(
        &self,
        stream: u16,
        entries: Vec<StreamId>,
        was_left: bool,
        room: &mut OwnedSemaphorePermit,
    ) {
        let done: Vec<String> =
            entries.into_iter().filter_map(|entry| self.add(stream, entry, was_left, room)).collect();
        self.stream.acknowledge(self.receiver, &BTreeMap::from([(stream, done)])).await;
    }

    /// Hands an entry on, or returns the id of one that there is nothing to do for.
    fn add(
        &self,
        stream: u16,
        entry: StreamId,
        was_left: bool,
        room: &mut OwnedSemaphorePermit,
    ) -> Option<String> {
        if self.lanes.holds(stream, &entry.id) {
            return None;
        }
        let receivers: i64 = entry.get(field::RECEIVERS).unwrap_or(0);
        if receivers & self.receiver.bit() == 0 || is_old(&entry.id, SystemClock.now()) {
            return Some(entry.id);
        }
        let sender: Option<String> = entry.get(field::SENDER);
        let bytes: Option<Vec<u8>> = entry.get(field::EVENT);
        let sealed: Option<Vec<u8>> = entry.get(field::SEAL);
        let is_ours = |sender: &str, bytes: &[u8]| {
            seal::is_sealed(&self.stream.0.keys, sender, bytes, sealed.as_deref().unwrap_or_default())
        };
        if let (Some(sender), Some(bytes)) = (&sender, &bytes)
            && !is_ours(sender, bytes)
        {
            FORGED.add(1, [self.receiver.name()]);
            tracing::error!(
                stream,
                entry = entry.id,
                sender,
                "an event was not sealed by a service of this installation and is dropped; who else writes to Redis?"
            );
            return Some(entry.id);
        }
        let read = bytes.and_then(|bytes| Some((Event::decode(bytes.as_slice()).ok()?, bytes)));
        let (Some(sender), Some((event, bytes))) = (sender, read) else {
            // What Redis holds damaged the sender holds whole, and sends again.
            tracing::error!(stream, entry = entry.id, "an entry cannot be read");
            return Some(entry.id);
        };
        if event.payload.is_none() {
            // A later version sends what this one does not know. It is not confirmed, and so it comes again until a copy of
            // that version takes it.
            let event_id = event.event_id;
            tracing::info!(event_id, sender, "an event of an unknown kind is left to a later version");
            return Some(entry.id);
        }
        if self.lanes.holds_event(&event) {
            // It was sent again while it is being worked on: that one will do.
            return Some(entry.id);
        }
        // No more was asked for than there is room for.
        if let Some(room) = room.split(1) {
            let event = Arc::new(event);
            self.lanes.add(Entry { stream, id: entry.id, sender, event, bytes, was_left, _room: room });
        }
        None
    }

    /// Looks for what others took and left, until `shutdown`.
    async fn claim_on(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            pause(self.stream.0.left_after / CLAIMS, &shutdown).await;
            for stream in 0..self.stream.0.streams {
                if shutdown.is_cancelled() {
                    return;
                }
                if let Err(error) = self.claim(stream).await {
                    tracing::debug!(receiver = self.receiver.name(), %error, "nothing can be claimed");
                    break;
                }
            }
        }
    }

    async fn claim(&self, stream: u16) -> redis::RedisResult<()> {
        let mut writer = self.stream.writer().await?;
        let mut start = "0-0".to_owned();
        loop {
            let Some(mut room) = self.lanes.room(1, BATCH).await else { return Ok(()) };
            let mut command = redis::cmd("XAUTOCLAIM");
            command
                .arg(self.stream.key(stream))
                .arg(self.receiver.name())
                .arg(&self.consumer)
                .arg(self.stream.0.left_after.as_millis().to_string())
                .arg(&start)
                .arg("COUNT")
                .arg(room.num_permits());
            let reply: StreamAutoClaimReply = command.query_async(&mut writer).await?;
            self.add_all(stream, reply.claimed, true, &mut room).await;
            if reply.next_stream_id == "0-0" {
                break;
            }
            start = reply.next_stream_id;
        }
        self.forget_consumers(stream).await
    }

    /// Removes consumers that ended without saying so.
    async fn forget_consumers(&self, stream: u16) -> redis::RedisResult<()> {
        let mut writer = self.stream.writer().await?;
        let mut question = redis::cmd("XINFO");
        question.arg("CONSUMERS").arg(self.stream.key(stream)).arg(self.receiver.name());
        let reply: StreamInfoConsumersReply = question.query_async(&mut writer).await?;
        for consumer in reply.consumers {
            let is_gone = u128::try_from(consumer.idle).is_ok_and(|idle| idle > FORGOTTEN_AFTER.as_millis());
            if is_gone && consumer.pending == 0 && consumer.name != self.consumer {
                self.delete_consumer(stream, &consumer.name).await?;
            }
        }
        Ok(())
    }

    /// Says goodbye where nothing is pending; what is pending is claimed by others, and would be lost with the name.
    async fn leave(&self) {
        for stream in 0..self.stream.0.streams {
            if let Err(error) = self.leave_stream(stream).await {
                tracing::debug!(%error, "Redis was left without a word");
                return;
            }
        }
    }

    async fn leave_stream(&self, stream: u16) -> redis::RedisResult<()> {
        let mut writer = self.stream.writer().await?;
        let mut question = redis::cmd("XPENDING");
        question.arg(self.stream.key(stream)).arg(self.receiver.name());
        question.arg("-").arg("+").arg(1).arg(&self.consumer);
        let pending: Vec<redis::Value> = question.query_async(&mut writer).await?;
        if pending.is_empty() {
            self.delete_consumer(stream, &self.consumer).await?;
        }
        Ok(())
    }

    async fn delete_consumer(&self, stream: u16, consumer: &str) -> redis::RedisResult<()> {
        let mut writer = self.stream.writer().await?;
        let mut command = redis::cmd("XGROUP");
        command.arg("DELCONSUMER").arg(self.stream.key(stream)).arg(self.receiver.name()).arg(consumer);
        command.exec_async(&mut writer).await
    }
}

/// Waits for an answer, and not for ever: a connection can be half open.
async fn answered<T>(answer: impl Future<Output = redis::RedisResult<T>>) -> redis::RedisResult<T> {
    match tokio::time::timeout(READ_TIMEOUT, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// Whether an entry was made long ago: its id begins with the milliseconds.
fn is_old(id: &str, now: Timestamp) -> bool {
    let made = id.split_once('-').and_then(|(millis, _)| millis.parse::<i64>().ok());
    made.is_some_and(|millis| {
        now.duration_since(Timestamp::from_micros(millis.saturating_mul(1_000))) > OLD_AFTER
    })
}

async fn pause(length: Duration, shutdown: &CancellationToken) {
    let length = length.mul_f64(rand::rng().random_range(0.75..1.25));
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(length) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_week_old_is_not_read() {
        let now = Timestamp::from_micros(1_700_000_000_000_000);
        let day = 86_400_000;
        for (id, is_old_one) in [
            ("1700000000000-0".to_owned(), false),
            (format!("{}-5", 1_700_000_000_000_i64 - 6 * day), false),
            (format!("{}-5", 1_700_000_000_000_i64 - 8 * day), true),
            (format!("{}-5", 1_700_000_000_000_i64 + 8 * day), false),
            ("no id".to_owned(), false),
        ] {
            assert_eq!(is_old(&id, now), is_old_one, "{id}");
        }
    }
}

//! Reads the streams for one receiver: what is new on a connection of its own, because a read that waits keeps
//! everything else on its connection waiting; and what others took and left.

use std::sync::Arc;
use std::time::Duration;

use phasegate_planted::{self as planted, Bug};
use phasegate_proto::internal::event::v1::Event;
use prost::Message as _;
use rand::Rng as _;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamAutoClaimReply, StreamId, StreamInfoConsumersReply, StreamReadReply};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::lane::{Entry, Lanes};
use super::{RESPONSE_TIMEOUT, Stream, field};
use crate::{Handler, Receiver};

/// Entries of one stream that are read at once: half of what is held, so that what was left finds room beside what is new.
const BATCH: u32 = 32;
/// How long one read waits for something new. Short, because it is never broken off: its answer would be lost.
const BLOCK: Duration = Duration::from_secs(1);
/// A read that has not answered by then has lost its connection.
const READ_TIMEOUT: Duration = Duration::from_secs(4);
/// How often what was left is looked for, with half as much jitter.
const CLAIM_EVERY: Duration = Duration::from_secs(4);
/// Whoever took an entry and has not finished it by then is believed to be gone. It need not be true: effects are once.
const LEFT_AFTER: Duration = Duration::from_secs(12);
/// A consumer that has not been heard of for this long, and holds nothing, is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);
/// Wait after a failure, with as much jitter.
const BACKOFF: Duration = Duration::from_millis(250);

/// Reads for one receiver.
#[derive(Clone)]
pub(super) struct Reader {
    stream: Stream,
    receiver: Receiver,
    /// Of this process, among the copies.
    consumer: String,
    lanes: Lanes,
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
    pub(super) fn new(stream: Stream, receiver: Receiver, handler: Arc<dyn Handler>) -> Self {
        let lanes = Lanes::new(stream.clone(), receiver, handler);
        Self { stream, receiver, consumer: Uuid::now_v7().to_string(), lanes }
    }

    /// Reads until `shutdown`, then finishes what is under way.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let claims = tokio::spawn({
            let (reader, shutdown) = (self.clone(), shutdown.clone());
            async move { reader.claim_on(shutdown).await }
        });
        while !shutdown.is_cancelled() {
            if let Err(error) = self.read_on(&shutdown).await {
                if error.code() == Some("NOGROUP") {
                    tracing::info!(receiver = self.receiver.name(), "Redis has no such group; making it");
                } else {
                    tracing::warn!(receiver = self.receiver.name(), %error, "the streams cannot be read");
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
        self.lanes.idle().await;
        self.leave().await;
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
        for found in reply.map(|reply| reply.keys).unwrap_or_default() {
            let stream = keys.iter().position(|key| *key == found.key);
            let Some(stream) = stream.and_then(|stream| u16::try_from(stream).ok()) else { continue };
            for entry in found.ids {
                self.add(stream, entry, which == Which::Own, &mut room).await;
            }
        }
        Ok(())
    }

    /// Hands an entry on, unless it is none of ours.
    async fn add(&self, stream: u16, entry: StreamId, was_left: bool, room: &mut OwnedSemaphorePermit) {
        if self.lanes.holds(stream, &entry.id) {
            return;
        }
        let receivers: i64 = entry.get(field::RECEIVERS).unwrap_or(0);
        if receivers & self.receiver.bit() == 0 {
            self.stream.acknowledge(self.receiver, stream, &entry.id).await;
            return;
        }
        let sender: Option<String> = entry.get(field::SENDER);
        let event: Option<Vec<u8>> = entry.get(field::EVENT);
        let event = event.and_then(|bytes| Event::decode(bytes.as_slice()).ok());
        let (Some(sender), Some(event)) = (sender, event) else {
            // What Redis holds damaged the sender holds whole, and sends again.
            tracing::error!(stream, entry = entry.id, "an entry cannot be read");
            self.stream.acknowledge(self.receiver, stream, &entry.id).await;
            return;
        };
        // No more was asked for than there is room for.
        if let Some(room) = room.split(1) {
            let entry = Entry { stream, id: entry.id, sender, event: Arc::new(event), was_left, _room: room };
            if planted::is(Bug::AckBeforeCommit) {
                self.lanes.finish(&entry).await;
            }
            self.lanes.add(entry);
        }
    }

    /// Looks for what others took and left, until `shutdown`.
    async fn claim_on(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            pause(CLAIM_EVERY, &shutdown).await;
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
                .arg(LEFT_AFTER.as_millis().to_string())
                .arg(&start)
                .arg("COUNT")
                .arg(room.num_permits());
            let reply: StreamAutoClaimReply = command.query_async(&mut writer).await?;
            for entry in reply.claimed {
                self.add(stream, entry, true, &mut room).await;
            }
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

async fn pause(length: Duration, shutdown: &CancellationToken) {
    let length = length.mul_f64(rand::rng().random_range(0.75..1.25));
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(length) => {}
    }
}

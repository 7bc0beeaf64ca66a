//! Stands between two parties that talk over TCP, and breaks what they say: cuts connections, delays, keeps silent, and
//! swallows replies.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to everything that passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing.
    Pass,
    /// It arrives later.
    Delay(Duration),
    /// It does not arrive, and nobody is told.
    Silence,
}

/// What begins an exchange whose reply may be swallowed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request {
    /// Whatever is sent.
    Any,
    /// The end of a transaction of PostgreSQL.
    Commit,
}

/// A proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    target: u16,
    request: Request,
    mode: watch::Sender<Mode>,
    cut: watch::Sender<u64>,
    /// Replies to be swallowed.
    wanted: AtomicU64,
    /// Replies that were.
    swallowed: AtomicU64,
}

impl Proxy {
    /// Listens on a port of the loopback address, and passes what comes to another.
    pub(crate) async fn start(port: u16, target: u16, request: Request) -> anyhow::Result<Arc<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let proxy = Arc::new(Self {
            target,
            request,
            mode: watch::Sender::new(Mode::Pass),
            cut: watch::Sender::new(0),
            wanted: AtomicU64::new(0),
            swallowed: AtomicU64::new(0),
        });
        let own = proxy.clone();
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((client, _)) => drop(tokio::spawn(own.clone().carry(client))),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        Ok(proxy)
    }

    /// From now on.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Closes all connections.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Swallows the replies to so many of the next requests, and closes their connections.
    pub(crate) fn swallow(&self, replies: u64) {
        self.wanted.store(replies, Ordering::SeqCst);
    }

    /// Replies that were swallowed.
    pub(crate) fn swallowed(&self) -> u64 {
        self.swallowed.load(Ordering::SeqCst)
    }

    async fn carry(self: Arc<Self>, client: TcpStream) {
        let mut cut = self.cut.subscribe();
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.target)).await else { return };
        // Where this fails it only gets slower.
        let _slower = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let is_doomed = AtomicBool::new(false);
        tokio::select! {
            () = self.upward(from_client, to_server, &is_doomed) => {}
            () = self.downward(from_server, to_client, &is_doomed) => {}
            _ = cut.changed() => {}
        }
    }

    async fn upward(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_doomed: &AtomicBool) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let Some(said) = buffer.get(..read) else { return };
            if self.begins(said) && self.take_wanted() {
                is_doomed.store(true, Ordering::SeqCst);
            }
            self.hinder().await;
            if to.write_all(said).await.is_err() {
                return;
            }
        }
    }

    async fn downward(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_doomed: &AtomicBool) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if is_doomed.load(Ordering::SeqCst) {
                self.swallowed.fetch_add(1, Ordering::SeqCst);
                return;
            }
            self.hinder().await;
            let Some(said) = buffer.get(..read) else { return };
            if to.write_all(said).await.is_err() {
                return;
            }
        }
    }

    fn begins(&self, said: &[u8]) -> bool {
        match self.request {
            Request::Any => true,
            Request::Commit => said.windows(6).any(|word| word.eq_ignore_ascii_case(b"commit")),
        }
    }

    fn take_wanted(&self) -> bool {
        let less = |wanted: u64| wanted.checked_sub(1);
        self.wanted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    async fn hinder(&self) {
        let mode = *self.mode.borrow();
        match mode {
            Mode::Pass => {}
            Mode::Delay(time) => tokio::time::sleep(time).await,
            Mode::Silence => {
                // An error would mean that the proxy is gone, and this with it.
                let mut mode = self.mode.subscribe();
                let _over = mode.wait_for(|mode| *mode != Mode::Silence).await.map(drop);
            }
        }
    }
}

/// Takes one call of HTTP/1.1 a connection, has it carried out, and keeps the reply.
#[derive(Debug)]
pub(crate) struct Keeper {
    targets: Vec<u16>,
    replies: Mutex<HashMap<String, (u16, Value)>>,
}

impl Keeper {
    /// Listens on a port of the loopback address.
    pub(crate) async fn start(port: u16, targets: Vec<u16>) -> anyhow::Result<Arc<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let keeper = Arc::new(Self { targets, replies: Mutex::default() });
        let own = keeper.clone();
        tokio::spawn(async move {
            let mut turn = 0_usize;
            while let Ok((client, _)) = listener.accept().await {
                turn += 1;
                let Some(target) = own.targets.get(turn % own.targets.len().max(1)) else { return };
                tokio::spawn(own.clone().carry(client, *target));
            }
        });
        Ok(keeper)
    }

    /// The reply to the call with a request id.
    pub(crate) fn reply(&self, request_id: &str) -> Option<(u16, Value)> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).remove(request_id)
    }

    async fn carry(self: Arc<Self>, client: TcpStream, target: u16) {
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
        let (mut from_client, _to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let said = Mutex::new(Vec::new());
        let upward = async {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                let Some(part) = buffer.get(..read) else { return };
                said.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(part);
                if to_server.write_all(part).await.is_err() {
                    return;
                }
            }
        };
        let downward = async {
            let mut reply = Vec::new();
            while from_server.read_buf(&mut reply).await.is_ok_and(|read| read > 0) {
                if let Some(whole) = whole(&reply) {
                    return Some(whole);
                }
            }
            None
        };
        let reply = tokio::select! {
            () = upward => None,
            reply = downward => reply,
        };
        let said = said.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let (Some(reply), Some(id)) = (reply, request_id(&said)) {
            self.replies.lock().unwrap_or_else(PoisonError::into_inner).insert(id, reply);
        }
    }
}

/// The value of `idempotency-key`.
fn request_id(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let head = text.split("\r\n\r\n").next()?;

    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("idempotency-key").then(|| value.trim().to_owned())
    })
}

/// Status and body of a reply that has arrived to its end; none before.
fn whole(reply: &[u8]) -> Option<(u16, Value)> {
    let end = reply.windows(4).position(|mark| mark == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(reply.get(..end)?).to_lowercase();
    let body = reply.get(end + 4..)?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let body = match length {
        Some(length) => body.get(..length.trim().parse().ok()?)?.to_vec(),
        None => unchunked(body)?,
    };
    Some((status, serde_json::from_slice(&body).ok()?))
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|mark| mark == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(rest.get(..end)?).ok()?.trim(), 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + length)?);
        rest = rest.get(end + 4 + length..)?;
    }
}

//! Servers among themselves: one TCP connection per direction and pair, requests with numbers, so that a call
//! that was given up never confuses the next.
//!
//! Frame: `length:u32 number:u64 payload`. The first frame of a connection says who calls and who is meant.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{config::Member, state::Command, storage::TypeConfig};

use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest, VoteRequest};

/// Largest frame between servers, in bytes.
const MAX_FRAME_BYTES: usize = 128 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);
/// Calls that may wait for one peer; more fail at once.
const QUEUE: usize = 1024;

/// First frame of a connection.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Hello {
    /// protocol between servers
    pub version: u32,
    /// number of the caller
    pub from: u64,
    /// number of the server that is meant
    pub to: u64,
}

/// Version of the protocol between servers.
pub const PEER_VERSION: u32 = 1;

/// What servers ask of one another.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Raft
    Append(AppendEntriesRequest<TypeConfig>),
    /// Raft
    Vote(VoteRequest<u64>),
    /// Raft
    Snapshot(InstallSnapshotRequest<TypeConfig>),
    /// Commands of the caller's clients, for the leader: answers `Result<(), String>` once committed
    Propose(Vec<Command>),
    /// An index that the caller must have applied to read all that is committed: `Result<Option<u64>, String>`
    ReadIndex,
    /// Sessions whose clients were heard on the caller: `()`
    Touch(Vec<i64>),
}

/// Answers to asks; called once per ask.
pub trait Serve: Send + Sync + 'static {
    /// Answers with the encoded reply.
    fn serve(&self, ask: Ask) -> impl Future<Output = Vec<u8>> + Send;
}

struct Call {
    frame: Vec<u8>,
    reply: oneshot::Sender<io::Result<Vec<u8>>>,
}

/// Calls one peer; clones share the connection.
#[derive(Clone)]
pub struct Peer {
    calls: mpsc::Sender<Call>,
}

impl Peer {
    /// Starts the task that connects to a peer when it is needed.
    pub fn new(me: u64, id: u64, member: Member) -> Self {
        let (calls, queue) = mpsc::channel(QUEUE);
        tokio::spawn(run(Hello { version: PEER_VERSION, from: me, to: id }, member, queue));
        Self { calls }
    }

    /// Asks and waits for the answer.
    pub async fn call<T: DeserializeOwned>(&self, ask: &Ask, ttl: Duration) -> io::Result<T> {
        let frame = postcard::to_stdvec(ask).map_err(io::Error::other)?;
        let (reply, wait) = oneshot::channel();
        self.calls.try_send(Call { frame, reply }).map_err(|_| io::Error::other("too many calls wait for this peer"))?;
        let bytes = timeout(ttl, wait)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted))??;
        postcard::from_bytes(&bytes).map_err(io::Error::other)
    }
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<io::Result<Vec<u8>>>>>>;

async fn run(hello: Hello, member: Member, mut queue: mpsc::Receiver<Call>) {
    while let Some(first) = queue.recv().await {
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect((member.host.as_str(), member.port))).await {
            Ok(Ok(s)) => s,
            other => {
                let e = match other {
                    Ok(Err(e)) => e,
                    _ => io::Error::from(io::ErrorKind::TimedOut),
                };
                let (kind, text) = (e.kind(), format!("{}:{}: {e}", member.host, member.port));
                let _ = first.reply.send(Err(io::Error::new(kind, text)));
                // What queued up meanwhile fails too: Raft asks again, and a name may resolve elsewhere by then.
                while let Ok(call) = queue.try_recv() {
                    let _ = call.reply.send(Err(io::Error::from(kind)));
                }
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (read, mut write) = stream.into_split();
        let waiting: Waiting = Arc::default();
        let answers = tokio::spawn(read_answers(read, waiting.clone()));
        let mut number = 0u64;
        let mut next = Some(first);
        let mut ok = match postcard::to_stdvec(&hello) {
            Ok(bytes) => write_frame(&mut write, 0, &bytes).await.is_ok(),
            Err(_) => false,
        };
        while ok && !answers.is_finished() {
            let call = match next.take() {
                Some(c) => c,
                None => match timeout(Duration::from_millis(500), queue.recv()).await {
                    Ok(Some(c)) => c,
                    Ok(None) => return,
                    Err(_) => continue,
                },
            };
            number += 1;
            {
                let mut w = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                w.retain(|_, r| !r.is_closed());
                w.insert(number, call.reply);
            }
            ok = matches!(timeout(Duration::from_secs(10), write_frame(&mut write, number, &call.frame)).await, Ok(Ok(())));
        }
        answers.abort();
        waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

async fn read_answers(read: impl tokio::io::AsyncRead + Unpin, waiting: Waiting) {
    let mut read = BufReader::new(read);
    while let Ok((number, body)) = read_frame(&mut read).await {
        let reply = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        if let Some(reply) = reply {
            let _ = reply.send(Ok(body));
        }
    }
}

async fn write_frame(to: &mut (impl tokio::io::AsyncWrite + Unpin), number: u64, body: &[u8]) -> io::Result<()> {
    if body.len() > MAX_FRAME_BYTES {
        return Err(io::Error::other("frame is too long"));
    }
    let mut frame = Vec::with_capacity(12 + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(&number.to_be_bytes());
    frame.extend_from_slice(body);
    to.write_all(&frame).await
}

async fn read_frame(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<(u64, Vec<u8>)> {
    let length = from.read_u32().await? as usize;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::other("frame is too long"));
    }
    let number = from.read_u64().await?;
    // Grows with what arrives: a length alone must not cost memory.
    let mut body = Vec::with_capacity(length.min(64 * 1024));
    let got = from.take(length as u64).read_to_end(&mut body).await?;
    if got != length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    Ok((number, body))
}

/// Serves one connection of another server. Each ask is answered on its own, so that a snapshot does not hold
/// up a heartbeat.
pub async fn serve_connection<S: Serve>(stream: TcpStream, me: u64, service: Arc<S>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::with_capacity(64 * 1024, read);
    let (_, bytes) =
        timeout(Duration::from_secs(5), read_frame(&mut read)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let hello: Hello = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
    if hello.version != PEER_VERSION || hello.to != me || hello.from == me {
        return Err(io::Error::other(format!("not for this server: {hello:?}, this is {me}")));
    }
    let (replies, mut queue) = mpsc::channel::<(u64, Vec<u8>)>(QUEUE);
    let writer = tokio::spawn(async move {
        while let Some((number, body)) = queue.recv().await {
            if write_frame(&mut write, number, &body).await.is_err() {
                return;
            }
        }
    });
    loop {
        let (number, bytes) = match read_frame(&mut read).await {
            Ok(next) => next,
            Err(_) => break,
        };
        let ask: Ask = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
        let (service, replies) = (service.clone(), replies.clone());
        tokio::spawn(async move {
            let body = service.serve(ask).await;
            let _ = replies.send((number, body)).await;
        });
    }
    writer.abort();
    Ok(())
}

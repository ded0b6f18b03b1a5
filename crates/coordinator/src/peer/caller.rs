//! The calling side of a connection between servers.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use tokio::{
    io::BufReader,
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Ask,
    frame::Seal,
    handshake::{self, Identity, Keys},
};
use crate::config::Member;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(2000);
/// A server that refused this one is not called again for so long.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
/// Calls that may wait for one peer; more fail at once.
const QUEUE: usize = 1024;

struct Call {
    frame: Vec<u8>,
    /// none for a message to which there is no answer
    reply: Option<oneshot::Sender<io::Result<Vec<u8>>>>,
}

impl Call {
    fn fail(self, kind: io::ErrorKind, text: &str) {
        if let Some(reply) = self.reply {
            let _ = reply.send(Err(io::Error::new(kind, text)));
        }
    }
}

/// Calls one peer; clones share the connection.
#[derive(Clone)]
pub struct Peer {
    calls: mpsc::Sender<Call>,
    max_frame: usize,
}

impl Peer {
    /// Starts the task that connects to a peer when it is needed.
    pub fn new(identity: Identity, id: u64, member: Member, max_frame: usize) -> Self {
        let (calls, queue) = mpsc::channel(QUEUE);
        tokio::spawn(Caller { identity, id, member, max_frame, refusal: String::new(), refused: None }.run(queue));
        Self { calls, max_frame }
    }

    /// Sends a message to which there is no answer. It may be lost.
    pub fn send(&self, ask: &Ask) {
        match postcard::to_stdvec(ask) {
            Ok(frame) if frame.len() <= self.max_frame => drop(self.calls.try_send(Call { frame, reply: None })),
            Ok(frame) => tracing::error!("a message of {} bytes is too long for a peer, {} at most", frame.len(), self.max_frame),
            Err(e) => tracing::error!("a message for a peer cannot be encoded: {e}"),
        }
    }

    /// Asks and waits for the answer. Of kind `ConnectionRefused` if the question did not leave.
    pub async fn call<T: DeserializeOwned>(&self, ask: &Ask, ttl: Duration) -> io::Result<T> {
        let frame = postcard::to_stdvec(ask).map_err(io::Error::other)?;
        if frame.len() > self.max_frame {
            return Err(io::Error::other(format!("a message of {} bytes is too long for a peer, {} at most", frame.len(), self.max_frame)));
        }
        let (reply, wait) = oneshot::channel();
        self.calls.try_send(Call { frame, reply: Some(reply) }).map_err(|_| io::Error::other("too many calls wait for this peer"))?;
        let bytes = timeout(ttl, wait)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted))??;
        postcard::from_bytes::<Result<T, String>>(&bytes).map_err(io::Error::other)?.map_err(|e| io::Error::other(printable(&e)))
    }
}

/// A connection on which a call waits and nothing came for so long is given up: after a cut, TCP would try again
/// later and later, and be silent for long after the network is well.
const SILENT: Duration = Duration::from_secs(4);

/// The same for messages without an answer: the system ends a connection on which nothing is acknowledged for so long.
const UNACKNOWLEDGED: Duration = Duration::from_millis(2000);

#[derive(Default)]
struct Calls {
    waiting: HashMap<u64, oneshot::Sender<io::Result<Vec<u8>>>>,
    /// the first call since anything came
    unanswered_since: Option<Instant>,
}

type Waiting = Arc<Mutex<Calls>>;

/// What another server gives as a reason goes to the log: one line, and not a long one.
fn printable(text: &str) -> String {
    text.chars().take(300).flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn lock(waiting: &Waiting) -> MutexGuard<'_, Calls> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Caller {
    identity: Identity,
    id: u64,
    member: Member,
    max_frame: usize,
    /// why the last handshake failed, which is logged once
    refusal: String,
    /// when that was
    refused: Option<Instant>,
}

impl Caller {
    async fn run(mut self, mut queue: mpsc::Receiver<Call>) {
        while let Some(first) = queue.recv().await {
            match self.connect().await {
                Ok((stream, keys)) => {
                    if !self.converse(stream, keys, first, &mut queue).await {
                        return;
                    }
                }
                Err(e) => {
                    let text = format!("server.{}={}:{}: {e}", self.id, self.member.host, self.member.port);
                    let kind = io::ErrorKind::ConnectionRefused;
                    first.fail(kind, &text);
                    // What queued up meanwhile fails too: Raft asks again, and a name may resolve elsewhere by then.
                    while let Ok(call) = queue.try_recv() {
                        call.fail(kind, &text);
                    }
                }
            }
        }
    }

    async fn connect(&mut self) -> io::Result<(TcpStream, Keys)> {
        if self.refused.is_some_and(|at| at.elapsed() < REFUSED_PAUSE) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, self.refusal.as_str()));
        }
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let connecting = TcpStream::connect((self.member.host.as_str(), self.member.port));
        let mut stream = timeout(CONNECT_TIMEOUT, connecting).await.map_err(late)??;
        stream.set_nodelay(true)?;
        rustix::net::sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED.as_millis() as u32)?;
        match timeout(HANDSHAKE_TIMEOUT, handshake::call(&mut stream, &self.identity, self.id)).await.map_err(late)? {
            Ok(keys) => {
                self.refusal.clear();
                self.refused = None;
                Ok((stream, keys))
            }
            Err(e) => {
                let text = e.to_string();
                if e.kind() == io::ErrorKind::PermissionDenied {
                    self.refused = Some(Instant::now());
                    if text != self.refusal {
                        tracing::warn!("server.{}={}:{}: {text}", self.id, self.member.host, self.member.port);
                        self.refusal = text;
                    }
                }
                Err(e)
            }
        }
    }

    /// Sends calls until the connection fails; false if there will be no more calls.
    async fn converse(&self, stream: TcpStream, keys: Keys, first: Call, queue: &mut mpsc::Receiver<Call>) -> bool {
        let (read, mut write) = stream.into_split();
        let Keys { mut send, receive } = keys;
        let waiting: Waiting = Arc::default();
        let mut answers = tokio::spawn(read_answers(read, receive, waiting.clone(), self.max_frame));
        let mut number = 0u64;
        let mut next = Some(first);
        let more = loop {
            let call = match next.take() {
                Some(c) => c,
                None => tokio::select! {
                    call = queue.recv() => match call {
                        Some(c) => c,
                        None => break false,
                    },
                    _ = &mut answers => break true,
                },
            };
            number += 1;
            {
                let mut calls = lock(&waiting);
                if calls.unanswered_since.is_some_and(|t| t.elapsed() > SILENT) {
                    break true;
                }
                if let Some(reply) = call.reply {
                    calls.unanswered_since.get_or_insert_with(Instant::now);
                    calls.waiting.retain(|_, r| !r.is_closed());
                    calls.waiting.insert(number, reply);
                }
            }
            let sent = timeout(Duration::from_secs(10), send.write(&mut write, number, &call.frame, self.max_frame)).await;
            if !matches!(sent, Ok(Ok(()))) {
                break true;
            }
        };
        answers.abort();
        lock(&waiting).waiting.clear();
        more
    }
}

async fn read_answers(read: impl tokio::io::AsyncRead + Unpin, mut receive: Seal, waiting: Waiting, max_frame: usize) {
    let mut read = BufReader::new(read);
    loop {
        match receive.read(&mut read, max_frame).await {
            Ok((number, body)) => {
                let reply = {
                    let mut calls = lock(&waiting);
                    calls.unanswered_since = None;
                    calls.waiting.remove(&number)
                };
                if let Some(reply) = reply {
                    let _ = reply.send(Ok(body));
                }
            }
            Err(e) => {
                if e.kind() == io::ErrorKind::InvalidData {
                    tracing::warn!("an answer of another server: {e}");
                }
                // Those that wait learn of it now, not when their time is over.
                lock(&waiting).waiting.clear();
                return;
            }
        }
    }
}

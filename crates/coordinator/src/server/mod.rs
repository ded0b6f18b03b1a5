//! Clients: sessions over TCP, one task that reads and one that writes per connection.
//!
//! Invariant: answers leave in the order of the requests; a watch event is queued before any answer that shows
//! the change behind it. A client that does not read is dropped when its queue is over a limit.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    time::timeout,
};

pub mod limits;
mod read_only;
mod reads;
mod session;
pub mod stats;
pub(crate) mod turns;

use crate::{acl::Id, admin::four_letter, node::Node, protocol::Connect, throttle::Throttle, watches::ConnectionId};
use limits::{Limits, Queued};
use session::session;
pub use stats::{ConnectionStats, Counters};

/// Answers and events that may wait for a slow client, in bytes.
const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;
/// Answers wait until less than this waits before them, in bytes; events do not.
const BUSY_BYTES: usize = 1024 * 1024;
/// A client that takes nothing for so long while an answer waits is given up.
const STALLED: Duration = Duration::from_secs(10);
/// While all clients together are over their budget, those with more than this waiting are given up, in bytes.
const FAIR_BYTES: usize = 64 * 1024;
/// Time for the first record.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// What is known of one connection.
#[derive(Debug)]
pub struct Connection {
    /// where the client is
    pub address: SocketAddr,
    /// its session, 0 until there is one
    pub session: i64,
    /// what is counted of it
    pub stats: Arc<ConnectionStats>,
    /// who the client is
    ids: Arc<[Id]>,
    /// the same, and `super` where ACLs are not checked (`skipACL`)
    rights: Arc<[Id]>,
    /// the client asked for the end of its session: the connection ends after the answer
    closing: bool,
    /// what it asked for, and was not answered yet
    turns: turns::Turns,
    out: Outbox,
}

/// The way to a client.
#[derive(Debug, Clone)]
struct Outbox {
    frames: mpsc::UnboundedSender<Vec<u8>>,
    queued: Arc<Queued>,
    drained: Arc<Notify>,
    broken: Arc<AtomicBool>,
    close: Arc<Notify>,
}

impl Outbox {
    fn send(&self, frame: Vec<u8>) {
        let (mine, all) = self.queued.get();
        let full = mine > MAX_QUEUED_BYTES || (all > limits::MAX_OUTPUT && mine > FAIR_BYTES);
        let length = frame.len();
        if full || self.broken.load(Ordering::Relaxed) {
            // Nothing may follow a frame that was left out.
            self.broken.store(true, Ordering::Relaxed);
            self.close.notify_one();
            return;
        }
        self.queued.add(length);
        if self.frames.send(frame).is_err() {
            self.queued.sub(length);
            self.close.notify_one();
        }
    }

    /// Nothing follows what was sent.
    fn end(&self) {
        self.broken.store(true, Ordering::Relaxed);
        self.close.notify_one();
    }

    /// Whether the client has not taken most of what waits for it.
    fn is_busy(&self) -> bool {
        self.queued.get().0 > BUSY_BYTES
    }
}

/// All connections of this server.
#[derive(Debug, Default)]
pub struct Connections {
    by_id: HashMap<ConnectionId, Connection>,
    next: ConnectionId,
    /// ACLs are not checked
    pub skip_acl: bool,
    /// sockets by client address, from the first byte on
    by_ip: HashMap<IpAddr, usize>,
}

impl Connections {
    fn add(&mut self, address: SocketAddr, out: Outbox) -> ConnectionId {
        self.next += 1;
        let none: Arc<[Id]> = Arc::default();
        let connection = Connection {
            address,
            session: 0,
            stats: Arc::default(),
            ids: none.clone(),
            rights: none,
            closing: false,
            turns: turns::Turns::default(),
            out,
        };
        self.by_id.insert(self.next, connection);
        self.set_ids(self.next, vec![Id::new("ip", address.ip().to_canonical().to_string())]);
        self.next
    }
    /// Says who a client is.
    fn set_ids(&mut self, id: ConnectionId, ids: Vec<Id>) {
        let skip = self.skip_acl;
        if let Some(c) = self.by_id.get_mut(&id) {
            c.ids = ids.into();
            c.rights = if skip { c.ids.iter().cloned().chain([Id::new("super", "")]).collect() } else { c.ids.clone() };
        }
    }
    /// The identities of a client.
    pub fn ids(&self, id: ConnectionId) -> Arc<[Id]> {
        self.by_id.get(&id).map_or_else(Arc::default, |c| c.ids.clone())
    }
    /// The identities by which a client's rights are judged.
    pub fn rights(&self, id: ConnectionId) -> Arc<[Id]> {
        self.by_id.get(&id).map_or_else(Arc::default, |c| c.rights.clone())
    }
    /// What is counted of one.
    fn stats(&self, id: ConnectionId) -> Arc<ConnectionStats> {
        self.by_id.get(&id).map_or_else(Arc::default, |c| c.stats.clone())
    }
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.by_id.values()
    }
    /// How many.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
    /// Counts a socket, unless its address has as many as it may (0: no limit).
    fn admit(&mut self, ip: IpAddr, limit: usize) -> bool {
        let n = self.by_ip.entry(ip).or_default();
        let room = limit == 0 || *n < limit;
        *n += usize::from(room);
        room
    }
    fn leave(&mut self, ip: IpAddr) {
        if let Some(n) = self.by_ip.get_mut(&ip) {
            *n -= 1;
            if *n == 0 {
                self.by_ip.remove(&ip);
            }
        }
    }
    /// Queues a frame.
    pub fn send(&mut self, id: ConnectionId, frame: Vec<u8>) {
        if let Some(c) = self.by_id.get_mut(&id) {
            c.stats.sent.fetch_add(1, Ordering::Relaxed);
            c.out.send(frame);
        }
    }
    /// The session of a connection, 0 if it has none.
    pub fn session_of(&self, id: ConnectionId) -> i64 {
        self.by_id.get(&id).map_or(0, |c| c.session)
    }
    /// Ends the connections of a session, but for one that waits for the answer to its close: that one ends itself.
    pub fn close_session(&mut self, session: i64) {
        self.by_id.values().filter(|c| c.session == session && !c.closing).for_each(|c| c.out.close.notify_one());
    }
    /// The same, but for the one that has the session now.
    pub fn close_others(&mut self, session: i64, has_it: impl Fn(ConnectionId) -> bool) {
        let others = self.by_id.iter().filter(|(id, c)| c.session == session && !c.closing && !has_it(**id));
        others.for_each(|(_, c)| c.out.close.notify_one());
    }
    /// Ends one; nothing more is sent over it.
    pub fn close(&mut self, id: ConnectionId) {
        self.by_id.get(&id).inspect(|c| c.out.end());
    }
    /// Ends all of them; nothing more is sent over them.
    pub fn close_all(&mut self) {
        self.by_id.values().for_each(|c| c.out.end());
    }
    /// Whether one is there, and is not about to end.
    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.by_id.get(&id).is_some_and(|c| !c.out.broken.load(Ordering::Relaxed))
    }
}

/// A socket that counts towards its address's limit.
struct Slot(Arc<Node>, IpAddr);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.with(|_, l| l.connections.leave(self.1));
    }
}

/// Accepts clients until the listener fails.
pub async fn serve(node: Arc<Node>, listener: TcpListener, counters: Arc<Counters>) -> io::Result<()> {
    let limits = Limits::new(node.config.members.len(), node.config.max_connections);
    let refused = Throttle::default();
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(next) => next,
            Err(e) => {
                // Out of file descriptors, mostly: clients that leave make room.
                refused.warn(|| format!("accept: {e}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(socket) = limits.admit() else {
            counters.rejected.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let limit = node.config.max_client_connections;
        if !node.with(|_, l| l.connections.admit(address.ip(), limit)) {
            counters.rejected.fetch_add(1, Ordering::Relaxed);
            refused.warn(|| format!("{address}: refused, the address has {limit} connections (maxClientCnxns)"));
            continue;
        }
        let (node, counters, limits) = (node.clone(), counters.clone(), limits.clone());
        let slot = Slot(node.clone(), address.ip());
        tokio::spawn(async move {
            let _counted = (slot, socket);
            if let Err(e) = client(node, stream, address, counters, limits).await {
                tracing::debug!("{address}: {e}");
            }
        });
    }
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

async fn client(node: Arc<Node>, stream: TcpStream, address: SocketAddr, counters: Arc<Counters>, limits: Arc<Limits>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let head = timeout(HELLO_TIMEOUT, read.read_i32()).await??;
    if let Some(word) = four_letter::word(head) {
        let argument = if word == *b"stmk" { timeout(HELLO_TIMEOUT, read.read_i64()).await?? } else { 0 };
        let text = four_letter::answer(&node, &counters, word, argument);
        return timeout(Duration::from_secs(5), write.write_all(text.as_bytes())).await?;
    }
    if !(28..=1024).contains(&head) {
        return Err(invalid(format!("{head} is not the length of a connect request")));
    }
    let mut first = vec![0; head as usize];
    timeout(HELLO_TIMEOUT, read.read_exact(&mut first)).await??;
    let connect = Connect::decode(&first).map_err(|e| invalid(e.to_string()))?;
    let serving = node.is_serving();
    let read_only = node.is_read_only() && connect.read_only == Some(true);
    if !serving && !read_only {
        return Err(invalid("not serving"));
    }

    let (frames, queue) = mpsc::unbounded_channel();
    let queued = Arc::new(Queued::new(&limits));
    let out = Outbox { frames, queued, drained: Arc::default(), broken: Arc::default(), close: Arc::default() };
    let id = node.with(|_, l| l.connections.add(address, out.clone()));
    let writer = tokio::spawn(write_frames(write, queue, out.queued.clone(), out.drained.clone()));
    let close = out.close.clone();
    let served = async {
        match serving {
            true => session(&node, (id, &out), &connect, &mut read, &counters, &limits).await,
            false => read_only::session(&node, (id, &out), &connect, &mut read, &counters, &limits).await,
        }
    };
    let result = tokio::select! {
        r = served => r,
        () = close.notified() => Ok(()),
    };
    node.with(|_, l| {
        l.watches.drop_connection(id);
        l.connections.by_id.remove(&id);
    });
    // What is queued, such as the answer to a close, still goes out; a client that does not read is not waited for.
    drop(out);
    let abort = writer.abort_handle();
    if timeout(Duration::from_secs(5), writer).await.is_err() {
        abort.abort();
    }
    result
}

async fn write_frames(
    mut write: tokio::net::tcp::OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    queued: Arc<Queued>,
    drained: Arc<Notify>,
) {
    let mut batch = Vec::new();
    while let Some(frame) = queue.recv().await {
        batch.extend_from_slice(&frame);
        while batch.len() < 256 * 1024 {
            match queue.try_recv() {
                Ok(f) => batch.extend_from_slice(&f),
                Err(_) => break,
            }
        }
        if write.write_all(&batch).await.is_err() {
            return;
        }
        queued.sub(batch.len());
        drained.notify_one();
        batch.clear();
        batch.shrink_to(512 * 1024);
    }
    let _ = write.shutdown().await;
}

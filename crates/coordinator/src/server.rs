//! Clients: sessions over TCP, one reader, one responder and one writer per connection.
//!
//! Invariant: answers leave in the order of the requests; a watch event is queued before any answer that shows
//! the change behind it. A client that does not read is dropped when its queue is over a limit.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    four_letter,
    node::{Local, Missed, Node, missed},
    protocol::{Code, Connect, Read, Request, connected, decode, event, reply},
    state::{Answer, Ask, State},
    watches::ConnectionId,
};

/// Answers and events that may wait for a slow client, in bytes.
const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;
/// Requests of one client that may be under way.
const MAX_OUTSTANDING: usize = 1000;
/// Watches of one client.
const MAX_WATCHES: usize = 100_000;
/// Time for the first record.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// What is known of one connection.
#[derive(Debug)]
pub struct Connection {
    /// where the client is
    pub address: SocketAddr,
    /// its session, 0 until there is one
    pub session: i64,
    /// requests that came
    pub received: u64,
    /// frames that went
    pub sent: u64,
    /// the client asked for the end of its session: the connection ends after the answer
    closing: bool,
    out: Outbox,
}

/// The way to a client.
#[derive(Debug, Clone)]
struct Outbox {
    frames: mpsc::UnboundedSender<Vec<u8>>,
    queued: Arc<AtomicUsize>,
    close: Arc<Notify>,
}

impl Outbox {
    fn send(&self, frame: Vec<u8>) {
        if self.queued.fetch_add(frame.len(), Ordering::Relaxed) > MAX_QUEUED_BYTES || self.frames.send(frame).is_err() {
            // Nothing may follow a frame that was left out.
            self.queued.store(usize::MAX / 2, Ordering::Relaxed);
            self.close.notify_one();
        }
    }
}

/// All connections of this server.
#[derive(Debug, Default)]
pub struct Connections {
    by_id: HashMap<ConnectionId, Connection>,
    next: ConnectionId,
    /// sockets by client address, from the first byte on
    by_ip: HashMap<IpAddr, usize>,
}

impl Connections {
    fn add(&mut self, address: SocketAddr, out: Outbox) -> ConnectionId {
        self.next += 1;
        self.by_id.insert(self.next, Connection { address, session: 0, received: 0, sent: 0, closing: false, out });
        self.next
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
            c.sent += 1;
            c.out.send(frame);
        }
    }
    /// Ends the connections of a session, but for one that waits for the answer to its close: that one ends itself.
    pub fn close_session(&mut self, session: i64) {
        self.by_id.values().filter(|c| c.session == session && !c.closing).for_each(|c| c.out.close.notify_one());
    }
    /// Ends all of them.
    pub fn close_all(&mut self) {
        self.by_id.values().for_each(|c| c.out.close.notify_one());
    }
}

/// Counters since the start, for the four-letter words.
#[derive(Debug, Default)]
pub struct Counters {
    /// requests
    pub received: AtomicU64,
    /// answers
    pub sent: AtomicU64,
    /// requests under way
    pub outstanding: AtomicI64,
    /// total of latencies in microseconds
    latency_us: AtomicU64,
    latency_max_us: AtomicU64,
    latency_min_us: Mutex<Option<u64>>,
}

impl Counters {
    fn took(&self, since: Instant) {
        let us = since.elapsed().as_micros() as u64;
        self.latency_us.fetch_add(us, Ordering::Relaxed);
        self.latency_max_us.fetch_max(us, Ordering::Relaxed);
        let mut min = self.latency_min_us.lock().unwrap_or_else(PoisonError::into_inner);
        *min = Some(min.map_or(us, |m| m.min(us)));
    }
    /// Shortest, mean and longest latency in milliseconds.
    pub fn latency_ms(&self) -> (u64, f64, u64) {
        let sent = self.sent.load(Ordering::Relaxed).max(1);
        let min = self.latency_min_us.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(0);
        let mean = self.latency_us.load(Ordering::Relaxed) as f64 / sent as f64 / 1000.0;
        (min / 1000, mean, self.latency_max_us.load(Ordering::Relaxed) / 1000)
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
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(next) => next,
            Err(e) => {
                // Out of file descriptors, mostly: clients that leave make room.
                tracing::warn!("accept: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let limit = node.config.max_client_connections;
        if !node.with(|_, l| l.connections.admit(address.ip(), limit)) {
            tracing::warn!("{address}: refused, the address has {limit} connections (maxClientCnxns)");
            continue;
        }
        let (node, counters) = (node.clone(), counters.clone());
        let slot = Slot(node.clone(), address.ip());
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(e) = client(node, stream, address, counters).await {
                tracing::debug!("{address}: {e}");
            }
        });
    }
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

async fn client(node: Arc<Node>, stream: TcpStream, address: SocketAddr, counters: Arc<Counters>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let head = timeout(HELLO_TIMEOUT, read.read_i32()).await??;
    if let Some(word) = four_letter::word(head) {
        let text = four_letter::answer(&node, &counters, word);
        return timeout(Duration::from_secs(5), write.write_all(text.as_bytes())).await?;
    }
    if !(28..=1024).contains(&head) {
        return Err(invalid(format!("{head} is not the length of a connect request")));
    }
    let mut first = vec![0; head as usize];
    timeout(HELLO_TIMEOUT, read.read_exact(&mut first)).await??;
    let connect = Connect::decode(&first).map_err(|e| invalid(e.to_string()))?;
    if !node.is_serving() {
        return Err(invalid("not serving"));
    }

    let (frames, queue) = mpsc::unbounded_channel();
    let out = Outbox { frames, queued: Arc::default(), close: Arc::default() };
    let id = node.with(|_, l| l.connections.add(address, out.clone()));
    let writer = tokio::spawn(write_frames(write, queue, out.queued.clone()));
    let close = out.close.clone();
    let result = tokio::select! {
        r = session(&node, id, &connect, &mut read, &counters) => r,
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

async fn write_frames(mut write: tokio::net::tcp::OwnedWriteHalf, mut queue: mpsc::UnboundedReceiver<Vec<u8>>, queued: Arc<AtomicUsize>) {
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
        queued.fetch_sub(batch.len(), Ordering::Relaxed);
        batch.clear();
    }
    let _ = write.shutdown().await;
}

/// A request whose answer is due in its turn.
struct Turn {
    xid: i32,
    since: Instant,
    what: Due,
    _under_way: UnderWay,
}

/// Counts a request as outstanding until it is answered, or its connection ends.
struct UnderWay(Arc<Counters>);

impl UnderWay {
    fn begin(counters: &Arc<Counters>) -> Self {
        counters.outstanding.fetch_add(1, Ordering::Relaxed);
        Self(counters.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Due {
    Write(oneshot::Receiver<(i64, Answer)>),
    Read(Read),
    Sync(String),
    Ping,
    Close(oneshot::Receiver<(i64, Answer)>),
    Refused(Code),
}

async fn session(
    node: &Arc<Node>,
    id: ConnectionId,
    connect: &Connect,
    read: &mut (impl AsyncReadExt + Unpin),
    counters: &Arc<Counters>,
) -> io::Result<()> {
    let lost = || io::Error::from(io::ErrorKind::ConnectionAborted);
    // A client never sees time go back: this server must have what it saw elsewhere.
    if connect.last_zxid > node.with(|s, _| s.zxid) {
        node.catch_up().await.map_err(invalid)?;
        let mine = node.with(|s, _| s.zxid);
        if connect.last_zxid > mine {
            return Err(invalid(format!("client has seen zxid 0x{:x}, this server is at 0x{mine:x}", connect.last_zxid)));
        }
    }
    let (session, password, ask) = if connect.session == 0 {
        let session = node.new_session_id();
        let password: [u8; 16] = rand::random();
        let timeout_ms = connect.timeout_ms.clamp(node.config.min_session_timeout_ms, node.config.max_session_timeout_ms);
        (session, password.to_vec(), Ask::CreateSession { id: session, password: password.to_vec(), timeout_ms })
    } else {
        (connect.session, connect.password.clone(), Ask::MoveSession { id: connect.session, password: connect.password.clone() })
    };
    // Before the command: an older connection of the session ends, this one does not. Who only guesses a session's
    // number neither ends the rightful client's connection nor keeps its session alive.
    let guessed = node.with(|s, l| {
        let guessed = s.sessions.get(&session).is_some_and(|known| known.password != password);
        if !guessed {
            l.connections.close_session(session);
        }
        guessed
    });
    if !guessed {
        node.touch(session);
    }
    let (_, answer) = node.command(ask).await.await.map_err(|_| lost())?;
    let Answer::Session(timeout_ms) = answer else {
        node.with(|_, l| l.connections.send(id, connected(0, 0, &[0; 16], connect.knows_read_only)));
        return Ok(());
    };
    let mine = node.with(|s, l| {
        // Meanwhile it may have ended or moved on, or another connection may have come for it: one remains.
        if !node.owns(s, session) {
            return false;
        }
        l.connections.close_session(session);
        if let Some(c) = l.connections.by_id.get_mut(&id) {
            c.session = session;
        }
        l.connections.send(id, connected(timeout_ms, session, &password, connect.knows_read_only));
        true
    });
    if !mine {
        return Err(lost());
    }
    node.touch(session);

    let (turns, queue) = mpsc::channel(MAX_OUTSTANDING);
    let (answered, mut done) = watch::channel(0);
    let responder = respond(node.clone(), id, queue, answered, counters.clone());
    tokio::pin!(responder);
    let max = node.config.max_request_bytes;
    let idle = Duration::from_millis(timeout_ms.max(0) as u64);
    let reader = async {
        let (mut asked, mut last_read) = (0u64, 0);
        loop {
            let length = timeout(idle, read.read_i32()).await.map_err(|_| lost())??;
            if length < 8 || length as usize > max {
                return Err(invalid(format!("request of {length} bytes (jute.maxbuffer is {max})")));
            }
            let mut body = Vec::with_capacity((length as usize).min(64 * 1024));
            let got = timeout(idle, (&mut *read).take(length as u64).read_to_end(&mut body)).await.map_err(|_| lost())??;
            if got != length as usize {
                return Err(lost());
            }
            let (header, request) = decode(&body).map_err(|e| invalid(e.to_string()))?;
            node.touch(session);
            counters.received.fetch_add(1, Ordering::Relaxed);
            node.with(|_, l| {
                if let Some(c) = l.connections.by_id.get_mut(&id) {
                    c.received += 1;
                    c.closing |= request == Request::Close;
                }
            });
            asked += 1;
            let closing = request == Request::Close;
            match request {
                // A session's requests take effect in their order: neither a read nor the zxid of an answer shows a
                // write that was asked for later.
                Request::Write(_) | Request::Close => drop(done.wait_for(|n| *n >= last_read).await.map_err(|_| lost())?),
                _ => last_read = asked,
            }
            let what = match request {
                Request::Write(write) => Due::Write(node.command(Ask::Write { session, write }).await),
                Request::Close => Due::Close(node.command(Ask::CloseSession { id: session }).await),
                Request::Read(r) => Due::Read(r),
                Request::Sync(path) => Due::Sync(path),
                Request::Ping => Due::Ping,
                Request::Refused(code) => Due::Refused(code),
            };
            let turn = Turn { xid: header.xid, since: Instant::now(), what, _under_way: UnderWay::begin(counters) };
            if turns.send(turn).await.is_err() || closing {
                // The responder ends after the answer to the close.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        r = reader => r,
        r = &mut responder => r,
    }
}

async fn respond(
    node: Arc<Node>,
    id: ConnectionId,
    mut queue: mpsc::Receiver<Turn>,
    answered: watch::Sender<u64>,
    counters: Arc<Counters>,
) -> io::Result<()> {
    let lost = || io::Error::from(io::ErrorKind::ConnectionAborted);
    while let Some(turn) = queue.recv().await {
        let xid = turn.xid;
        let mut closing = false;
        match turn.what {
            Due::Write(wait) => {
                // Nobody knows whether it happened: as ZooKeeper does, the connection ends and the client looks again.
                let (zxid, answer) = wait.await.map_err(|_| lost())?;
                let frame = match answer {
                    Answer::Write(Ok(answer)) => reply(xid, zxid, 0, |w| answer.encode(w)),
                    Answer::Write(Err(code)) => reply(xid, zxid, code as i32, |_| {}),
                    _ => return Err(lost()),
                };
                node.with(|_, l| l.connections.send(id, frame));
            }
            Due::Close(wait) => {
                let (zxid, _) = wait.await.map_err(|_| lost())?;
                node.with(|_, l| l.connections.send(id, reply(xid, zxid, 0, |_| {})));
                closing = true;
            }
            Due::Read(read) => node.with(|s, l| answer_read(s, l, id, xid, &read)),
            Due::Sync(path) => {
                node.catch_up().await.map_err(|_| lost())?;
                node.with(|s, l| {
                    l.connections.send(
                        id,
                        reply(xid, s.zxid, 0, |w| {
                            w.string(&path);
                        }),
                    )
                });
            }
            Due::Ping => node.with(|s, l| l.connections.send(id, reply(xid, s.zxid, 0, |_| {}))),
            Due::Refused(code) => node.with(|s, l| l.connections.send(id, reply(xid, s.zxid, code as i32, |_| {}))),
        }
        answered.send_modify(|n| *n += 1);
        counters.sent.fetch_add(1, Ordering::Relaxed);
        counters.took(turn.since);
        if closing {
            return Ok(());
        }
    }
    Ok(())
}

fn answer_read(state: &State, local: &mut Local, id: ConnectionId, xid: i32, read: &Read) {
    let zxid = state.zxid;
    let readable = |path: &str| match state.tree.get(path) {
        None => Err(Code::NoNode),
        Some(n) if n.perms & crate::protocol::perm::READ == 0 => Err(Code::NoAuth),
        Some(n) => Ok(n),
    };
    let mut watch = |wanted: bool, path: &str, child: bool| {
        if wanted && local.watches.of(id) < MAX_WATCHES {
            local.watches.add(id, path, child);
        }
    };
    let result = match read {
        Read::Exists { path, watch: w } => {
            watch(*w, path, false);
            state.tree.get(path).ok_or(Code::NoNode).map(|n| reply(xid, zxid, 0, |w| n.stat().encode(w)))
        }
        Read::Data { path, watch: w } => readable(path).map(|n| {
            watch(*w, path, false);
            reply(xid, zxid, 0, |w| {
                w.buffer(&n.data);
                n.stat().encode(w);
            })
        }),
        Read::Acl { path } => state.tree.get(path).ok_or(Code::NoNode).map(|n| {
            reply(xid, zxid, 0, |w| {
                w.int(1).int(n.perms).string("world").string("anyone");
                n.stat().encode(w);
            })
        }),
        Read::Children { path, watch: w, with_stat } => readable(path).map(|n| {
            watch(*w, path, true);
            reply(xid, zxid, 0, |w| {
                w.int(n.children.len() as i32);
                n.children.iter().for_each(|c| {
                    w.string(c);
                });
                if *with_stat {
                    n.stat().encode(w);
                }
            })
        }),
        Read::SetWatches { since, data, exist, child } => {
            let mut late = Vec::new();
            for (paths, kind) in [(data, Missed::Data), (exist, Missed::Exist), (child, Missed::Child)] {
                for path in paths {
                    match missed(state, *since, path, kind) {
                        Some(happened) => late.push(event(happened, path)),
                        None => watch(true, path, matches!(kind, Missed::Child)),
                    }
                }
            }
            late.into_iter().for_each(|e| local.connections.send(id, e));
            Ok(reply(xid, zxid, 0, |_| {}))
        }
    };
    local.connections.send(id, result.unwrap_or_else(|code| reply(xid, zxid, code as i32, |_| {})));
}

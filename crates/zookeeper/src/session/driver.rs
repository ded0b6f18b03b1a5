//! The task of a session: connects, and connects again, and moves bytes between the socket and [`Wire`].
//!
//! Invariant: it ends only when a server has ended the session, when an identity is refused, or when the client is closed or all its
//! handles are dropped; until then it goes on trying.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{
        Semaphore,
        mpsc::{UnboundedReceiver, error::TryRecvError},
        oneshot,
    },
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    state::{SessionId, SessionState, Shared},
    wire::{Effect, Request, Wire, next_frame},
};
use crate::{
    error::Error,
    protocol::{ConnectResponse, connect_request, op},
    servers::Servers,
    watch::WatchedEvent,
};

/// Requests are taken while less than this is to be written, in bytes.
const OUT_BYTES: usize = 64 * 1024;
/// Read at once, in bytes.
const IN_BYTES: usize = 64 * 1024;
/// Longest time without a ping, as ZooKeeper's client has it (ClientCnxnSocket).
const MAX_PING_INTERVAL: Duration = Duration::from_secs(10);
/// Shortest time for a connection attempt.
const MIN_CONNECT: Duration = Duration::from_millis(250);
/// Longest answer to a connect request, in bytes.
const MAX_CONNECT_RESPONSE: usize = 4096;

/// A session's task.
#[derive(Debug)]
pub struct Driver {
    pub wire: Wire,
    pub servers: Servers,
    pub requests: UnboundedReceiver<Request>,
    pub shared: Arc<Shared>,
    /// bounds of the queue, closed at the end
    pub bounds: [Arc<Semaphore>; 2],
    /// largest answer, in bytes
    pub max_answer: usize,
    /// told of the first connection, or of the first round without one
    pub first: Option<oneshot::Sender<Result<(), Error>>>,
    /// taken while there is no connection
    pub waiting: VecDeque<Request>,
    /// session time-out to ask for
    pub timeout: Duration,
    /// the closing of the session was sent
    pub closing: bool,
}

/// How a connection, or the session, ended.
enum End {
    Lost(String),
    Session(SessionState),
}

impl Driver {
    /// Runs until the session is over.
    pub async fn run(mut self) {
        let state = loop {
            let stream = match self.connect().await {
                Ok(stream) => stream,
                Err(state) => break state,
            };
            match self.serve(stream).await {
                End::Session(state) => break state,
                End::Lost(_) if self.closing => break SessionState::Closed,
                End::Lost(why) => {
                    tracing::debug!("the connection to the server is lost: {why}");
                    self.shared.state.send_replace(SessionState::Disconnected);
                    self.wire.disconnected();
                    self.refuse_waiting();
                }
            }
        };
        self.shared.state.send_replace(state);
        self.requests.close();
        self.bounds.iter().for_each(|b| b.close());
        self.wire.ended(state);
        while let Ok(request) = self.requests.try_recv() {
            self.waiting.push_back(request);
        }
        for request in self.waiting.drain(..) {
            let _ = request.reply.send(Err(state.error()));
        }
    }

    /// Fails what was not written. As in ZooKeeper's client a lost connection, or a round of servers without one, ends all requests
    /// made before it: none may take effect when one before it did not.
    fn refuse_waiting(&mut self) {
        let mut closing = None;
        while let Ok(request) = self.requests.try_recv() {
            self.waiting.push_back(request);
        }
        for request in self.waiting.drain(..) {
            if request.op == op::CLOSE {
                closing = Some(request);
            } else {
                let _ = request.reply.send(Err(Error::ConnectionLoss));
            }
        }
        self.waiting.extend(closing);
    }

    /// Connects to one server after the other until one takes the session.
    async fn connect(&mut self) -> Result<TcpStream, SessionState> {
        loop {
            let (host, port) = self.servers.next();
            let (hello, id) = {
                let info = self.shared.info();
                let asked = i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX);
                (connect_request(self.wire.last_zxid(), asked, info.id.0, &info.password), info.id)
            };
            let limit = (self.timeout / self.servers.len() as u32).max(MIN_CONNECT);
            let attempt = timeout(limit, handshake(&host, port, &hello));
            let result = tokio::select! {
                result = attempt => result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
                state = idle(&mut self.requests, &mut self.waiting) => return Err(state),
            };
            match result {
                Ok((stream, answer)) if answer.timeout_ms > 0 && answer.session != 0 => {
                    if id.0 != 0 && id.0 != answer.session {
                        tracing::warn!("{host}:{port} answered with another session than {id}");
                    } else {
                        tracing::debug!("{host}:{port} serves session 0x{:x}", answer.session);
                        let mut info = self.shared.info();
                        info.id = SessionId(answer.session);
                        info.password = answer.password;
                        info.timeout = Duration::from_millis(answer.timeout_ms as u64);
                        drop(info);
                        return Ok(stream);
                    }
                }
                Ok(_) if id.0 != 0 => return Err(SessionState::Expired),
                Ok(_) => tracing::debug!("{host}:{port} gives no session"),
                Err(e) => tracing::debug!("{host}:{port}: {e}"),
            }
            if let Some(pause) = self.servers.failed() {
                if let Some(first) = self.first.take() {
                    let _ = first.send(Err(Error::NoHosts));
                    return Err(SessionState::Closed);
                }
                self.refuse_waiting();
                tokio::select! {
                    () = sleep(pause) => {}
                    state = idle(&mut self.requests, &mut self.waiting) => return Err(state),
                }
            }
        }
    }

    /// Serves one connection until it ends.
    async fn serve(&mut self, mut stream: TcpStream) -> End {
        let timeout = self.shared.info().timeout;
        let (read_timeout, ping_interval) = (timeout * 2 / 3, (timeout / 3).min(MAX_PING_INTERVAL));
        let (mut out, mut input) = (BytesMut::new(), BytesMut::new());
        let (mut last_sent, mut last_received) = (Instant::now(), Instant::now());
        let mut answered = false;
        self.wire.begin(&mut out);
        self.shared.state.send_replace(SessionState::SyncConnected);
        self.wire.watches.session_changed(&WatchedEvent::session(SessionState::SyncConnected));
        if let Some(first) = self.first.take() {
            let _ = first.send(Ok(()));
        }
        let dropped = self.wire.watches.dropped().clone();
        loop {
            self.wire.watches.sweep();
            while out.len() < OUT_BYTES && !self.closing && self.wire.remove_watch(&mut out) {}
            while out.len() < OUT_BYTES && !self.closing {
                let request = match self.waiting.pop_front() {
                    Some(request) => request,
                    None => match self.requests.try_recv() {
                        Ok(request) => request,
                        Err(TryRecvError::Empty) => break,
                        // Nobody can ask any more: the session ends as it does with `close`.
                        Err(TryRecvError::Disconnected) => close_request(),
                    },
                };
                self.closing = request.op == op::CLOSE;
                self.wire.send(request, &mut out);
            }
            while !out.is_empty() {
                match stream.try_write(&out) {
                    Ok(n) => {
                        let _ = out.split_to(n);
                        last_sent = Instant::now();
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return End::Lost(e.to_string()),
                }
            }
            let ping_at = last_sent + ping_interval;
            let give_up_at = last_received + read_timeout;
            tokio::select! {
                ready = stream.readable() => {
                    if let Err(e) = ready {
                        return End::Lost(e.to_string());
                    }
                    input.reserve(IN_BYTES);
                    match stream.try_read_buf(&mut input) {
                        Ok(0) if self.closing => return End::Session(SessionState::Closed),
                        Ok(0) => return End::Lost("closed by the server".into()),
                        Ok(_) => {}
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(e) => return End::Lost(e.to_string()),
                    }
                    last_received = Instant::now();
                    if let Some(end) = self.take_frames(&mut input, &mut answered) {
                        // The server may still be reading: let it see the end of the stream.
                        let _ = stream.shutdown().await;
                        return end;
                    }
                }
                ready = stream.writable(), if !out.is_empty() => {
                    if let Err(e) = ready {
                        return End::Lost(e.to_string());
                    }
                }
                request = self.requests.recv(), if out.len() < OUT_BYTES && !self.closing => {
                    self.waiting.push_back(request.unwrap_or_else(close_request));
                }
                () = dropped.notified(), if !self.closing => {}
                () = sleep_until(ping_at), if out.is_empty() => self.wire.ping(&mut out),
                () = sleep_until(give_up_at) => return End::Lost(format!("nothing received for {read_timeout:?}")),
            }
        }
    }

    fn take_frames(&mut self, input: &mut BytesMut, answered: &mut bool) -> Option<End> {
        loop {
            let effect = match next_frame(input, self.max_answer) {
                Ok(Some(frame)) => self.wire.received(frame),
                Ok(None) => break,
                Err(e) => Err(e),
            };
            match effect {
                Ok(Effect::None) => {}
                Ok(Effect::AuthFailed) => return Some(End::Session(SessionState::AuthFailed)),
                Ok(Effect::Closed) => return Some(End::Session(SessionState::Closed)),
                Err(e) => {
                    tracing::warn!("the server sent {e}; connecting again");
                    return Some(End::Lost(e.to_string()));
                }
            }
            if !std::mem::replace(answered, true) {
                self.servers.served();
            }
        }
        self.shared.info().last_zxid = self.wire.last_zxid();
        None
    }
}

/// Takes requests while there is no connection; returns when the client is closed.
async fn idle(requests: &mut UnboundedReceiver<Request>, waiting: &mut VecDeque<Request>) -> SessionState {
    loop {
        if waiting.back().is_some_and(|r| r.op == op::CLOSE) {
            break;
        }
        match requests.recv().await {
            Some(request) => waiting.push_back(request),
            None => break,
        }
    }
    SessionState::Closed
}

fn close_request() -> Request {
    let mut w = crate::jute::Writer::framed();
    w.int(0).int(op::CLOSE);
    Request { op: op::CLOSE, frame: w.frame(), watch: None, reply: oneshot::channel().0, _permits: None }
}

/// Opens a connection and presents the session.
async fn handshake(host: &str, port: u16, hello: &[u8]) -> io::Result<(TcpStream, ConnectResponse)> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    stream.write_all(hello).await?;
    let length = stream.read_u32().await? as usize;
    if length > MAX_CONNECT_RESPONSE {
        return Err(io::Error::other(format!("an answer of {length} bytes to the connect request")));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let answer = ConnectResponse::read(&body).map_err(io::Error::other)?;
    Ok((stream, answer))
}

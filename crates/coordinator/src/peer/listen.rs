//! The answering side of connections between servers, and who may be connected.
//!
//! Invariant: a connection costs no more than its socket and a few hundred bytes until the other side has proved
//! itself; those that have not are few and end soon, and a flood of them drops its own oldest.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::BufReader,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::AbortHandle,
    time::timeout,
};

use super::{
    Ask, Serve,
    handshake::{self, Identity, Keys},
};
use crate::throttle::Throttle;

/// Time for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that have not proved themselves.
const MAX_HANDSHAKES: usize = 64;
/// Connections of one other server. It needs one, and old ones may not have ended yet.
const MAX_PER_SERVER: usize = 4;
/// The same refusal is logged once in so long.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// Answers that may wait for one connection.
const QUEUE: usize = 1024;

/// Descriptors that connections between servers may take on this side, for an ensemble of so many.
pub fn max_sockets(members: usize) -> usize {
    MAX_HANDSHAKES + members * (MAX_PER_SERVER + 1)
}

#[derive(Default)]
struct Open {
    next: u64,
    handshakes: VecDeque<(u64, AbortHandle)>,
    servers: HashMap<u64, VecDeque<(u64, AbortHandle)>>,
}

/// Accepts connections of other servers.
pub struct Listener<S> {
    identity: Identity,
    max_frame: usize,
    service: Arc<S>,
    open: Mutex<Open>,
    log: Throttle,
    /// what was refused last, and when that was logged
    refused: Mutex<Option<(String, Instant)>>,
}

impl<S: Serve> Listener<S> {
    /// For this server.
    pub fn new(identity: Identity, max_frame: usize, service: Arc<S>) -> Arc<Self> {
        Arc::new(Self { identity, max_frame, service, open: Mutex::default(), log: Throttle::default(), refused: Mutex::default() })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this was refused a moment ago: a server that may not connect tries again and again.
    fn is_refused_again(&self, reason: &str) -> bool {
        let mut last = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let again = last.as_ref().is_some_and(|(text, at)| text == reason && at.elapsed() < REFUSED_PAUSE);
        if !again {
            *last = Some((reason.to_owned(), Instant::now()));
        }
        again
    }

    /// Accepts until the task is aborted.
    pub async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => self.begin(stream, from),
                Err(e) => {
                    self.log.warn(|| format!("accept from another server: {e}"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn begin(self: &Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let mut open = self.open();
        open.next += 1;
        let id = open.next;
        // It waits for this lock before it looks for itself in the list.
        let task = tokio::spawn(self.clone().serve(id, stream, address)).abort_handle();
        open.handshakes.push_back((id, task));
        if open.handshakes.len() > MAX_HANDSHAKES
            && let Some((_, oldest)) = open.handshakes.pop_front()
        {
            oldest.abort();
        }
    }

    async fn serve(self: Arc<Self>, id: u64, mut stream: TcpStream, address: SocketAddr) {
        let result = timeout(HANDSHAKE_TIMEOUT, handshake::answer(&mut stream, &self.identity)).await;
        let task = {
            let mut open = self.open();
            let Some(at) = open.handshakes.iter().position(|(i, _)| *i == id) else { return };
            open.handshakes.remove(at)
        };
        let (from, keys) = match result {
            Ok(Ok(known)) => known,
            Ok(Err(e)) if e.kind() == io::ErrorKind::PermissionDenied && self.is_refused_again(&e.to_string()) => return,
            Ok(Err(e)) => return self.log.warn(|| format!("connection from {address}: {e}")),
            Err(_) => return self.log.warn(|| format!("connection from {address}: no handshake in time")),
        };
        if let Some(task) = task {
            let mut open = self.open();
            let mine = open.servers.entry(from).or_default();
            mine.push_back(task);
            if mine.len() > MAX_PER_SERVER
                && let Some((_, oldest)) = mine.pop_front()
            {
                oldest.abort();
            }
        }
        if let Err(e) = converse(from, stream, keys, self.max_frame, self.service.clone()).await {
            self.log.warn(|| format!("connection of server.{from} from {address}: {e}"));
        }
        // A caller has one connection. Earlier ones may be dead without a sign of it.
        let was_newest = self.open().servers.get_mut(&from).is_some_and(|mine| {
            let newest = mine.back().is_some_and(|(i, _)| *i == id);
            mine.retain(|(i, _)| *i != id);
            newest
        });
        if was_newest {
            self.service.lost(from);
        }
    }
}

/// An answer that refuses.
fn refusal(reason: &str) -> Vec<u8> {
    postcard::to_stdvec(&Err::<(), &str>(reason)).unwrap_or_default()
}

/// Serves one connection of another server. Messages of Raft are taken in their order, each ask is answered on its own; together they hold no more than the bytes of two largest frames.
async fn converse<S: Serve>(from: u64, stream: TcpStream, keys: Keys, max_frame: usize, service: Arc<S>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Keys { mut send, mut receive } = keys;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::with_capacity(64 * 1024, read);
    let (replies, mut queue) = mpsc::channel::<(u64, Vec<u8>)>(QUEUE);
    let writer = async move {
        while let Some((number, body)) = queue.recv().await {
            if send.write(&mut write, number, &body, max_frame).await.is_err() {
                return;
            }
        }
    };
    let kib = |bytes: usize| (bytes / 1024 + 1).min(u32::MAX as usize) as u32;
    let budget = Arc::new(Semaphore::new(2 * kib(max_frame) as usize));
    let reader = async {
        loop {
            let (number, bytes) = match receive.read(&mut read, max_frame).await {
                Ok(next) => next,
                Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(e),
                Err(_) => return Ok(()),
            };
            let held = budget.clone().acquire_many_owned(kib(bytes.len())).await.map_err(io::Error::other)?;
            let ask: Ask = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
            let ask = match ask {
                Ask::Raft(message) => {
                    if let Err(e) = service.deliver(from, message, held) {
                        // A sender that does not read its refusals gets none.
                        let _ = replies.try_send((number, refusal(&e)));
                    }
                    continue;
                }
                other => other,
            };
            let (service, replies) = (service.clone(), replies.clone());
            tokio::spawn(async move {
                let _held = held;
                let body = service.serve(from, ask).await;
                let _ = replies.send((number, body)).await;
            });
        }
    };
    tokio::select! {
        () = writer => Ok(()),
        end = reader => end,
    }
}

//! Connections: requests are begun in order and answered in order; see [`super::pipeline`].
//!
//! Invariant: a connection that ends takes with it what is under way for it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    answer::{self, Answer},
    budget::SMALL,
    pipeline::{Answers, Queue, pipeline},
};
use crate::{
    broker::Broker,
    handlers::{self, Context, Request, handle},
    warn_quietly,
};

/// Time for the rest of a frame, and time without progress after which a client that does not read is given up.
const STALL: Duration = Duration::from_secs(60);
/// The same while others wait for the memory that the client holds.
const CONTENDED_STALL: Duration = Duration::from_secs(10);
/// … and bytes a second that a client may take longer for, if it sends much.
const CONTENDED_RATE: usize = 4 * 1024 * 1024;
/// How often slow clients are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Pauses between attempts to accept, when descriptors or memory are short.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Buffer of a connection for what it sends, in bytes.
const READ_BUFFER: usize = 8 * 1024;

/// Connections of all listeners so far.
static ACCEPTED: AtomicU64 = AtomicU64::new(1);

/// Accepts clients on one listener, until the other end of `closed` is dropped; their connections end then.
pub async fn serve(broker: Arc<Broker>, listener: TcpListener, context: Context, mut closed: watch::Receiver<()>) {
    let mut pause = BACK_OFF.0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closed.changed() => return,
        };
        let (stream, from) = match accepted {
            Ok(next) => next,
            Err(e) => {
                // A connection that its client gave up, or no descriptor: the latter lasts for a while.
                warn_quietly!("listener {}: a connection cannot be accepted: {e}; trying again", context.listener);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF.1);
                continue;
            }
        };
        pause = BACK_OFF.0;
        let place = match broker.admission.admit(from.ip()) {
            Ok(place) => place,
            Err(full) => {
                warn_quietly!("{from}: connection refused: {full}");
                continue;
            }
        };
        let (broker, context) =
            (broker.clone(), Context { peer: Some(from.ip()), connection: ACCEPTED.fetch_add(1, Ordering::Relaxed), ..context.clone() });
        let mut closed = closed.clone();
        tokio::spawn(async move {
            tokio::select! {
                done = connection(&broker, &context, stream, from) => if let Err(e) = done {
                    tracing::debug!("{from}: {e}");
                },
                _ = closed.changed() => tracing::debug!("{from}: the listener is closed"),
            }
            drop(place);
        });
    }
}

/// How reading from a connection ended.
enum End {
    /// by the client, or for want of requests
    Closed,
    /// by a request that is not one; what came before it is still answered
    Refused,
}

async fn connection(broker: &Arc<Broker>, context: &Context, stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let (queue, answers) = pipeline();
    let mut writer = std::pin::pin!(write_answers(broker, write, answers, from));
    tokio::select! {
        biased;
        end = read_requests(broker, context, read, queue, from) => match end? {
            End::Closed => Ok(()),
            End::Refused => writer.await,
        },
        done = &mut writer => done,
    }
}

/// Handles requests in the order in which they come.
async fn read_requests(broker: &Arc<Broker>, context: &Context, read: OwnedReadHalf, queue: Queue, from: SocketAddr) -> io::Result<End> {
    let mut read = BufReader::with_capacity(READ_BUFFER, read);
    loop {
        let length = match next_length(broker, &mut read, &queue).await {
            Ok(Some(n)) => n,
            Ok(None) => return Ok(End::Closed),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(End::Closed),
            Err(e) => return Err(e),
        };
        let max = broker.config.request_max_bytes;
        let Some(length) = usize::try_from(length).ok().filter(|n| (8..=max).contains(n)) else {
            warn_quietly!("{from}: request of {length} bytes (socket.request.max.bytes is {max}); closed");
            return Ok(End::Refused);
        };
        let request = receive(broker, &mut read, length).await?;
        let timer = handlers::measured(broker, &request);
        match handle(broker, context, request).await {
            Ok(outcome) => queue.put(outcome, timer).await?,
            Err(e) => {
                warn_quietly!("{from}: {e}; closed");
                return Ok(End::Refused);
            }
        }
    }
}

/// Length of the next request. `None` after `connections.max.idle.ms` without one, if nothing is to be answered.
async fn next_length(broker: &Broker, read: &mut (impl AsyncReadExt + Unpin), queue: &Queue) -> io::Result<Option<i32>> {
    let mut length = std::pin::pin!(read.read_i32());
    loop {
        match timeout(broker.config.connections_max_idle, &mut length).await {
            Ok(length) => return length.map(Some),
            Err(_) if queue.is_idle() => return Ok(None),
            Err(_) => {}
        }
    }
}

/// Writes answers in the order of requests, until there will be no more.
async fn write_answers(broker: &Broker, mut write: OwnedWriteHalf, mut answers: Answers, from: SocketAddr) -> io::Result<()> {
    while let Some((result, room)) = answers.next().await {
        match result {
            Ok(Some(answer)) => send(broker, &mut write, answer, answers.has_more()).await?,
            Ok(None) => {}
            Err(e) => {
                warn_quietly!("{from}: {e}; closed");
                return Ok(());
            }
        }
        drop(room);
    }
    Ok(())
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// Reads a frame. Memory grows with what arrives, not with what was announced, and beyond a small beginning it is
/// taken from the budget.
async fn receive(broker: &Broker, read: &mut (impl AsyncReadExt + Unpin), length: usize) -> io::Result<Request> {
    let budget = &broker.budgets.requests;
    let mut frame = BytesMut::new();
    timeout(STALL, fill(read, &mut frame, length.min(SMALL))).await??;
    let share = budget.take(length).await;
    let begun = Instant::now();
    let patience = CONTENDED_STALL + Duration::from_secs((length / CONTENDED_RATE) as u64);
    {
        let mut rest = std::pin::pin!(fill(read, &mut frame, length));
        loop {
            match timeout(LOOK, &mut rest).await {
                Ok(done) => break done?,
                Err(_) if begun.elapsed() > STALL => return Err(timed_out("the rest of a request does not come")),
                Err(_) if share.is_some() && budget.is_contended() && begun.elapsed() > patience => {
                    return Err(timed_out("the rest of a request does not come, and others wait for memory"));
                }
                Err(_) => {}
            }
        }
    }
    Ok(Request { frame: frame.freeze(), share })
}

async fn fill(read: &mut (impl AsyncReadExt + Unpin), frame: &mut BytesMut, length: usize) -> io::Result<()> {
    while frame.len() < length {
        let left = length - frame.len();
        // Doubled, but never beyond what was announced.
        frame.reserve(left.min(frame.len().max(READ_BUFFER)));
        if (&mut *read).take(left as u64).read_buf(frame).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Writes an answer. A client that does not read is given up after a while, sooner if others wait for its memory.
/// `more` says that others, which may have shares too, wait behind it.
async fn send(broker: &Broker, write: &mut OwnedWriteHalf, answer: Answer, more: bool) -> io::Result<()> {
    let Answer { pieces, share } = answer;
    let begun = Instant::now();
    let moved = AtomicU64::new(0);
    let mut writing = std::pin::pin!(answer::write(write, pieces, || {
        moved.store(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }));
    loop {
        match timeout(LOOK, &mut writing).await {
            Ok(done) => return done,
            Err(_) if begun.elapsed().saturating_sub(Duration::from_millis(moved.load(Ordering::Relaxed))) > STALL => {
                return Err(timed_out("the client does not read"));
            }
            Err(_) if gives_way(broker, share.is_some() || more, begun) => {
                return Err(timed_out("the client does not read, and others wait for memory"));
            }
            Err(_) => {}
        }
    }
}

fn gives_way(broker: &Broker, holds: bool, begun: Instant) -> bool {
    holds && broker.budgets.responses.is_contended() && begun.elapsed() > CONTENDED_STALL
}

//! The requests of a connection that are not answered yet, in their order.
//!
//! Invariant: a session's requests take effect in their order, and are answered in it. What is at the front is answered under the lock
//! of the state: a read behind a write in the moment in which that write is applied, before anything that follows in the log. So a
//! write is proposed while reads before it still wait, and neither they nor the zxid of an answer show it (CommitProcessor of
//! ZooKeeper waits at the same places).

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::{ConnectionStats, Counters, limits::Held, reads::answer_read};
use crate::{
    node::Local,
    protocol::{Code, Read, reply},
    state::{Answer, State},
    watches::ConnectionId,
};

/// Reads that may wait for a write while another is proposed behind them, by the size of their answers in bytes: these answers are
/// made at once, whether the client takes them or not.
const LIGHT_BYTES: usize = 256 * 1024;
/// What an answer without data is taken for, in bytes.
const SMALL_BYTES: usize = 128;

/// The number of each answer to a ping.
pub(super) const PING_XID: i32 = -2;

/// A request whose answer is due in its turn.
pub struct Turn {
    /// number that the client gave it
    pub xid: i32,
    /// its type
    pub op: i32,
    /// when it came
    pub since: Instant,
    /// what it waits for
    pub what: Due,
    /// counts it as outstanding
    pub under_way: UnderWay,
    /// what it takes until it is answered: memory, and a place among those of this client
    pub _takes: (Held, OwnedSemaphorePermit),
}

/// Counts a request as outstanding until it is answered, or its connection ends.
pub struct UnderWay(Arc<Counters>, Arc<ConnectionStats>);

impl UnderWay {
    /// One more.
    pub fn begin(counters: &Arc<Counters>, stats: &Arc<ConnectionStats>) -> Self {
        counters.outstanding.fetch_add(1, Ordering::Relaxed);
        stats.outstanding.fetch_add(1, Ordering::Relaxed);
        Self(counters.clone(), stats.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
        self.1.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request waits for.
pub enum Due {
    /// its command, by number; and what came of it, at which zxid
    Write(u64, Option<(i64, Answer)>),
    /// the same for the end of the session
    Close(u64, Option<(i64, Answer)>),
    /// nothing, in its turn
    Read(Read),
    /// for what was committed when it came, by its number; whether that is applied
    Sync(u64, String, bool),
    /// nothing
    Ping,
    /// nothing: it is refused
    Refused(Code),
    /// nothing: the credentials were looked at when they came
    Auth(Result<(), Code>),
    /// nothing
    Sasl,
    /// nothing: the connection ends
    Unknown,
}

/// The turns of a connection.
#[derive(Default)]
pub struct Turns {
    /// each with the weight that it counted
    queue: VecDeque<(Turn, usize)>,
    /// writes among them
    writes: usize,
    /// syncs among them
    syncs: usize,
    /// the answers to the reads among them, in bytes
    weight: usize,
    /// a write waits until it may be proposed
    blocked: bool,
    /// nothing is answered any more
    ended: bool,
    /// told when a turn was answered
    pub progress: Arc<Notify>,
    /// told when the last turn was answered
    pub end: Arc<Notify>,
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} turns", self.queue.len())
    }
}

/// About how long the answer to a read is, in bytes.
fn weight(state: &State, read: &Read) -> usize {
    let found = |path: &str| state.tree.get(if path.is_empty() { "/" } else { path });
    SMALL_BYTES
        + match read {
            Read::Data { path, .. } => found(path).and_then(|node| node.data()).map_or(0, <[u8]>::len),
            Read::Children { path, .. } => found(path).map_or(0, |node| node.child_count() * 32),
            Read::Multi(_) | Read::Ephemerals { .. } | Read::SetWatches { .. } => LIGHT_BYTES,
            _ => 0,
        }
}

impl Turns {
    /// Adds one at the end.
    fn push(&mut self, turn: Turn, state: &State) {
        let mut weighs = 0;
        match &turn.what {
            Due::Write(..) | Due::Close(..) => self.writes += 1,
            Due::Sync(..) => self.syncs += 1,
            Due::Read(read) => weighs = weight(state, read),
            _ => {}
        }
        self.weight += weighs;
        self.queue.push_back((turn, weighs));
    }

    /// Takes the first, if it can be answered. While the client does not take what it is given, only what a write waits for is.
    fn next(&mut self, busy: bool) -> Option<Turn> {
        let ready = match &self.queue.front()?.0.what {
            Due::Write(_, came) | Due::Close(_, came) => came.is_some(),
            Due::Sync(_, _, done) => *done,
            _ => true,
        };
        if !ready || self.ended || (busy && self.writes == 0) {
            return None;
        }
        let (turn, weighed) = self.queue.pop_front()?;
        self.weight -= weighed;
        match &turn.what {
            Due::Write(..) | Due::Close(..) => self.writes -= 1,
            Due::Sync(..) => self.syncs -= 1,
            _ => {}
        }
        Some(turn)
    }

    /// Nothing more is answered, and the connection ends once the client has what was.
    fn finish(&mut self) {
        self.ended = true;
        self.end.notify_one();
    }

    /// Whether the client waits for something that is held back because it does not take what there is.
    pub fn is_held_back(&self) -> bool {
        self.blocked || (!self.queue.is_empty() && self.writes == 0)
    }
}

/// Adds a request, and answers what can be.
pub fn enqueue(state: &State, local: &mut Local, id: ConnectionId, turn: Turn) {
    if let Some(connection) = local.connections.by_id.get_mut(&id) {
        connection.turns.push(turn, state);
        advance(state, local, id);
    }
}

/// Whether a write may be proposed now: nothing that comes before it could show it.
pub fn may_write(local: &mut Local, id: ConnectionId) -> bool {
    let Some(connection) = local.connections.by_id.get_mut(&id) else { return true };
    let turns = &mut connection.turns;
    let may = turns.syncs == 0 && turns.weight <= LIGHT_BYTES && !connection.out.is_busy();
    turns.blocked = !may;
    may
}

/// A command of a client's was applied: it is answered in its turn, with what waited for it.
pub fn applied(state: &State, local: &mut Local, id: ConnectionId, seq: u64, answer: Answer) {
    let Some(connection) = local.connections.by_id.get_mut(&id) else { return };
    let of_it = connection.turns.queue.iter_mut().find_map(|(turn, _)| match &mut turn.what {
        Due::Write(number, came) | Due::Close(number, came) if *number == seq => Some(came),
        _ => None,
    });
    if let Some(came) = of_it {
        *came = Some((state.zxid, answer));
        advance(state, local, id);
    }
}

/// This server has all that was committed when a client asked for it.
pub fn synced(state: &State, local: &mut Local, id: ConnectionId, number: u64) {
    let Some(connection) = local.connections.by_id.get_mut(&id) else { return };
    for (turn, _) in &mut connection.turns.queue {
        if let Due::Sync(this, _, done) = &mut turn.what {
            *done |= *this == number;
        }
    }
    advance(state, local, id);
}

/// Answers what can be answered now.
pub fn advance(state: &State, local: &mut Local, id: ConnectionId) {
    loop {
        let Some(connection) = local.connections.by_id.get_mut(&id) else { return };
        let Some(turn) = connection.turns.next(connection.out.is_busy()) else { return };
        let progress = connection.turns.progress.clone();
        let (zxid, ends) = match answer(state, local, id, &turn) {
            Ok(done) => done,
            Err(reason) => {
                tracing::debug!("a connection ends: {reason}");
                (0, true)
            }
        };
        let us = turn.since.elapsed().as_micros() as u64;
        turn.under_way.0.answered(us);
        turn.under_way.1.answered(turn.op, turn.xid, zxid, us);
        if ends && let Some(connection) = local.connections.by_id.get_mut(&id) {
            connection.turns.finish();
        }
        progress.notify_one();
    }
}

/// Answers a request that is ready: the zxid that was shown, and whether the connection ends. An error ends it without an answer.
fn answer(state: &State, local: &mut Local, id: ConnectionId, turn: &Turn) -> Result<(i64, bool), String> {
    let (xid, zxid) = (turn.xid, state.zxid);
    let empty = |err: i32| reply(xid, zxid, err, |_| {});
    let (frame, shown, ends) = match &turn.what {
        Due::Write(_, Some((at, Answer::Write(Ok(answer))))) => (reply(xid, *at, 0, |w| answer.encode(w)), *at, false),
        Due::Write(_, Some((at, Answer::Write(Err(code))))) => (reply(xid, *at, *code as i32, |_| {}), *at, false),
        // Nobody knows whether it happened: as ZooKeeper does, the connection ends and the client looks again.
        Due::Write(..) => return Err("a write has no answer".into()),
        Due::Close(_, came) => (reply(xid, came.as_ref().map_or(zxid, |(at, _)| *at), 0, |_| {}), 0, true),
        Due::Read(read) => {
            answer_read(state, local, id, xid, read)?;
            return Ok((zxid, false));
        }
        Due::Sync(_, path, _) => (reply(xid, zxid, 0, |w| _ = w.string(path)), 0, false),
        // Whatever number the client gave it.
        Due::Ping => (reply(PING_XID, zxid, 0, |_| {}), 0, false),
        Due::Refused(code) => (empty(*code as i32), 0, false),
        Due::Auth(result) => {
            let code = result.err().map_or(0, |code| code as i32);
            turn.under_way.0.auth_failed.fetch_add(u64::from(code != 0), Ordering::Relaxed);
            (reply(xid, 0, code, |_| {}), 0, code != 0)
        }
        Due::Sasl => (reply(xid, 0, 0, |w| _ = w.nullable(None)), 0, false),
        Due::Unknown => (reply(xid, -1, Code::Unimplemented as i32, |_| {}), 0, true),
    };
    local.connections.send(id, frame);
    Ok((shown, ends))
}

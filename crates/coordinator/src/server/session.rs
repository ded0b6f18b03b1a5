//! One client's session over one connection: requests come in, answers leave in their order.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncReadExt,
    sync::{Notify, Semaphore},
    time::timeout,
};

use super::{
    Counters, Outbox, STALLED, invalid,
    limits::Limits,
    turns::{self, Due, Turn, UnderWay},
};
use crate::{
    acl::authenticate,
    node::Node,
    protocol::{Caller, Connect, Offered, Request, connected, decode},
    state::{Answer, Ask},
    watches::ConnectionId,
};

/// Requests of one client that may be under way.
const MAX_OUTSTANDING: usize = 1000;

/// Serves a session from the connect request on to its end, or the connection's.
pub(super) async fn session(
    node: &Arc<Node>,
    (id, out): (ConnectionId, &Outbox),
    connect: &Connect,
    read: &mut (impl AsyncReadExt + Unpin),
    counters: &Arc<Counters>,
    limits: &Limits,
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
    let (_, answer) = node.command_of_connection(id, ask).await.await.map_err(|_| lost())?;
    let Answer::Session(timeout_ms) = answer else {
        node.with(|_, l| l.connections.send(id, connected(0, 0, &[0; 16], connect.read_only.map(|_| false))));
        return Ok(());
    };
    let mine = node.with(|s, l| {
        // Meanwhile it may have ended or moved on, or another connection may have come for it: one remains.
        if !node.owns(s, session, id) {
            return false;
        }
        l.connections.close_session(session);
        if let Some(c) = l.connections.by_id.get_mut(&id) {
            c.session = session;
        }
        l.connections.send(id, connected(timeout_ms, session, &password, connect.read_only.map(|_| false)));
        true
    });
    if !mine {
        return Err(lost());
    }
    node.touch(session);

    let stats = node.with(|_, l| l.connections.stats(id));
    stats.timeout_ms.store(timeout_ms, Ordering::Relaxed);
    let (progress, end) =
        node.with(|_, l| l.connections.by_id.get(&id).map(|c| (c.turns.progress.clone(), c.turns.end.clone()))).ok_or_else(lost)?;
    let own = Limits::own();
    let places = Arc::new(Semaphore::new(MAX_OUTSTANDING));
    let max = node.config.max_request_bytes;
    let offered = Offered { extended_types: node.config.extended_types, reconfig: node.config.reconfig_enabled };
    let idle = Duration::from_millis(timeout_ms.max(0) as u64);
    let reader = async {
        let mut syncs = 0u64;
        loop {
            let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
            let length = timeout(idle, read.read_i32()).await.map_err(|_| lost())??;
            if length < 8 || length as usize > max {
                return Err(invalid(format!("request of {length} bytes (jute.maxbuffer is {max})")));
            }
            let (body, held) = limits.read(&own, read, length as usize, idle).await?;
            let (header, request) = decode(&body, offered).map_err(|e| invalid(e.to_string()))?;
            node.touch(session);
            counters.received.fetch_add(1, Ordering::Relaxed);
            stats.received.fetch_add(1, Ordering::Relaxed);
            let under_way = UnderWay::begin(counters, &stats);
            let turn = |what| Turn { xid: header.xid, op: header.op, since: Instant::now(), what, under_way, _takes: (held, place) };
            if matches!(request, Request::Write(_) | Request::Close) {
                while !node.with(|_, l| turns::may_write(l, id)) {
                    progress.notified().await;
                }
            }
            let what = match request {
                Request::Write(mut write) => {
                    let (ids, rights) = node.with(|_, l| (l.connections.ids(id), l.connections.rights(id)));
                    write.prepare(&ids);
                    let caller = Caller { ids: rights, enforce_quota: node.config.enforce_quota };
                    let ask = Ask::Write { session, caller, write };
                    node.command_in_turn(ask, id, |seq| turn(Due::Write(seq, None))).await;
                    continue;
                }
                Request::Close => {
                    node.with(|_, l| l.connections.by_id.get_mut(&id).map(|c| c.closing = true));
                    node.command_in_turn(Ask::CloseSession { id: session }, id, |seq| turn(Due::Close(seq, None))).await;
                    // The answer ends the connection.
                    return std::future::pending().await;
                }
                // At once, as in ZooKeeper: what the client sends behind it is sent with this identity.
                Request::Auth { scheme, credentials } => Due::Auth(node.with(|_, l| {
                    let digest = node.config.super_digest.as_deref();
                    authenticate(&l.connections.ids(id), &scheme, &credentials, digest).map(|ids| l.connections.set_ids(id, ids))
                })),
                Request::Sasl => Due::Sasl,
                Request::Unknown => Due::Unknown,
                Request::Read(r) => Due::Read(r),
                Request::Sync(path) => {
                    syncs += 1;
                    Due::Sync(syncs, path, false)
                }
                Request::Ping => Due::Ping,
                Request::Refused(code) => Due::Refused(code),
            };
            let is_sync = matches!(what, Due::Sync(..));
            node.with(|s, l| turns::enqueue(s, l, id, turn(what)));
            if is_sync {
                tokio::spawn(sync(node.clone(), id, syncs));
            }
        }
    };
    tokio::select! {
        r = reader => r,
        r = pace(node, id, out, &progress) => r,
        () = end.notified() => Ok(()),
    }
}

/// Answers a sync once this server has what was committed.
async fn sync(node: Arc<Node>, id: ConnectionId, number: u64) {
    // A server that waits for its leader makes its clients wait, as ZooKeeper's do, and no longer than they are served.
    while let Err(e) = node.catch_up().await {
        if !node.is_serving() || !node.with(|_, l| l.connections.is_open(id)) {
            tracing::debug!("a sync is given up: {e}");
            return node.with(|_, l| l.connections.close(id));
        }
    }
    node.with(|s, l| turns::synced(s, l, id, number));
}

/// Goes on with what was held back when the client has taken what there was; fails if it takes nothing.
async fn pace(node: &Arc<Node>, id: ConnectionId, out: &Outbox, progress: &Notify) -> io::Result<()> {
    let mut stalled = false;
    loop {
        let drained = timeout(STALLED / 2, out.drained.notified()).await.is_ok();
        let held_back = node.with(|s, l| {
            turns::advance(s, l, id);
            out.is_busy() && l.connections.by_id.get(&id).is_some_and(|c| c.turns.is_held_back())
        });
        progress.notify_one();
        if !drained && held_back && stalled {
            return Err(invalid("the client does not read"));
        }
        stalled = !drained && held_back;
    }
}

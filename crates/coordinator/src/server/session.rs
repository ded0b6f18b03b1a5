//! One client's session over one connection: requests come in, answers leave in their order.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncReadExt,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    ConnectionStats, Counters, Outbox, invalid,
    limits::{Held, Limits},
    reads::answer_read,
};
use crate::{
    acl::authenticate,
    node::Node,
    protocol::{Caller, Code, Connect, Offered, Read, Request, connected, decode, reply},
    state::{Answer, Ask},
    watches::ConnectionId,
};

/// Requests of one client that may be under way.
const MAX_OUTSTANDING: usize = 1000;

/// The number of each answer to a ping.
const PING_XID: i32 = -2;

/// A request whose answer is due in its turn.
struct Turn {
    xid: i32,
    op: i32,
    since: Instant,
    what: Due,
    _under_way: UnderWay,
    _held: Held,
}

/// Counts a request as outstanding until it is answered, or its connection ends.
struct UnderWay(Arc<Counters>, Arc<ConnectionStats>);

impl UnderWay {
    fn begin(counters: &Arc<Counters>, stats: &Arc<ConnectionStats>) -> Self {
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

enum Due {
    Write(oneshot::Receiver<(i64, Answer)>),
    Read(Read),
    Sync(String),
    Ping,
    Close(oneshot::Receiver<(i64, Answer)>),
    Refused(Code),
    /// the answer to credentials, which has no zxid
    Auth(Result<(), Code>),
    Sasl,
    Unknown,
}

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
    let stats = node.with(|_, l| l.connections.stats(id));
    stats.timeout_ms.store(timeout_ms, Ordering::Relaxed);
    let responder = respond(node.clone(), (id, out.clone()), queue, answered, (counters.clone(), stats.clone()));
    tokio::pin!(responder);
    let own = Limits::own();
    let max = node.config.max_request_bytes;
    let offered = Offered { extended_types: node.config.extended_types, reconfig: node.config.reconfig_enabled };
    let idle = Duration::from_millis(timeout_ms.max(0) as u64);
    let reader = async {
        let (mut asked, mut last_read) = (0u64, 0);
        loop {
            let length = timeout(idle, read.read_i32()).await.map_err(|_| lost())??;
            if length < 8 || length as usize > max {
                return Err(invalid(format!("request of {length} bytes (jute.maxbuffer is {max})")));
            }
            let (body, held) = limits.read(&own, read, length as usize, idle).await?;
            let (header, request) = decode(&body, offered).map_err(|e| invalid(e.to_string()))?;
            node.touch(session);
            counters.received.fetch_add(1, Ordering::Relaxed);
            stats.received.fetch_add(1, Ordering::Relaxed);
            asked += 1;
            let closing = request == Request::Close;
            if closing {
                node.with(|_, l| l.connections.by_id.get_mut(&id).map(|c| c.closing = true));
            }
            match request {
                // A session's requests take effect in their order: neither a read nor the zxid of an answer shows a
                // write that was asked for later.
                Request::Write(_) | Request::Close => drop(done.wait_for(|n| *n >= last_read).await.map_err(|_| lost())?),
                _ => last_read = asked,
            }
            let what = match request {
                Request::Write(mut write) => {
                    let (ids, rights) = node.with(|_, l| (l.connections.ids(id), l.connections.rights(id)));
                    write.prepare(&ids);
                    let caller = Caller { ids: rights, enforce_quota: node.config.enforce_quota };
                    Due::Write(node.command(Ask::Write { session, caller, write }).await)
                }
                // At once, as in ZooKeeper: what the client sends behind it is sent with this identity.
                Request::Auth { scheme, credentials } => Due::Auth(node.with(|_, l| {
                    let digest = node.config.super_digest.as_deref();
                    authenticate(&l.connections.ids(id), &scheme, &credentials, digest).map(|ids| l.connections.set_ids(id, ids))
                })),
                Request::Sasl => Due::Sasl,
                Request::Unknown => Due::Unknown,
                Request::Close => Due::Close(node.command(Ask::CloseSession { id: session }).await),
                Request::Read(r) => Due::Read(r),
                Request::Sync(path) => Due::Sync(path),
                Request::Ping => Due::Ping,
                Request::Refused(code) => Due::Refused(code),
            };
            let _under_way = UnderWay::begin(counters, &stats);
            let turn = Turn { xid: header.xid, op: header.op, since: Instant::now(), what, _under_way, _held: held };
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
    (id, out): (ConnectionId, Outbox),
    mut queue: mpsc::Receiver<Turn>,
    answered: watch::Sender<u64>,
    (counters, stats): (Arc<Counters>, Arc<ConnectionStats>),
) -> io::Result<()> {
    let lost = || io::Error::from(io::ErrorKind::ConnectionAborted);
    while let Some(turn) = queue.recv().await {
        out.ready().await?;
        let xid = turn.xid;
        let mut closing = false;
        let mut shown = 0;
        match turn.what {
            Due::Write(wait) => {
                // Nobody knows whether it happened: as ZooKeeper does, the connection ends and the client looks again.
                let (zxid, answer) = wait.await.map_err(|_| lost())?;
                let frame = match answer {
                    Answer::Write(Ok(answer)) => reply(xid, zxid, 0, |w| answer.encode(w)),
                    Answer::Write(Err(code)) => reply(xid, zxid, code as i32, |_| {}),
                    _ => return Err(lost()),
                };
                shown = zxid;
                node.with(|_, l| l.connections.send(id, frame));
            }
            Due::Close(wait) => {
                let (zxid, _) = wait.await.map_err(|_| lost())?;
                node.with(|_, l| l.connections.send(id, reply(xid, zxid, 0, |_| {})));
                closing = true;
            }
            Due::Read(read) => {
                shown = node.with(|s, l| answer_read(s, l, id, xid, &read).map(|()| s.zxid)).map_err(invalid)?;
            }
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
            // Whatever number the client gave it.
            Due::Ping => node.with(|s, l| l.connections.send(id, reply(PING_XID, s.zxid, 0, |_| {}))),
            Due::Refused(code) => node.with(|s, l| l.connections.send(id, reply(xid, s.zxid, code as i32, |_| {}))),
            Due::Auth(result) => {
                let code = result.err().map_or(0, |code| code as i32);
                node.with(|_, l| l.connections.send(id, reply(xid, 0, code, |_| {})));
                counters.auth_failed.fetch_add(u64::from(code != 0), Ordering::Relaxed);
                closing = code != 0;
            }
            Due::Sasl => node.with(|_, l| {
                l.connections.send(
                    id,
                    reply(xid, 0, 0, |w| {
                        w.nullable(None);
                    }),
                )
            }),
            Due::Unknown => {
                node.with(|_, l| l.connections.send(id, reply(xid, -1, Code::Unimplemented as i32, |_| {})));
                closing = true;
            }
        }
        answered.send_modify(|n| *n += 1);
        let us = turn.since.elapsed().as_micros() as u64;
        counters.answered(us);
        stats.answered(turn.op, xid, shown, us);
        if closing {
            return Ok(());
        }
    }
    Ok(())
}

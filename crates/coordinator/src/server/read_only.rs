//! Clients that only read, while this server is cut off from a majority (`readonlymode.enabled`).
//!
//! Invariant: nothing here enters the log, and what is shown is a state that was committed. A session that is given out
//! here is known to this run of this server alone; one that is not known here is not said to have ended.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt, time::timeout};

use super::{Counters, Outbox, STALLED, invalid, limits::Limits, reads::answer_read};
use crate::{
    acl::authenticate,
    node::Node,
    protocol::{Code, Connect, Offered, Request, connected, decode, reply},
    watches::ConnectionId,
};

/// Serves a client that may be read-only, from the connect request on.
pub(super) async fn session(
    node: &Arc<Node>,
    (id, out): (ConnectionId, &Outbox),
    connect: &Connect,
    read: &mut (impl AsyncReadExt + Unpin),
    counters: &Arc<Counters>,
    limits: &Limits,
) -> io::Result<()> {
    let mine = node.with(|s, _| s.zxid);
    if connect.last_zxid > mine {
        return Err(invalid(format!("client has seen zxid 0x{:x}, this server is at 0x{mine:x}", connect.last_zxid)));
    }
    let (session, password, timeout_ms) = known(node, connect)
        .ok_or_else(|| invalid(format!("session 0x{:x} is not known here, and whether it has ended neither", connect.session)))?;
    let stats = node.with(|_, l| {
        if let Some(c) = l.connections.by_id.get_mut(&id) {
            c.session = session;
        }
        l.connections.send(id, connected(timeout_ms, session, &password, connect.read_only.map(|_| true)));
        l.connections.stats(id)
    });
    stats.timeout_ms.store(timeout_ms, Ordering::Relaxed);
    let own = Limits::own();
    let max = node.config.max_request_bytes;
    let offered = Offered { extended_types: node.config.extended_types, reconfig: node.config.reconfig_enabled };
    let idle = Duration::from_millis(timeout_ms.max(0) as u64);
    loop {
        let length = timeout(idle, read.read_i32()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if length < 8 || length as usize > max {
            return Err(invalid(format!("request of {length} bytes (jute.maxbuffer is {max})")));
        }
        let (body, _held) = limits.read(&own, read, length as usize, idle).await?;
        while out.is_busy() {
            timeout(STALLED, out.drained.notified()).await.map_err(|_| invalid("the client does not read"))?;
        }
        let since = Instant::now();
        let (header, request) = decode(&body, offered).map_err(|e| invalid(e.to_string()))?;
        counters.received.fetch_add(1, Ordering::Relaxed);
        stats.received.fetch_add(1, Ordering::Relaxed);
        let xid = header.xid;
        let answer = |code: i32| node.with(|s, l| l.connections.send(id, reply(xid, s.zxid, code, |_| {})));
        let mut closing = false;
        match request {
            Request::Write(_) | Request::Sync(_) => answer(Code::NotReadOnly as i32),
            Request::Read(wanted) => node.with(|s, l| answer_read(s, l, id, xid, &wanted)).map_err(invalid)?,
            Request::Ping => node.with(|s, l| l.connections.send(id, reply(super::turns::PING_XID, s.zxid, 0, |_| {}))),
            Request::Auth { scheme, credentials } => node.with(|_, l| {
                let digest = node.config.super_digest.as_deref();
                let done = authenticate(&l.connections.ids(id), &scheme, &credentials, digest).map(|ids| l.connections.set_ids(id, ids));
                closing = done.is_err();
                counters.auth_failed.fetch_add(u64::from(closing), Ordering::Relaxed);
                l.connections.send(id, reply(xid, 0, done.err().map_or(0, |code| code as i32), |_| {}));
            }),
            Request::Sasl => node.with(|_, l| {
                l.connections.send(
                    id,
                    reply(xid, 0, 0, |w| {
                        w.nullable(None);
                    }),
                )
            }),
            Request::Refused(code) => answer(code as i32),
            Request::Close => {
                answer(0);
                closing = true;
            }
            Request::Unknown => {
                node.with(|_, l| l.connections.send(id, reply(xid, -1, Code::Unimplemented as i32, |_| {})));
                closing = true;
            }
        }
        let us = since.elapsed().as_micros() as u64;
        counters.answered(us);
        stats.answered(header.op, xid, 0, us);
        if closing {
            return Ok(());
        }
    }
}

/// The session that a client goes on with, or a new one: id, password, timeout in milliseconds.
fn known(node: &Node, connect: &Connect) -> Option<(i64, Vec<u8>, i32)> {
    let timeout_ms = connect.timeout_ms.clamp(node.config.min_session_timeout_ms, node.config.max_session_timeout_ms);
    if connect.session == 0 {
        let session = node.new_session_id();
        return Some((session, node.read_only_password(session), timeout_ms));
    }
    let stored = node.with(|s, _| s.sessions.get(&connect.session).map(|s| (s.password.clone(), s.timeout_ms)));
    let (password, timeout_ms) = stored.unwrap_or_else(|| (node.read_only_password(connect.session), timeout_ms));
    (password == connect.password).then_some((connect.session, password, timeout_ms))
}

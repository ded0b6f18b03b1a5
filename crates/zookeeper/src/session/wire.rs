//! One connection's protocol without IO: requests become bytes, frames become answers and events.
//!
//! Invariants:
//! - Answers are matched in order: one with another xid than the oldest request's breaks the connection. Answers to pings and
//!   identities may come between.
//! - Each request is answered exactly once, also when the connection is lost or the session ends.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::state::SessionState;
use crate::{
    error::Error,
    jute::{JuteError, Reader, Writer},
    protocol::{ReplyHeader, op, xid},
    watch::{
        EventType, WatchedEvent,
        table::{Kind, Table},
        watcher::Handle,
    },
};

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// a frame's length is out of bounds
    #[error("a frame of {0} bytes")]
    Length(i64),
    /// a record does not decode
    #[error("malformed record: {0}")]
    Record(#[from] JuteError),
    /// not the answer that is next
    #[error("answer {got}, expected {want:?}")]
    Order {
        /// xid that came
        got: i32,
        /// xid of the oldest request
        want: Option<i32>,
    },
}

/// What a frame may mean for the session as a whole.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// nothing
    None,
    /// an identity was refused: the session is over
    AuthFailed,
    /// the session was closed as asked
    Closed,
}

/// The watch that a request sets when it succeeds; one of `exists` also when the node does not exist.
#[derive(Debug)]
pub struct WatchRequest {
    pub kind: Kind,
    pub path: String,
}

/// A request on its way.
#[derive(Debug)]
pub struct Request {
    pub op: i32,
    /// length, room for the xid, operation and body
    pub frame: Vec<u8>,
    pub watch: Option<WatchRequest>,
    pub reply: oneshot::Sender<Result<Answer, Error>>,
    /// what it takes of the queue's bounds, until it is answered
    pub _permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

/// A server's answer.
#[derive(Debug)]
pub struct Answer {
    /// error code, 0 for none
    pub err: i32,
    /// record of the answer
    pub body: Bytes,
    /// the watch that was set
    pub watch: Option<Handle>,
}

#[derive(Debug)]
enum Pending {
    Request { xid: i32, request: Request },
    SetWatches,
    RemoveWatches { xid: i32 },
}

/// State of a session's protocol.
#[derive(Debug, Default)]
pub struct Wire {
    pub watches: Table,
    pending: VecDeque<Pending>,
    /// identities under way; those of [`Wire::begin`] have nobody who waits
    auths: VecDeque<Option<Request>>,
    credentials: Vec<(String, Vec<u8>)>,
    last_xid: i32,
    last_zxid: i64,
}

/// Identities of one session.
const MAX_CREDENTIALS: usize = 64;

impl Wire {
    /// With identities that are presented on each connection, and the newest transaction of an earlier client of the session.
    pub fn new(credentials: Vec<(String, Vec<u8>)>, last_zxid: i64) -> Self {
        Self { credentials, last_zxid, ..Self::default() }
    }

    /// Newest transaction that was seen.
    pub fn last_zxid(&self) -> i64 {
        self.last_zxid
    }

    fn xid(&mut self) -> i32 {
        self.last_xid = self.last_xid.checked_add(1).unwrap_or(1);
        self.last_xid
    }

    /// What comes first on a new connection: identities and watches.
    pub fn begin(&mut self, out: &mut BytesMut) {
        for (scheme, auth) in &self.credentials {
            out.extend_from_slice(&auth_frame(scheme, auth));
            self.auths.push_back(None);
        }
        self.watches.sweep();
        for frame in self.watches.set_again(self.last_zxid) {
            out.extend_from_slice(&frame);
            self.pending.push_back(Pending::SetWatches);
        }
    }

    /// Writes a request. One that nobody waits for any more is left out.
    pub fn send(&mut self, mut request: Request, out: &mut BytesMut) {
        if request.reply.is_closed() && request.op != op::CLOSE {
            return;
        }
        if let Some(watch) = &request.watch
            && self.watches.asked(&watch.path, watch.kind)
            && let Some(flag) = request.frame.last_mut()
        {
            *flag = 0;
        }
        let xid = if request.op == op::AUTH { xid::AUTH } else { self.xid() };
        if let Some(room) = request.frame.get_mut(4..8) {
            room.copy_from_slice(&xid.to_be_bytes());
        }
        out.extend_from_slice(&request.frame);
        if request.op == op::AUTH {
            self.remember(&request.frame);
            self.auths.push_back(Some(request));
        } else {
            request.frame = Vec::new();
            self.pending.push_back(Pending::Request { xid, request });
        }
    }

    /// Keeps an identity for the connections to come.
    fn remember(&mut self, frame: &[u8]) {
        let mut r = Reader(frame.get(16..).unwrap_or_default());
        if let (Ok(scheme), Ok(auth)) = (r.string(), r.buffer()) {
            let credential = (scheme, auth.to_vec());
            if !self.credentials.contains(&credential) && self.credentials.len() < MAX_CREDENTIALS {
                self.credentials.push(credential);
            }
        }
    }

    /// Writes a ping.
    pub fn ping(&mut self, out: &mut BytesMut) {
        let mut w = Writer::framed();
        w.int(xid::PING).int(op::PING);
        out.extend_from_slice(&w.frame());
    }

    /// Writes the taking back of one watch that has no watcher any more. Returns false if there is none.
    pub fn remove_watch(&mut self, out: &mut BytesMut) -> bool {
        let Some((path, kind)) = self.watches.removal() else { return false };
        let xid = self.xid();
        let mut w = Writer::framed();
        w.int(xid).int(op::REMOVE_WATCHES).string(&path).int(kind);
        out.extend_from_slice(&w.frame());
        self.pending.push_back(Pending::RemoveWatches { xid });
        true
    }

    /// Takes a frame, without its length.
    pub fn received(&mut self, mut frame: Bytes) -> Result<Effect, Broken> {
        let mut r = Reader(&frame);
        let header = ReplyHeader::read(&mut r)?;
        self.last_zxid = self.last_zxid.max(header.zxid);
        match header.xid {
            xid::NOTIFICATION => {
                let (kind, _state, path) = (r.int()?, r.int()?, r.string()?);
                match EventType::from_code(kind) {
                    Some(event) => self.watches.event(event, &path),
                    None => tracing::debug!("an event of unknown type {kind} on {path:?}"),
                }
                return Ok(Effect::None);
            }
            xid::PING => return Ok(Effect::None),
            xid::AUTH => {
                let Some(request) = self.auths.pop_front() else {
                    return Err(Broken::Order { got: xid::AUTH, want: None });
                };
                if let Some(request) = request {
                    frame.advance(16);
                    let _ = request.reply.send(Ok(Answer { err: header.err, body: frame, watch: None }));
                }
                return Ok(if header.err == 0 { Effect::None } else { Effect::AuthFailed });
            }
            _ => {}
        }
        let want = self.pending.front().map(|p| match p {
            Pending::Request { xid, .. } | Pending::RemoveWatches { xid } => *xid,
            Pending::SetWatches => xid::SET_WATCHES,
        });
        if want != Some(header.xid) {
            return Err(Broken::Order { got: header.xid, want });
        }
        match self.pending.pop_front() {
            Some(Pending::Request { request, .. }) => {
                frame.advance(16);
                Ok(self.answer(request, header.err, frame))
            }
            Some(Pending::SetWatches) if header.err != 0 => {
                tracing::warn!(
                    "watches are not set again: {}; their watchers are told that there may be changes",
                    Error::from_code(header.err)
                );
                self.watches.interrupt(&WatchedEvent::session(SessionState::SyncConnected));
                Ok(Effect::None)
            }
            _ => Ok(Effect::None),
        }
    }

    fn answer(&mut self, request: Request, err: i32, body: Bytes) -> Effect {
        let watch = request.watch.and_then(|asked| {
            let missing = err == Error::NoNode.code();
            let set = match asked.kind {
                Kind::Exist if missing => Some(Kind::Exist),
                Kind::Exist if err == 0 => Some(Kind::Data),
                kind => (err == 0).then_some(kind),
            };
            self.watches.answered(&asked.path, set)
        });
        let _ = request.reply.send(Ok(Answer { err, body, watch }));
        if request.op == op::CLOSE { Effect::Closed } else { Effect::None }
    }

    /// Fails all requests under way.
    pub fn fail(&mut self, error: &Error) {
        let pending = self.pending.drain(..).filter_map(|p| match p {
            Pending::Request { request, .. } => Some(request),
            Pending::SetWatches | Pending::RemoveWatches { .. } => None,
        });
        for request in pending.chain(self.auths.drain(..).flatten()) {
            let _ = request.reply.send(Err(error.clone()));
        }
    }

    /// The connection is lost.
    pub fn disconnected(&mut self) {
        self.watches.disconnected();
        self.fail(&Error::ConnectionLoss);
        self.watches.session_changed(&WatchedEvent::session(SessionState::Disconnected));
    }

    /// The session is over.
    pub fn ended(&mut self, state: SessionState) {
        self.watches.sweep();
        self.fail(&state.error());
        self.watches.interrupt(&WatchedEvent::session(state));
    }
}

fn auth_frame(scheme: &str, auth: &[u8]) -> Vec<u8> {
    let mut w = Writer::framed();
    w.int(xid::AUTH).int(op::AUTH).int(0).string(scheme).buffer(auth);
    w.frame()
}

/// Takes the next whole frame from what was received, without its length.
pub fn next_frame(buffer: &mut BytesMut, max: usize) -> Result<Option<Bytes>, Broken> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = i32::from_be_bytes(*head);
    let bytes = usize::try_from(length).ok().filter(|n| *n <= max).ok_or(Broken::Length(length.into()))?;
    if buffer.len() < 4 + bytes {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(bytes).freeze()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(op: i32, kind: Option<Kind>) -> (Request, oneshot::Receiver<Result<Answer, Error>>) {
        let (reply, answer) = oneshot::channel();
        let mut w = Writer::framed();
        w.int(0).int(op).string("/a").bool(true);
        let watch = kind.map(|kind| WatchRequest { kind, path: "/a".into() });
        (Request { op, frame: w.frame(), watch, reply, _permits: None }, answer)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever a server sends: each request is answered once, nothing panics, and no frame is larger than allowed.
        #[test]
        fn anything_may_be_received(
            bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..300),
            xids in prop::collection::vec(prop_oneof![-9..4i32, Just(i32::MIN)], 1..8),
        ) {
            let mut wire = Wire::default();
            let mut out = BytesMut::new();
            let (one, first) = request(op::GET_DATA, Some(Kind::Data));
            let (two, second) = request(op::EXISTS, Some(Kind::Exist));
            wire.send(one, &mut out);
            wire.send(two, &mut out);
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = next_frame(&mut buffer, 100) {
                prop_assert!(frame.len() <= 100);
                let _ = wire.received(frame);
            }
            for (xid, body) in xids.iter().zip(bytes.chunks(40)) {
                let _ = wire.received([&xid.to_be_bytes()[..], body].concat().into());
            }
            wire.disconnected();
            for mut answer in [first, second] {
                prop_assert!(answer.try_recv().is_ok());
            }
        }
    }

    #[test]
    fn xids_begin_again_at_one() {
        let mut wire = Wire { last_xid: i32::MAX - 1, ..Wire::default() };
        assert_eq!((wire.xid(), wire.xid()), (i32::MAX, 1));
    }
}

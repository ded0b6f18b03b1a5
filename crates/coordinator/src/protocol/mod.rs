//! ZooKeeper's client protocol: operation and error codes, requests, and how answers are written.
//! Source: zookeeper.jute and ZooDefs.java of ZooKeeper 3.8.

mod decode;

use serde::{Deserialize, Deserializer, Serialize};

pub use decode::{MAX_PATH_BYTES, decode, valid_path};

use crate::jute::{JuteError, Reader, Writer};

/// Codes of operations.
pub mod op {
    #![allow(missing_docs)]
    pub const CREATE: i32 = 1;
    pub const DELETE: i32 = 2;
    pub const EXISTS: i32 = 3;
    pub const GET_DATA: i32 = 4;
    pub const SET_DATA: i32 = 5;
    pub const GET_ACL: i32 = 6;
    pub const SET_ACL: i32 = 7;
    pub const GET_CHILDREN: i32 = 8;
    pub const SYNC: i32 = 9;
    pub const PING: i32 = 11;
    pub const GET_CHILDREN2: i32 = 12;
    pub const CHECK: i32 = 13;
    pub const MULTI: i32 = 14;
    pub const CREATE2: i32 = 15;
    pub const AUTH: i32 = 100;
    pub const SET_WATCHES: i32 = 101;
    pub const CLOSE: i32 = -11;
    pub const ERROR: i32 = -1;
}

/// The protocol's error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Code {
    RuntimeInconsistency = -2,
    MarshallingError = -5,
    Unimplemented = -6,
    BadArguments = -8,
    NoNode = -101,
    NoAuth = -102,
    BadVersion = -103,
    NoChildrenForEphemerals = -108,
    NodeExists = -110,
    NotEmpty = -111,
    SessionExpired = -112,
    InvalidAcl = -114,
    AuthFailed = -115,
    SessionMoved = -118,
}

/// Permission bits of an ACL entry.
pub mod perm {
    #![allow(missing_docs)]
    pub const READ: i32 = 1;
    pub const WRITE: i32 = 2;
    pub const CREATE: i32 = 4;
    pub const DELETE: i32 = 8;
    pub const ADMIN: i32 = 16;
    pub const ALL: i32 = 31;
}

/// A change that a client asks for. Everything else a client can ask is a [`Read`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// `create` and `create2`
    Create {
        /// path, for a sequential node without its number
        path: String,
        /// data
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
        /// permissions of `world:anyone`
        perms: i32,
        /// dies with the session
        ephemeral: bool,
        /// gets a number behind its name
        sequential: bool,
        /// answer with the stat too
        with_stat: bool,
    },
    /// `delete`
    Delete {
        /// path
        path: String,
        /// expected version, -1 for any
        version: i32,
    },
    /// `setData`
    SetData {
        /// path
        path: String,
        /// new data
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
        /// expected version, -1 for any
        version: i32,
    },
    /// `setACL`
    SetAcl {
        /// path
        path: String,
        /// permissions of `world:anyone`
        perms: i32,
        /// expected ACL version, -1 for any
        version: i32,
    },
    /// `check`, inside of a multi
    Check {
        /// path
        path: String,
        /// expected version, -1 for any
        version: i32,
    },
    /// `multi`: all or nothing. None of its parts is a multi.
    #[serde(deserialize_with = "parts")]
    Multi(Vec<Write>),
    /// An operation that cannot succeed, kept so that a multi answers it in its place.
    Invalid {
        /// the operation
        op: i32,
        /// why
        code: Code,
    },
}

/// Decodes the parts of a multi. One inside of another is an error: a decoder that followed them would be at the
/// mercy of their depth.
fn parts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Write>, D::Error> {
    Ok(Vec::<Part>::deserialize(from)?.into_iter().map(|part| part.0).collect())
}

#[derive(Deserialize)]
struct Part(#[serde(with = "Single")] Write);

/// [`Write`] with a multi that does not decode.
#[derive(Deserialize)]
#[serde(remote = "Write")]
enum Single {
    Create {
        path: String,
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
        perms: i32,
        ephemeral: bool,
        sequential: bool,
        with_stat: bool,
    },
    Delete {
        path: String,
        version: i32,
    },
    SetData {
        path: String,
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
        version: i32,
    },
    SetAcl {
        path: String,
        perms: i32,
        version: i32,
    },
    Check {
        path: String,
        version: i32,
    },
    #[serde(deserialize_with = "nested")]
    Multi(Vec<Write>),
    Invalid {
        op: i32,
        code: Code,
    },
}

fn nested<'de, D: Deserializer<'de>>(_: D) -> Result<Vec<Write>, D::Error> {
    Err(serde::de::Error::custom("a multi inside of a multi"))
}

impl Write {
    /// The operation's code.
    pub fn op(&self) -> i32 {
        match self {
            Write::Create { with_stat: true, .. } => op::CREATE2,
            Write::Create { .. } => op::CREATE,
            Write::Delete { .. } => op::DELETE,
            Write::SetData { .. } => op::SET_DATA,
            Write::SetAcl { .. } => op::SET_ACL,
            Write::Check { .. } => op::CHECK,
            Write::Multi(_) => op::MULTI,
            Write::Invalid { op, .. } => *op,
        }
    }
}

/// A question that the local tree answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// `exists`
    Exists {
        /// path
        path: String,
        /// leave a watch
        watch: bool,
    },
    /// `getData`
    Data {
        /// path
        path: String,
        /// leave a watch
        watch: bool,
    },
    /// `getACL`
    Acl {
        /// path
        path: String,
    },
    /// `getChildren` and `getChildren2`
    Children {
        /// path
        path: String,
        /// leave a watch
        watch: bool,
        /// answer with the stat too
        with_stat: bool,
    },
    /// `setWatches`: the watches of a client that comes from another server
    SetWatches {
        /// the last zxid that the client saw
        since: i64,
        /// data watches on nodes that existed
        data: Vec<String>,
        /// watches on nodes that did not exist
        exist: Vec<String>,
        /// child watches
        child: Vec<String>,
    },
}

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// changes the tree
    Write(Write),
    /// reads the local tree
    Read(Read),
    /// `sync`: answers once this server has all that was committed before
    Sync(String),
    /// keeps the session alive
    Ping,
    /// ends the session
    Close,
    /// answered with this code
    Refused(Code),
}

/// The head of every request behind the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// chosen by the client, repeated in the answer
    pub xid: i32,
    /// operation
    pub op: i32,
}

/// First record of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// newest zxid that the client has seen
    pub last_zxid: i64,
    /// session timeout asked for, in milliseconds
    pub timeout_ms: i32,
    /// session to go on with, 0 for a new one
    pub session: i64,
    /// its password
    pub password: Vec<u8>,
    /// whether the client knows the `readOnly` field
    pub knows_read_only: bool,
}

impl Connect {
    /// Decodes the record (without its length).
    pub fn decode(bytes: &[u8]) -> Result<Self, JuteError> {
        let mut r = Reader(bytes);
        let _protocol = r.int()?;
        let mut this =
            Self { last_zxid: r.long()?, timeout_ms: r.int()?, session: r.long()?, password: r.buffer()?.to_vec(), knows_read_only: false };
        this.knows_read_only = !r.is_empty();
        Ok(this)
    }
}

/// Answer to [`Connect`]; a session id of 0 says that the session is gone.
pub fn connected(timeout_ms: i32, session: i64, password: &[u8], read_only_field: bool) -> Vec<u8> {
    let mut w = Writer::framed();
    w.int(0).int(timeout_ms).long(session).buffer(password);
    if read_only_field {
        w.bool(false);
    }
    w.frame()
}

/// A node's metadata.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Stat {
    pub czxid: i64,
    pub mzxid: i64,
    pub ctime: i64,
    pub mtime: i64,
    pub version: i32,
    pub cversion: i32,
    pub aversion: i32,
    pub ephemeral_owner: i64,
    pub data_length: i32,
    pub num_children: i32,
    pub pzxid: i64,
}

impl Stat {
    /// Writes it in the protocol's order.
    pub fn encode(&self, w: &mut Writer) {
        w.long(self.czxid).long(self.mzxid).long(self.ctime).long(self.mtime);
        w.int(self.version).int(self.cversion).int(self.aversion).long(self.ephemeral_owner);
        w.int(self.data_length).int(self.num_children).long(self.pzxid);
    }
}

/// What a write answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteAnswer {
    /// path of a new node, and its stat for `create2`
    Created(String, Option<Stat>),
    /// new stat
    Stat(Stat),
    /// nothing but success
    Done,
    /// one answer per operation of a multi; all are `Ok`, or each says why nothing was done
    Multi(Vec<Result<WriteAnswer, i32>>, Vec<i32>),
}

impl WriteAnswer {
    /// Writes the body behind the reply's header.
    pub fn encode(&self, w: &mut Writer) {
        match self {
            WriteAnswer::Created(path, stat) => {
                w.string(path);
                if let Some(s) = stat {
                    s.encode(w);
                }
            }
            WriteAnswer::Stat(s) => s.encode(w),
            WriteAnswer::Done => {}
            WriteAnswer::Multi(results, ops) => {
                for (result, op) in results.iter().zip(ops) {
                    match result {
                        Ok(answer) => {
                            w.int(*op).bool(false).int(0);
                            answer.encode(w);
                        }
                        Err(code) => {
                            w.int(op::ERROR).bool(false).int(*code).int(*code);
                        }
                    }
                }
                w.int(op::ERROR).bool(true).int(-1);
            }
        }
    }
}

/// A reply's frame: header and body.
pub fn reply(xid: i32, zxid: i64, err: i32, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::framed();
    w.int(xid).long(zxid).int(err);
    if err == 0 {
        body(&mut w);
    }
    w.frame()
}

/// Kinds of watch events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum EventType {
    Created = 1,
    Deleted = 2,
    DataChanged = 3,
    ChildrenChanged = 4,
}

/// A watch event's frame.
pub fn event(kind: EventType, path: &str) -> Vec<u8> {
    let mut w = Writer::framed();
    w.int(-1).long(-1).int(0).int(kind as i32).int(3).string(path);
    w.frame()
}

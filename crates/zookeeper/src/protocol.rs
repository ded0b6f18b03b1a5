//! Records of the protocol: operation codes, headers, stats, connect and watch records.

use crate::jute::{JuteError, Reader, Writer};

/// Codes of operations (ZooDefs.OpCode).
pub mod op {
    #![allow(missing_docs)]
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
    pub const REMOVE_WATCHES: i32 = 18;
    pub const CREATE_CONTAINER: i32 = 19;
    pub const CREATE_TTL: i32 = 21;
    pub const MULTI_READ: i32 = 22;
    pub const AUTH: i32 = 100;
    pub const SET_WATCHES: i32 = 101;
    pub const GET_EPHEMERALS: i32 = 103;
    pub const GET_ALL_CHILDREN_NUMBER: i32 = 104;
    pub const SET_WATCHES2: i32 = 105;
    pub const ADD_WATCH: i32 = 106;
    pub const WHO_AM_I: i32 = 107;
    pub const CLOSE: i32 = -11;
    pub const ERROR: i32 = -1;
}

/// Xids that do not number a request (ClientCnxn).
pub mod xid {
    #![allow(missing_docs)]
    pub const NOTIFICATION: i32 = -1;
    pub const PING: i32 = -2;
    pub const AUTH: i32 = -4;
    pub const SET_WATCHES: i32 = -8;
}

/// Metadata of a node. Times are milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stat {
    /// transaction that created the node
    pub czxid: i64,
    /// transaction that last changed its data
    pub mzxid: i64,
    /// time of creation
    pub ctime: i64,
    /// time of the last change of its data
    pub mtime: i64,
    /// changes of its data
    pub version: i32,
    /// changes of its children
    pub cversion: i32,
    /// changes of its ACL
    pub aversion: i32,
    /// session of an ephemeral node, 0 for others; for containers and nodes with a time to live as EphemeralType has it
    pub ephemeral_owner: i64,
    /// bytes of its data
    pub data_length: i32,
    /// number of its children
    pub num_children: i32,
    /// transaction that last changed its children
    pub pzxid: i64,
}

impl Stat {
    /// Decodes it in the protocol's order.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, JuteError> {
        Ok(Self {
            czxid: r.long()?,
            mzxid: r.long()?,
            ctime: r.long()?,
            mtime: r.long()?,
            version: r.int()?,
            cversion: r.int()?,
            aversion: r.int()?,
            ephemeral_owner: r.long()?,
            data_length: r.int()?,
            num_children: r.int()?,
            pzxid: r.long()?,
        })
    }

    /// Writes it in the protocol's order.
    pub fn write(&self, w: &mut Writer) {
        w.long(self.czxid).long(self.mzxid).long(self.ctime).long(self.mtime);
        w.int(self.version).int(self.cversion).int(self.aversion).long(self.ephemeral_owner);
        w.int(self.data_length).int(self.num_children).long(self.pzxid);
    }
}

/// First record of a connection, framed.
pub fn connect_request(last_zxid: i64, timeout_ms: i32, session: i64, password: &[u8]) -> Vec<u8> {
    let mut w = Writer::framed();
    w.int(0).long(last_zxid).int(timeout_ms).long(session).buffer(password).bool(false);
    w.frame()
}

/// Answer to [`connect_request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectResponse {
    /// the time-out that the server grants, in milliseconds; 0 or less if the session has expired
    pub timeout_ms: i32,
    /// session id; 0 if the session has expired
    pub session: i64,
    /// what proves that later connections belong to the session
    pub password: Vec<u8>,
}

/// Longest password of a session, in bytes; servers send 16.
const MAX_PASSWORD: usize = 256;

impl ConnectResponse {
    /// Decodes the record, without its length. Servers before 3.4 leave out the last field, `readOnly`.
    pub fn read(bytes: &[u8]) -> Result<Self, JuteError> {
        let mut r = Reader(bytes);
        let _protocol = r.int()?;
        let this = Self { timeout_ms: r.int()?, session: r.long()?, password: r.buffer()?.to_vec() };
        if this.password.len() > MAX_PASSWORD {
            return Err(JuteError::Length(this.password.len() as i32));
        }
        Ok(this)
    }
}

/// Head of every answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyHeader {
    /// that of the request, or one of [`xid`]
    pub xid: i32,
    /// newest transaction that the server had applied; 0 or less: not given
    pub zxid: i64,
    /// error code, 0 for none
    pub err: i32,
}

impl ReplyHeader {
    /// Decodes it; what follows is left in the reader.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, JuteError> {
        Ok(Self { xid: r.int()?, zxid: r.long()?, err: r.int()? })
    }
}

//! The first record of a connection, and its answer.

use crate::jute::{JuteError, Reader, Writer};

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
    /// whether the client takes a server that only reads; none from a client that does not know the field
    pub read_only: Option<bool>,
}

impl Connect {
    /// Decodes the record (without its length).
    pub fn decode(bytes: &[u8]) -> Result<Self, JuteError> {
        let mut r = Reader(bytes);
        let _protocol = r.int()?;
        let mut this =
            Self { last_zxid: r.long()?, timeout_ms: r.int()?, session: r.long()?, password: r.buffer()?.to_vec(), read_only: None };
        if !r.is_empty() {
            this.read_only = Some(r.bool()?);
        }
        Ok(this)
    }
}

/// Answer to [`Connect`]; a session id of 0 says that the session is gone. `read_only` only for clients that know the field.
pub fn connected(timeout_ms: i32, session: i64, password: &[u8], read_only: Option<bool>) -> Vec<u8> {
    let mut w = Writer::framed();
    w.int(0).int(timeout_ms).long(session).buffer(password);
    if let Some(read_only) = read_only {
        w.bool(read_only);
    }
    w.frame()
}

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

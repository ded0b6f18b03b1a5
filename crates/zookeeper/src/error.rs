//! Errors of requests: ZooKeeper's codes (KeeperException.java), and those of this client.

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// -2; in a multi: not executed because another operation failed.
    #[error("not executed: another operation of the same request failed")]
    RuntimeInconsistency,
    /// -4. The request was under way when the connection was lost, or no server could be reached.
    #[error("connection to the server lost")]
    ConnectionLoss,
    /// -5
    #[error("the server could not decode the request")]
    MarshallingError,
    /// -6
    #[error("operation not supported by the server")]
    Unimplemented,
    /// -7
    #[error("operation timed out")]
    OperationTimeout,
    /// -8. From the server, or from this client before anything is sent.
    #[error("bad arguments: {0}")]
    BadArguments(&'static str),
    /// -13
    #[error("no quorum of the new configuration is connected")]
    NewConfigNoQuorum,
    /// -14
    #[error("another reconfiguration is in progress")]
    ReconfigInProgress,
    /// -101
    #[error("node does not exist")]
    NoNode,
    /// -102
    #[error("not authorized")]
    NoAuth,
    /// -103
    #[error("version does not match")]
    BadVersion,
    /// -108
    #[error("ephemeral nodes may not have children")]
    NoChildrenForEphemerals,
    /// -110
    #[error("node exists already")]
    NodeExists,
    /// -111
    #[error("node has children")]
    NotEmpty,
    /// -112. Only a server decides this.
    #[error("session expired")]
    SessionExpired,
    /// -113
    #[error("invalid callback")]
    InvalidCallback,
    /// -114
    #[error("invalid ACL")]
    InvalidAcl,
    /// -115
    #[error("authentication failed")]
    AuthFailed,
    /// -118
    #[error("session moved to another server")]
    SessionMoved,
    /// -119
    #[error("server is read-only")]
    NotReadOnly,
    /// -120
    #[error("ephemeral node of a local session")]
    EphemeralOnLocalSession,
    /// -121
    #[error("no such watcher")]
    NoWatcher,
    /// -122
    #[error("request timed out on the server")]
    RequestTimeout,
    /// -123
    #[error("reconfiguration is disabled")]
    ReconfigDisabled,
    /// -124
    #[error("session closed: SASL authentication is required")]
    SessionClosedRequireSaslAuth,
    /// -125
    #[error("quota exceeded")]
    QuotaExceeded,
    /// -127
    #[error("request throttled by the server")]
    Throttled,
    /// A code that ZooKeeper 3.8 does not define.
    #[error("unknown error code {0}")]
    UnknownCode(i32),

    /// No server of the list accepted a connection.
    #[error("no server could be reached")]
    NoHosts,
    /// The client was closed.
    #[error("client closed")]
    ClientClosed,
    /// The request is larger than [`Connector::with_max_request`](crate::Connector::with_max_request).
    #[error("request of {bytes} bytes exceeds the limit of {limit}")]
    RequestTooLarge {
        /// size of the request, without the length before it
        bytes: usize,
        /// the limit
        limit: usize,
    },
    /// The answer does not decode. Whether the request took effect is known: it did.
    #[error("malformed answer: {0}")]
    MalformedAnswer(#[from] crate::jute::JuteError),
}

impl Error {
    /// The error of a code other than 0.
    pub fn from_code(code: i32) -> Self {
        match code {
            -2 => Self::RuntimeInconsistency,
            -4 => Self::ConnectionLoss,
            -5 => Self::MarshallingError,
            -6 => Self::Unimplemented,
            -7 => Self::OperationTimeout,
            -8 => Self::BadArguments("refused by the server"),
            -13 => Self::NewConfigNoQuorum,
            -14 => Self::ReconfigInProgress,
            -101 => Self::NoNode,
            -102 => Self::NoAuth,
            -103 => Self::BadVersion,
            -108 => Self::NoChildrenForEphemerals,
            -110 => Self::NodeExists,
            -111 => Self::NotEmpty,
            -112 => Self::SessionExpired,
            -113 => Self::InvalidCallback,
            -114 => Self::InvalidAcl,
            -115 => Self::AuthFailed,
            -118 => Self::SessionMoved,
            -119 => Self::NotReadOnly,
            -120 => Self::EphemeralOnLocalSession,
            -121 => Self::NoWatcher,
            -122 => Self::RequestTimeout,
            -123 => Self::ReconfigDisabled,
            -124 => Self::SessionClosedRequireSaslAuth,
            -125 => Self::QuotaExceeded,
            -127 => Self::Throttled,
            other => Self::UnknownCode(other),
        }
    }

    /// ZooKeeper's code. Errors of this client have the code that comes closest.
    pub fn code(&self) -> i32 {
        match self {
            Self::RuntimeInconsistency => -2,
            Self::ConnectionLoss | Self::NoHosts => -4,
            Self::MarshallingError | Self::MalformedAnswer(_) => -5,
            Self::Unimplemented => -6,
            Self::OperationTimeout => -7,
            Self::BadArguments(_) | Self::RequestTooLarge { .. } => -8,
            Self::NewConfigNoQuorum => -13,
            Self::ReconfigInProgress => -14,
            Self::NoNode => -101,
            Self::NoAuth => -102,
            Self::BadVersion => -103,
            Self::NoChildrenForEphemerals => -108,
            Self::NodeExists => -110,
            Self::NotEmpty => -111,
            Self::SessionExpired | Self::ClientClosed => -112,
            Self::InvalidCallback => -113,
            Self::InvalidAcl => -114,
            Self::AuthFailed => -115,
            Self::SessionMoved => -118,
            Self::NotReadOnly => -119,
            Self::EphemeralOnLocalSession => -120,
            Self::NoWatcher => -121,
            Self::RequestTimeout => -122,
            Self::ReconfigDisabled => -123,
            Self::SessionClosedRequireSaslAuth => -124,
            Self::QuotaExceeded => -125,
            Self::Throttled => -127,
            Self::UnknownCode(code) => *code,
        }
    }

    /// Whether the session is over, so that no further request can succeed.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::SessionExpired | Self::ClientClosed | Self::AuthFailed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_a_round_trip() {
        for code in -200..0 {
            assert_eq!(Error::from_code(code).code(), code, "{:?}", Error::from_code(code));
        }
    }
}

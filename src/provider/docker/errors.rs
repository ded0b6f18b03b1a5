//! Errors of the daemon for a person.

use bollard::errors::Error as EngineError;

use crate::error::Error;

/// Whether the daemon answered with this status.
pub fn is_status(e: &EngineError, status: u16) -> bool {
    matches!(e, EngineError::DockerResponseServerError { status_code, .. } if *status_code == status)
}

fn io_kind(e: &EngineError) -> Option<std::io::ErrorKind> {
    let mut current: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(x) = current {
        if let Some(io) = x.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        current = x.source();
    }
    None
}

/// An engine error for a person.
pub fn explain(doing: &str, e: EngineError) -> Error {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    match (&e, io_kind(&e)) {
        (EngineError::SocketNotFoundError(_), _) | (_, Some(ConnectionRefused | NotFound)) => {
            Error::failed(format!("{doing}: Docker is not running"))
                .hint("start Docker (`sudo systemctl start docker`, or Docker Desktop), or set DOCKER_HOST")
        }
        (_, Some(PermissionDenied)) => Error::failed(format!("{doing}: no permission on Docker's socket"))
            .hint("add yourself to the group `docker` and log in again, or run as a user who may use Docker"),
        (EngineError::DockerResponseServerError { message, .. }, _)
            if message.contains("port is already allocated") || message.contains("address already in use") =>
        {
            Error::failed(format!("{doing}: {message}"))
                .hint("another program uses the port: stop it, or run `septet up` again to have another one chosen; where the inventory has `ports_from`, change it, then `septet down --keep-data` and `septet up`")
        }
        (EngineError::DockerResponseServerError { message, .. }, _) if message.contains("no space left") => {
            Error::failed(format!("{doing}: {message}")).hint("free some disk space: `docker system df` shows what Docker uses")
        }
        (EngineError::DockerResponseServerError { message, .. }, _) => Error::failed(format!("{doing}: {message}")),
        _ => Error::failed(format!("{doing}: {e}")),
    }
}

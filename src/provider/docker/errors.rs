//! Errors of the daemon for a person.

use bollard::errors::Error as EngineError;

use crate::error::Error;

/// Whether the daemon answered with this status.
pub fn is_status(e: &EngineError, status: u16) -> bool {
    matches!(e, EngineError::DockerResponseServerError { status_code, .. } if *status_code == status)
}

fn io_kind(e: &EngineError) -> Option<std::io::ErrorKind> {
    if let EngineError::IOError { err } = e {
        return Some(err.kind());
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_hint() {
        let server = |status_code, message: &str| EngineError::DockerResponseServerError { status_code, message: message.into() };
        let io = |kind: std::io::ErrorKind| EngineError::from(std::io::Error::from(kind));
        for (error, message, hint) in [
            (EngineError::SocketNotFoundError("/x.sock".into()), "Docker is not running", "or set DOCKER_HOST"),
            (io(std::io::ErrorKind::ConnectionRefused), "Docker is not running", "sudo systemctl start docker"),
            (io(std::io::ErrorKind::PermissionDenied), "no permission on Docker's socket", "the group `docker`"),
            (server(500, "driver failed: port is already allocated"), "already allocated", "`septet up` again to have another one chosen"),
            (server(500, "write /x: no space left on device"), "no space left", "`docker system df` shows"),
        ] {
            let e = explain("cannot do it", error);
            assert!(e.message.starts_with("cannot do it: ") && e.message.contains(message), "{e}");
            assert!(e.hint.as_ref().is_some_and(|h| h.contains(hint)), "{e}");
        }
        assert_eq!(explain("cannot do it", server(409, "conflict")).hint, None);
    }
}

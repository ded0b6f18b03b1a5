//! `GET /metrics` over HTTP/1.1, by hand: one request per connection.
//!
//! Invariant: connections, the size of a request and the time for each step are bounded; nothing a client sends ends the server.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::Registry;

/// Bounds of the endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// connections at once; further ones wait to be accepted
    pub connections: usize,
    /// bytes of a request's head
    pub head_bytes: usize,
    /// time for a request, and again for its answer
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 16, head_bytes: 8 * 1024, time: Duration::from_secs(10) }
    }
}

/// Pause after an error of accept, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves a registry for as long as the future is polled.
pub async fn serve(listener: TcpListener, registry: Arc<Registry>, limits: Limits) {
    let room = Arc::new(Semaphore::new(limits.connections));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let registry = registry.clone();
                tokio::spawn(async move {
                    answer(stream, &registry, limits).await;
                    drop(permit);
                });
            }
            Err(e) => {
                tracing::warn!("metrics: cannot accept a connection: {e}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, registry: &Registry, limits: Limits) {
    let Ok(Some(head)) = timeout(limits.time, read_head(&mut stream, limits.head_bytes)).await else { return };
    let (status, allow, kind, body) = respond(&head, registry);
    let with_body = !head.starts_with(b"HEAD ");
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        body.len()
    );
    if with_body {
        response.push_str(&body);
    }
    let send = async {
        stream.write_all(response.as_bytes()).await?;
        stream.shutdown().await?;
        // What the client still sends is read: closing before would take the answer back.
        let mut rest = [0; 1024];
        let mut left = limits.head_bytes;
        while left > 0 {
            let n = stream.read(&mut rest).await?;
            if n == 0 {
                break;
            }
            left = left.saturating_sub(n);
        }
        Ok::<(), std::io::Error>(())
    };
    let _ = timeout(limits.time, send).await;
}

/// Reads up to the empty line; what comes after it is ignored. `None` if the stream ends before. A head that is too long is cut.
async fn read_head(stream: &mut (impl AsyncRead + Unpin), max: usize) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    loop {
        let n = stream.read(&mut part).await.ok()?;
        if n == 0 {
            return None;
        }
        head.extend_from_slice(&part[..n]);
        let from = head.len().saturating_sub(n + 3);
        if head[from..].windows(4).any(|w| w == b"\r\n\r\n") || head.windows(2).any(|w| w == b"\n\n") || head.len() > max {
            return Some(head);
        }
    }
}

const TEXT: &str = "text/plain";

fn respond(head: &[u8], registry: &Registry) -> (&'static str, &'static str, &'static str, String) {
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let (method, target, version) = (words.next(), words.next(), words.next());
    let whole = head.windows(4).any(|w| w == b"\r\n\r\n") || head.windows(2).any(|w| w == b"\n\n");
    if !whole {
        return ("431 Request Header Fields Too Large", "", TEXT, "request too large\n".into());
    }
    if !version.is_some_and(|v| v.starts_with("HTTP/1.")) || words.next().is_some() {
        return ("400 Bad Request", "", TEXT, "not an HTTP/1 request\n".into());
    }
    let path = target.map(|t| t.split('?').next().unwrap_or_default());
    match (method, path) {
        (Some("GET" | "HEAD"), Some("/metrics")) => ("200 OK", "", "text/plain; version=0.0.4", registry.expose()),
        (Some("GET" | "HEAD"), _) => ("404 Not Found", "", TEXT, "metrics are at /metrics\n".into()),
        _ => ("405 Method Not Allowed", "Allow: GET, HEAD\r\n", TEXT, "only GET and HEAD\n".into()),
    }
}

//! The admin server: HTTP/1.1, `GET` only, one request per connection.
//!
//! Invariant: so many connections at once, each with a bounded request and a deadline.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use super::{
    commands::{COMMANDS, answer},
    facts::now_ms,
    text::{MAX_BYTES, http_date},
};
use crate::{config::Admin, node::Node, server::Counters};

/// Connections at once.
const MAX_CONNECTIONS: usize = 16;
/// Head of a request, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// Time for a request and its answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Answers until the process ends. As in ZooKeeper, a port that is taken is a warning: clients are served nevertheless.
pub async fn serve(settings: Admin, node: Arc<Node>, counters: Arc<Counters>) {
    let address = format!("{}:{}", settings.address, settings.port);
    let listener = match TcpListener::bind((settings.address.as_str(), settings.port)).await {
        Ok(listener) => listener,
        Err(e) => return tracing::warn!("the admin server cannot listen on {address}: {e}"),
    };
    tracing::info!("the admin server listens on {address}{}", settings.url);
    let settings = Arc::new(settings);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (settings, node, counters) = (settings.clone(), node.clone(), counters.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let _ = timeout(DEADLINE, one(stream, &settings, &node, &counters)).await;
        });
    }
}

async fn one(mut stream: TcpStream, settings: &Admin, node: &Node, counters: &Counters) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head);
    let line = text.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, kind, body) = match method {
        "GET" | "HEAD" => respond(target, settings, node, counters),
        _ => ("405 Method Not Allowed", "text/plain", "only GET is supported\n".into()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nDate: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        http_date(now_ms()),
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

fn respond(target: &str, settings: &Admin, node: &Node, counters: &Counters) -> (&'static str, &'static str, String) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some(name) = path.strip_prefix(settings.url.as_str()).map(|rest| rest.trim_matches('/')) else {
        return ("404 Not Found", "text/plain", "not found\n".into());
    };
    if name.is_empty() {
        let link = |(name, _, _): &(&str, &[&str], bool)| format!("<a href=\"{}/{name}\">{name}</a>\n<br/>\n", settings.url);
        return ("200 OK", "text/html", COMMANDS.iter().map(link).collect());
    }
    let arguments: Vec<(String, String)> =
        query.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let body = serde_json::to_string_pretty(&answer(node, counters, name, &arguments)).unwrap_or_default();
    if body.len() > MAX_BYTES {
        return ("500 Internal Server Error", "text/plain", format!("the answer takes {} bytes, more than {MAX_BYTES}\n", body.len()));
    }
    ("200 OK", "application/json", body)
}

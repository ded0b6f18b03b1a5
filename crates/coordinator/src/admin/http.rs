//! The admin server and the metrics: HTTP/1.1, `GET` only, one request per connection.
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
    facts::{monitor, now_ms},
    text::{MAX_BYTES, http_date},
};
use crate::{
    config::{Admin, Metrics},
    node::Node,
    server::Counters,
};

/// Connections at once.
const MAX_CONNECTIONS: usize = 16;
/// Head of a request, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// Time for a request and its answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Status, type and body.
type Page = (&'static str, &'static str, String);

/// The admin server of ZooKeeper: `/commands/…`.
pub async fn serve_commands(settings: Admin, node: Arc<Node>, counters: Arc<Counters>) {
    let (address, port) = (settings.address.clone(), settings.port);
    serve("the admin server", &address, port, move |target| command(target, &settings, &node, &counters)).await;
}

/// What Prometheus asks for: `/metrics`, as ZooKeeper's PrometheusMetricsProvider names its gauges.
pub async fn serve_metrics(settings: Metrics, node: Arc<Node>, counters: Arc<Counters>) {
    let page = move |target: &str| match target.split('?').next() {
        Some("/metrics") => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics(&node, &counters)),
        _ => not_found(),
    };
    serve("the metrics server", &settings.address, settings.port, page).await;
}

fn metrics(node: &Node, counters: &Counters) -> String {
    let numbers = monitor(node, counters).into_iter().filter(|(_, value)| value.is_number());
    numbers.map(|(key, value)| format!("# HELP {key} {key}\n# TYPE {key} gauge\n{key} {value}\n")).collect()
}

/// Answers until the process ends. As in ZooKeeper, a port that is taken is a warning: clients are served nevertheless.
async fn serve(what: &str, address: &str, port: u16, page: impl Fn(&str) -> Page + Send + Sync + 'static) {
    let listener = match TcpListener::bind((address, port)).await {
        Ok(listener) => listener,
        Err(e) => return tracing::warn!("{what} cannot listen on {address}:{port}: {e}"),
    };
    tracing::info!("{what} listens on {address}:{port}");
    let page = Arc::new(page);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let page = page.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let _ = timeout(DEADLINE, one(stream, &*page)).await;
        });
    }
}

async fn one(mut stream: TcpStream, page: &(impl Fn(&str) -> Page + Sync)) -> io::Result<()> {
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
        "GET" | "HEAD" => page(target),
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

fn not_found() -> Page {
    ("404 Not Found", "text/plain", "not found\n".into())
}

fn command(target: &str, settings: &Admin, node: &Node, counters: &Counters) -> Page {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some(name) = path.strip_prefix(settings.url.as_str()).map(|rest| rest.trim_matches('/')) else {
        return not_found();
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

//! What a broker exposes to Prometheus.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

/// The text of `GET /metrics`; `None` while nothing listens.
pub fn scrape(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    Some(body.to_owned())
}

/// The value of a series, by its name with labels.
pub fn value(port: u16, series: &str) -> Option<f64> {
    let text = scrape(port)?;
    text.lines().find_map(|l| l.strip_prefix(&format!("{series} ")).map(|v| v.parse().unwrap()))
}

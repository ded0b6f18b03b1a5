//! Calls to AWS go where `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{cloud::Cloud, cluster::Cluster, harness::Ran};

const LIMIT: Duration = Duration::from_secs(60);

/// A proxy that hands plain requests on, refuses tunnels, and keeps first lines.
struct Proxy {
    url: String,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let log = lines.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = log.clone();
                std::thread::spawn(move || serve(&stream, &log));
            }
        });
        Self { url, lines }
    }

    fn lines(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap())
    }
}

/// One request, and the end of the connection.
fn serve(client: &TcpStream, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(client);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(n) if n > 0 && line != "\r\n" => head.push(line.trim_end().to_owned()),
            _ => break,
        }
    }
    let Some(first) = head.first() else { return };
    log.lock().unwrap().push(first.clone());
    let mut client = client;
    let parts: Vec<&str> = first.split(' ').collect();
    let Some(rest) = parts.get(1).and_then(|u| u.strip_prefix("http://")) else {
        let _ = client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let length = head.iter().find_map(|l| l.to_lowercase().strip_prefix("content-length: ").and_then(|n| n.parse().ok())).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let kept: Vec<String> = head[1..].iter().filter(|l| !l.to_lowercase().starts_with("connection:")).cloned().collect();
    let mut server = TcpStream::connect(authority).unwrap();
    write!(server, "{} /{path} HTTP/1.1\r\n{}\r\nConnection: close\r\n\r\n", parts[0], kept.join("\r\n")).unwrap();
    server.write_all(&body).unwrap();
    let _ = std::io::copy(&mut server, &mut client);
}

/// Runs septet with these variables and no others about proxies.
fn run(cluster: &Cluster, variables: &[(&str, &str)]) -> Ran {
    let mut command = cluster.command(&["plan"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.envs(variables.iter().copied());
    Ran::of(command, "", LIMIT)
}

#[test]
fn proxies_are_obeyed() {
    let Some(cloud) = Cloud::new("proxies_are_obeyed") else { return };
    let cluster = Cluster::new(&cloud, "proxied");
    let proxy = Proxy::new();
    // All that is asked goes through it, and comes back.
    run(&cluster, &[("HTTP_PROXY", &proxy.url)]).code(0);
    let lines = proxy.lines();
    assert!(lines.len() > 3 && lines.iter().all(|l| l.starts_with(&format!("POST {}", cloud.endpoint))), "{lines:?}");
    // Except to what is left out; a proxy for other servers is not asked either.
    run(&cluster, &[("HTTP_PROXY", &proxy.url), ("NO_PROXY", "127.0.0.1")]).code(0);
    run(&cluster, &[("HTTPS_PROXY", &proxy.url)]).code(0);
    assert_eq!(proxy.lines(), Vec::<String>::new());
    // AWS's own servers, by a tunnel; no name is looked up here.
    cluster.unset("endpoint_url");
    let ran = run(&cluster, &[("https_proxy", &proxy.url)]).code(1);
    ran.says(&["hint: check the network and the endpoint", "the proxy in https_proxy"]);
    let lines = proxy.lines();
    assert!(!lines.is_empty() && lines.iter().all(|l| l.starts_with("CONNECT ec2.us-east-1.amazonaws.com:443 ")), "{lines:?}");
}

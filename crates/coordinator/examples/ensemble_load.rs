//! A raw client for `scripts/bench-coordinator`: it takes next to no CPU itself, so that what is measured is the servers.
//!
//! PORTS are those of all servers, with commas. `ensemble_load wait PORTS`: until one leads and the others follow. `ensemble_load leader PORTS`: prints which
//! leads, counted from 1. `ensemble_load create PORTS COUNT ROOT`: COUNT znodes of 100 bytes below ROOT, 1000 on their way on one connection; prints how
//! many a second. `ensemble_load write PORTS CLIENTS SECONDS`: each client sets a znode of its own, again and again; prints writes a second, p50
//! and p99 in milliseconds. `ensemble_load read PORTS CLIENTS SECONDS`: the same with 16 reads on their way; prints reads a second. `ensemble_load mixed PORTS
//! SECONDS`: writes and reads in turn, 100 on their way on one connection; prints requests a second. `ensemble_load gap PORTS SECONDS`: a client for each server
//! writes, and goes to another when it is lost; prints the longest time between two acknowledged writes, in milliseconds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::VecDeque,
    io::{self, BufReader, Read, Write},
    net::TcpStream,
    sync::Mutex,
    time::{Duration, Instant},
};

const CREATE: i32 = 1;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;
const NODE_EXISTS: i32 = -110;
const SESSION_MS: i32 = 30_000;

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as i32).to_be_bytes());
    out.extend(bytes);
}

fn create(path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    string(&mut out, path.as_bytes());
    string(&mut out, &[b'x'; 100]);
    for n in [1i32, 31] {
        out.extend(n.to_be_bytes());
    }
    string(&mut out, b"world");
    string(&mut out, b"anyone");
    out.extend(0i32.to_be_bytes());
    out
}

fn set(path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    string(&mut out, path.as_bytes());
    string(&mut out, &[b'y'; 100]);
    out.extend((-1i32).to_be_bytes());
    out
}

fn get(path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    string(&mut out, path.as_bytes());
    out.push(0);
    out
}

struct Client {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    xid: i32,
}

impl Client {
    fn open(port: u16, patience: Duration) -> io::Result<Self> {
        let writer = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), patience)?;
        writer.set_nodelay(true)?;
        writer.set_read_timeout(Some(patience))?;
        let mut this = Self { reader: BufReader::new(writer.try_clone()?), writer, xid: 0 };
        let mut hello = Vec::new();
        hello.extend(0i32.to_be_bytes());
        hello.extend(0i64.to_be_bytes());
        hello.extend(SESSION_MS.to_be_bytes());
        hello.extend(0i64.to_be_bytes());
        string(&mut hello, &[0; 16]);
        let mut frame = Vec::new();
        string(&mut frame, &hello);
        this.writer.write_all(&frame)?;
        this.frame()?;
        Ok(this)
    }

    /// A client of a server that may still look for its leader.
    fn new(port: u16) -> Self {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match Self::open(port, Duration::from_secs(60)) {
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
                opened => return opened.unwrap(),
            }
        }
    }

    fn frame(&mut self) -> io::Result<Vec<u8>> {
        let mut head = [0; 4];
        self.reader.read_exact(&mut head)?;
        let mut body = vec![0; u32::from_be_bytes(head) as usize];
        self.reader.read_exact(&mut body)?;
        Ok(body)
    }

    /// Adds a request to those that are to be sent.
    fn add(&mut self, out: &mut Vec<u8>, op: i32, body: &[u8]) {
        self.xid += 1;
        let all = [&self.xid.to_be_bytes()[..], &op.to_be_bytes(), body].concat();
        string(out, &all);
    }

    /// The next answer's error code.
    fn answer(&mut self) -> io::Result<i32> {
        let frame = self.frame()?;
        Ok(i32::from_be_bytes(frame[12..16].try_into().unwrap()))
    }

    fn call(&mut self, op: i32, body: &[u8]) -> io::Result<i32> {
        let mut out = Vec::new();
        self.add(&mut out, op, body);
        self.writer.write_all(&out)?;
        self.answer()
    }

    fn made(&mut self, path: &str) {
        let code = self.call(CREATE, &create(path)).unwrap();
        assert!(code == 0 || code == NODE_EXISTS, "{path}: {code}");
    }
}

/// Keeps `window` requests on their way until `next` has no more; counts the answers.
fn stream(client: &mut Client, window: usize, mut next: impl FnMut() -> Option<(i32, Vec<u8>)>) -> usize {
    let (mut on_their_way, mut answered, mut more) = (0usize, 0usize, true);
    loop {
        let mut out = Vec::new();
        while more && on_their_way < window {
            match next() {
                Some((op, body)) => {
                    client.add(&mut out, op, &body);
                    on_their_way += 1;
                }
                None => more = false,
            }
        }
        client.writer.write_all(&out).unwrap();
        if on_their_way == 0 {
            return answered;
        }
        // A part of the window at a time, so that requests go out together as they do from a client with a queue.
        for _ in 0..on_their_way.min(window.div_ceil(4)) {
            assert_eq!(client.answer().unwrap(), 0);
            on_their_way -= 1;
            answered += 1;
        }
    }
}

fn mode(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_millis(500)).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    stream.write_all(b"srvr").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.lines().find_map(|l| l.strip_prefix("Mode: ")).map(str::to_owned)
}

fn wait(ports: &[u16]) {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let modes: Vec<_> = ports.iter().filter_map(|p| mode(*p)).collect();
        let leads = modes.iter().any(|m| m == "leader" || m == "standalone");
        if modes.len() == ports.len() && leads {
            return;
        }
        assert!(Instant::now() < end, "no ensemble within 120 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn leader(ports: &[u16]) -> usize {
    wait(ports);
    ports.iter().position(|p| mode(*p).is_some_and(|m| m != "follower")).unwrap() + 1
}

fn create_many(ports: &[u16], count: usize, root: &str) {
    let mut client = Client::new(ports[0]);
    client.made(root);
    let begun = Instant::now();
    let mut i = 0;
    let done = stream(&mut client, 1000, || {
        i += 1;
        (i <= count).then(|| (CREATE, create(&format!("{root}/n{i:09}"))))
    });
    println!("{:.0}", done as f64 / begun.elapsed().as_secs_f64());
}

fn on_clients(ports: &[u16], clients: usize, work: impl Fn(&mut Client, &str) -> Vec<Duration> + Sync) -> (f64, Vec<Duration>) {
    Client::new(ports[0]).made("/load");
    let mut all: Vec<(Client, String)> = (0..clients).map(|i| (Client::new(ports[i % ports.len()]), format!("/load/c{i}"))).collect();
    all.iter_mut().for_each(|(client, path)| client.made(path));
    let begun = Instant::now();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = all.iter_mut().map(|(client, path)| scope.spawn(move || work(client, path))).collect();
        running.into_iter().flat_map(|r| r.join().unwrap()).collect()
    });
    let seconds = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    (seconds, times)
}

fn write(ports: &[u16], clients: usize, time: Duration) {
    let (seconds, times) = on_clients(ports, clients, |client, path| {
        let (end, body, mut times) = (Instant::now() + time, set(path), Vec::new());
        while Instant::now() < end {
            let sent = Instant::now();
            assert_eq!(client.call(SET_DATA, &body).unwrap(), 0);
            times.push(sent.elapsed());
        }
        times
    });
    let of = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    println!("{:.0} {:.2} {:.2}", times.len() as f64 / seconds, of(50), of(99));
}

fn read(ports: &[u16], clients: usize, time: Duration) {
    let (seconds, times) = on_clients(ports, clients, |client, path| {
        let end = Instant::now() + time;
        let done = stream(client, 16, || (Instant::now() < end).then(|| (GET_DATA, get(path))));
        vec![Duration::ZERO; done]
    });
    println!("{:.0}", times.len() as f64 / seconds);
}

fn mixed(ports: &[u16], time: Duration) {
    let (seconds, times) = on_clients(ports, 1, |client, path| {
        let (end, mut n) = (Instant::now() + time, 0);
        let done = stream(client, 100, || {
            n += 1;
            let request = if n % 2 == 0 { (GET_DATA, get(path)) } else { (SET_DATA, set(path)) };
            (Instant::now() < end).then_some(request)
        });
        vec![Duration::ZERO; done]
    });
    println!("{:.0}", times.len() as f64 / seconds);
}

fn gap(ports: &[u16], time: Duration) {
    let patience = Duration::from_secs(15);
    Client::new(ports[0]).made("/gap");
    let begun = Instant::now();
    let end = begun + time;
    let acknowledged = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for i in 0..ports.len() {
            let acknowledged = &acknowledged;
            scope.spawn(move || {
                let mut at: VecDeque<u16> = ports.iter().copied().cycle().skip(i).take(ports.len()).collect();
                while Instant::now() < end {
                    let Ok(mut client) = Client::open(at[0], patience) else {
                        at.rotate_left(1);
                        std::thread::sleep(Duration::from_millis(5));
                        continue;
                    };
                    while Instant::now() < end && client.call(SET_DATA, &set("/gap")).is_ok_and(|code| code == 0) {
                        acknowledged.lock().unwrap().push(Instant::now());
                    }
                }
            });
        }
    });
    // A pause that lasts to the end counts as far as it was seen.
    let mut all = acknowledged.into_inner().unwrap();
    all.extend([begun, end]);
    all.sort_unstable();
    let longest = all.windows(2).map(|w| w[1] - w[0]).max().unwrap_or_default();
    println!("{:.0}", longest.as_secs_f64() * 1e3);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ports: Vec<u16> = words.get(1).unwrap_or(&"").split(',').filter_map(|p| p.parse().ok()).collect();
    let seconds = |text: &str| Duration::from_secs(text.parse().unwrap());
    match words[..] {
        ["wait", _] => wait(&ports),
        ["leader", _] => println!("{}", leader(&ports)),
        ["create", _, count, root] => create_many(&ports, count.parse().unwrap(), root),
        ["write", _, clients, time] => write(&ports, clients.parse().unwrap(), seconds(time)),
        ["read", _, clients, time] => read(&ports, clients.parse().unwrap(), seconds(time)),
        ["mixed", _, time] => mixed(&ports, seconds(time)),
        ["gap", _, time] => gap(&ports, seconds(time)),
        _ => {
            eprintln!("ensemble_load wait|leader|create|write|read|mixed|gap: see its source");
            std::process::exit(2);
        }
    }
}

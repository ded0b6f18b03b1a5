//! A network that can be cut between brokers, coordinators and clients, in one direction or both: every server is reached through
//! a gate, a TCP proxy that knows which servers a connection joins.
//!
//! What is sent over a cut waits, as TCP keeps it, and arrives when the cut is mended; the same holds for the end of a connection. Or it
//! is lost with the connection, as after a cut that lasts for longer than TCP tries.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// Places: clients 0, brokers 1 to 3, coordinators 4 to 6.
pub const PLACES: usize = 7;
const PAUSE: Duration = Duration::from_millis(5);

/// Which ways are cut.
#[derive(Default)]
pub struct Network {
    blocked: [[AtomicBool; PLACES]; PLACES],
    /// what waits is lost with its connection
    lossy: AtomicBool,
    ended: AtomicBool,
}

impl Network {
    pub fn set(&self, from: usize, to: usize, blocked: bool) {
        self.blocked[from][to].store(blocked, Ordering::SeqCst);
    }

    /// Mends all cuts. What waits arrives, or is lost.
    pub fn heal(&self, lose: bool) {
        self.lossy.store(lose, Ordering::SeqCst);
        self.blocked.iter().flatten().for_each(|b| b.store(false, Ordering::SeqCst));
    }

    /// Waits for as long as a way is cut; `false` if what waited is lost.
    fn wait(&self, from: usize, to: usize) -> bool {
        let mut waited = false;
        while self.blocked[from][to].load(Ordering::SeqCst) && !self.ended.load(Ordering::SeqCst) {
            waited = true;
            thread::sleep(PAUSE);
        }
        !(waited && self.lossy.load(Ordering::SeqCst))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.network.ended.store(true, Ordering::SeqCst);
    }
}

/// A place where one server is reached.
pub struct Gate {
    pub port: u16,
    network: Arc<Network>,
    open: Arc<AtomicBool>,
}

/// The number in the client id of a broker's request: `broker-2`, `broker-2-fetcher-0`, `controller-2`.
fn broker_of(first: &[u8]) -> Option<usize> {
    let length = usize::from(u16::from_be_bytes([*first.get(12)?, *first.get(13)?]));
    let id = std::str::from_utf8(first.get(14..14 + length)?).ok()?;
    let number = id.strip_prefix("broker-").or_else(|| id.strip_prefix("controller-"))?;
    number.split('-').next()?.parse().ok()
}

struct Way {
    network: Arc<Network>,
    source: Arc<AtomicUsize>,
    target: usize,
    /// from the server to the one that connected
    back: bool,
    learn: bool,
}

impl Way {
    fn wait(&self) -> bool {
        let source = self.source.load(Ordering::SeqCst);
        let (from, to) = if self.back { (self.target, source) } else { (source, self.target) };
        self.network.wait(from, to)
    }

    fn pump(mut self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 16 * 1024];
        let mut first = Vec::new();
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if self.learn {
                first.extend_from_slice(&buffer[..n]);
                let length = first.get(12..14).map(|l| 14 + usize::from(u16::from_be_bytes([l[0], l[1]])));
                if length.is_some_and(|l| first.len() >= l) {
                    self.learn = false;
                    self.source.store(broker_of(&first).filter(|b| *b < 4).unwrap_or(0), Ordering::SeqCst);
                }
            }
            if !self.wait() || to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        self.wait();
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}

impl Gate {
    /// A gate to the server at a place. Without a source, that is taken from the first request of each connection.
    pub fn new(network: &Arc<Network>, source: Option<usize>, target: usize, target_port: u16) -> Self {
        let port = super::processes::free_port();
        let open = Arc::new(AtomicBool::new(true));
        let this = Self { port, network: network.clone(), open: open.clone() };
        let network = network.clone();
        thread::spawn(move || {
            let mut listener: Option<TcpListener> = None;
            while !network.ended.load(Ordering::SeqCst) {
                if !open.load(Ordering::SeqCst) {
                    listener = None;
                    thread::sleep(PAUSE);
                    continue;
                }
                if listener.is_none() {
                    listener = TcpListener::bind(("127.0.0.1", port)).ok();
                    if let Some(l) = &listener {
                        l.set_nonblocking(true).unwrap();
                    }
                }
                let Some(Ok((from, _))) = listener.as_ref().map(TcpListener::accept) else {
                    thread::sleep(PAUSE);
                    continue;
                };
                let Ok(to) = TcpStream::connect(("127.0.0.1", target_port)) else { continue };
                from.set_nonblocking(false).unwrap();
                let (Ok(from_2), Ok(to_2)) = (from.try_clone(), to.try_clone()) else { continue };
                for s in [&from, &to] {
                    let _ = s.set_nodelay(true);
                }
                let from_place = Arc::new(AtomicUsize::new(source.unwrap_or(0)));
                let way =
                    |back| Way { network: network.clone(), source: from_place.clone(), target, back, learn: !back && source.is_none() };
                let (there, back) = (way(false), way(true));
                thread::spawn(move || there.pump(from, to));
                thread::spawn(move || back.pump(to_2, from_2));
            }
        });
        this
    }

    /// Refuses connections, as a machine does where nothing listens, or takes them again.
    pub fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
    }
}

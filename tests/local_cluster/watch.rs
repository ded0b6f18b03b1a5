//! Watches from outside which coordinators and brokers answer, while something goes on.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// ApiVersions, version 0, correlation id 1, no client id.
const API_VERSIONS: &[u8] = &[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
const PAUSE: Duration = Duration::from_millis(20);

/// Whether anything at all comes back. A published port accepts whether or not somebody is behind it.
fn answers(to: SocketAddr, question: &[u8]) -> bool {
    let limit = Duration::from_secs(2);
    let ask = || {
        let mut s = TcpStream::connect_timeout(&to, limit)?;
        s.set_read_timeout(Some(limit))?;
        s.write_all(question)?;
        s.read(&mut [0; 64])
    };
    ask().is_ok_and(|n| n > 0)
}

/// When a server was certainly down: from the end of the first question without an answer to the beginning of the
/// last one in a row. One question alone proves nothing.
type Outage = (Instant, Instant);

struct Target {
    name: String,
    thread: JoinHandle<Vec<Outage>>,
}

/// Asks each server again and again.
pub struct Watch {
    stop: Arc<AtomicBool>,
    coordinators: Vec<Target>,
    brokers: Vec<Target>,
}

impl Watch {
    /// Begins; takes the two lists of `septet endpoints`. Kafka's own controllers are in no such list, they may stand in the second.
    pub fn start(bootstrap: &str, keepers: &str) -> Self {
        let of_keepers: &[u8] = if keepers.contains(":9093") { API_VERSIONS } else { b"srvr" };
        let stop = Arc::new(AtomicBool::new(false));
        let all = |list: &str, question: &'static [u8]| {
            list.split(',')
                .map(|at| {
                    let (stop, to) = (stop.clone(), at.parse::<SocketAddr>().unwrap());
                    Target { name: at.to_owned(), thread: std::thread::spawn(move || watch(to, question, &stop)) }
                })
                .collect()
        };
        let (coordinators, brokers) = (all(keepers, of_keepers), all(bootstrap, API_VERSIONS));
        Self { stop, coordinators, brokers }
    }

    /// Ends, and insists that no two of a kind were down at the same time.
    #[track_caller]
    pub fn never_two_at_once(self) {
        self.stop.store(true, Ordering::SeqCst);
        for targets in [self.coordinators, self.brokers] {
            let all: Vec<(String, Vec<Outage>)> = targets.into_iter().map(|t| (t.name, t.thread.join().unwrap())).collect();
            for (i, (name, mine)) in all.iter().enumerate() {
                for (other, theirs) in &all[i + 1..] {
                    for (a, b) in mine.iter().flat_map(|a| theirs.iter().map(move |b| (a, b))) {
                        let together = a.1.min(b.1).checked_duration_since(a.0.max(b.0));
                        assert_eq!(together, None, "{name} and {other} were down together");
                    }
                }
            }
            eprintln!("outages seen: {:?}", all.iter().map(|(n, o)| (n, o.len())).collect::<Vec<_>>());
        }
    }
}

fn watch(to: SocketAddr, question: &[u8], stop: &AtomicBool) -> Vec<Outage> {
    let mut outages: Vec<Outage> = Vec::new();
    let mut first_failed = None;
    while !stop.load(Ordering::SeqCst) {
        let asked = Instant::now();
        if answers(to, question) {
            first_failed = None;
        } else {
            match first_failed {
                None => first_failed = Some(Instant::now()),
                Some(from) => match outages.last_mut() {
                    Some(o) if o.0 == from => o.1 = asked,
                    _ => outages.push((from, asked)),
                },
            }
        }
        std::thread::sleep(PAUSE);
    }
    outages
}

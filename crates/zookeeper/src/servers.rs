//! The list of servers: its text, the order in which they are tried, and the pauses between rounds.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use crate::{error::Error, path::Root};

/// Port of a server without one.
const DEFAULT_PORT: u16 = 2181;

/// Pauses after rounds in which no server served.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A small generator (SplitMix64): for orders and jitter, not for secrets.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A seed of the process's own randomness.
    pub fn new() -> Self {
        Self(RandomState::new().hash_one(0))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Servers in the order in which they are tried. A round ends when each was tried without one serving.
#[derive(Debug)]
pub struct Servers {
    list: Vec<(String, u16)>,
    next: usize,
    tried: usize,
    pause: Duration,
    random: Random,
}

impl Servers {
    /// Reads `host:port,host:port/root`; a literal IPv6 address is in brackets.
    pub fn parse(text: &str, mut random: Random) -> Result<(Self, Root), Error> {
        let (servers, root) = text.split_at(text.find('/').unwrap_or(text.len()));
        let root = if root.is_empty() { Root::default() } else { Root::default().join(root)? };
        let mut list = Vec::new();
        for one in servers.split(',').map(str::trim).filter(|s| !s.is_empty()) {
            list.push(parse_one(one).ok_or(Error::BadArguments("servers must be host:port, separated by commas"))?);
        }
        if list.is_empty() {
            return Err(Error::BadArguments("no servers are given"));
        }
        for i in (1..list.len()).rev() {
            list.swap(i, (random.next() % (i as u64 + 1)) as usize);
        }
        Ok((Self { list, next: 0, tried: 0, pause: FIRST_PAUSE, random }, root))
    }

    /// Number of servers.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The next server to try.
    pub fn next(&mut self) -> (String, u16) {
        let server = self.list[self.next].clone();
        self.next = (self.next + 1) % self.list.len();
        self.tried += 1;
        server
    }

    /// After an attempt failed: the pause before the next round, if a round has ended.
    pub fn failed(&mut self) -> Option<Duration> {
        if self.tried < self.list.len() {
            return None;
        }
        self.tried = 0;
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        // Half to all of it, so that clients that lost the same server do not come back together.
        Some(pause / 2 + pause.mul_f64((self.random.next() % 1000) as f64 / 2000.0))
    }

    /// A server served: it has answered a request or a ping.
    pub fn served(&mut self) {
        self.tried = 0;
        self.pause = FIRST_PAUSE;
    }
}

fn parse_one(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']')?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(DEFAULT_PORT), |p| p.parse().ok().filter(|p| *p > 0))?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let parse = |text: &str| {
            Servers::parse(text, Random(7)).map(|(mut s, root)| {
                s.list.sort();
                (s.list, root.as_str().to_owned())
            })
        };
        let server = |host: &str, port| (host.to_owned(), port);
        assert_eq!(parse("a:1, b:2 ,c"), Ok((vec![server("a", 1), server("b", 2), server("c", 2181)], "/".into())));
        assert_eq!(parse("[::1]:5,[fe80::2]/kafka/x"), Ok((vec![server("::1", 5), server("fe80::2", 2181)], "/kafka/x".into())));
        assert_eq!(parse("a:1/"), parse("a:1"));
        for bad in ["", ",", "a:0", "a:x", ":1", "::1", "[::1", "[::1]5", "a:1/b//c", "/kafka"] {
            assert!(matches!(parse(bad), Err(Error::BadArguments(_))), "{bad:?}");
        }
    }

    #[test]
    fn each_server_is_tried_before_a_pause_and_pauses_grow_to_a_second() {
        let (mut servers, _) = Servers::parse("a:1,b:2,c:3", Random(7)).unwrap();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let mut seen: Vec<_> = (0..3)
                .map(|i| {
                    let server = servers.next().0;
                    let pause = servers.failed();
                    assert_eq!(pause.is_some(), i == 2);
                    pauses.extend(pause);
                    server
                })
                .collect();
            seen.sort();
            assert_eq!(seen, ["a", "b", "c"]);
        }
        for (i, pause) in pauses.iter().enumerate() {
            let longest = Duration::from_millis(100 << i).min(LONGEST_PAUSE);
            assert!(*pause >= longest / 2 && *pause <= longest, "{i}: {pause:?}");
        }
        servers.served();
        servers.next();
        assert_eq!(servers.failed(), None);
    }

    #[test]
    fn orders_differ() {
        let firsts: std::collections::BTreeSet<_> =
            (0..64).map(|seed| Servers::parse("a:1,b:2,c:3", Random(seed)).unwrap().0.next()).collect();
        assert_eq!(firsts.len(), 3);
    }
}

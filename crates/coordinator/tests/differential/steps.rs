//! Random requests by seed: what a client could send, and some that none should.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use septet_coordinator::{jute::Writer, protocol::op};

/// A step of one of the clients.
#[derive(Clone)]
pub enum Step {
    /// operation and body
    Ask(i32, Vec<u8>),
    /// the session ends, and another begins
    Renew,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Ask(code, body) => write!(f, "operation {code} with {}", body.escape_ascii()),
            Step::Renew => write!(f, "a new session"),
        }
    }
}

pub const CLIENTS: usize = 3;

pub struct Steps {
    rng: StdRng,
    root: String,
}

const DIGEST: &str = "bob:xyz";

impl Steps {
    pub fn new(seed: u64, root: &str) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), root: root.into() }
    }

    fn path(&mut self) -> String {
        let depth = [1, 1, 1, 2, 2, 3].choose(&mut self.rng).copied().unwrap();
        let mut path = self.root.clone();
        (0..depth).for_each(|_| {
            path.push('/');
            path.push(*[b'a', b'b', b'c'].choose(&mut self.rng).unwrap() as char);
        });
        path
    }

    /// Mostly a good path.
    fn any_path(&mut self) -> String {
        let good = self.path();
        match self.rng.random_range(0..40) {
            0 => format!("{good}/"),
            1 => format!("{good}//a"),
            2 => format!("{good}/./a"),
            3 => format!("{good}\0"),
            4 => good[1..].to_owned(),
            5 => self.root.clone(),
            6 => "/zookeeper/config".into(),
            7 => String::new(),
            8 => format!("{good}/\u{fff0}"),
            _ => good,
        }
    }

    fn data(&mut self, w: &mut Writer) {
        match self.rng.random_range(0..6) {
            0 => w.nullable(None),
            1 => w.buffer(&[]),
            n => w.buffer(&vec![n; n as usize]),
        };
    }

    fn acl(&mut self, w: &mut Writer) {
        let all: &[(i32, &str, &str)] = match self.rng.random_range(0..24) {
            0 => &[],
            1 => &[(31, "auth", "")],
            2 => &[(1, "world", "anyone")],
            3 => &[(31, "digest", DIGEST), (1, "world", "anyone")],
            4 => &[(31, "ip", "127.0.0.0/8")],
            5 => &[(31, "ip", "10.0.0.0/8"), (2, "world", "anyone")],
            6 => &[(31, "x509", "CN=me")],
            7 => &[(31, "digest", "no-colon")],
            8 => &[(0, "world", "anyone")],
            9 => &[(15, "world", "anyone"), (15, "world", "anyone"), (16, "auth", "")],
            10 => &[(31, "ip", "::1")],
            11 => &[(31, "world", "me")],
            12 => &[(27, "world", "anyone")],
            _ => &[(31, "world", "anyone")],
        };
        w.int(all.len() as i32);
        all.iter().for_each(|(perms, scheme, id)| {
            w.int(*perms).string(scheme).string(id);
        });
    }

    fn version(&mut self) -> i32 {
        [-1, -1, -1, 0, 1, 2].choose(&mut self.rng).copied().unwrap()
    }

    /// A change; in a multi only what decodes there.
    fn change(&mut self, in_multi: bool) -> (i32, Writer) {
        let mut w = Writer::default();
        let path = self.any_path();
        let code = match self.rng.random_range(0..12) {
            0..=4 => [op::CREATE, op::CREATE, op::CREATE2, op::CREATE_CONTAINER].choose(&mut self.rng).copied().unwrap(),
            5 => op::CREATE_TTL,
            6 | 7 => op::DELETE,
            8 | 9 => op::SET_DATA,
            10 if in_multi => op::CHECK,
            10 => op::SET_ACL,
            _ => op::DELETE,
        };
        w.string(&path);
        match code {
            op::CREATE | op::CREATE2 | op::CREATE_CONTAINER => {
                self.data(&mut w);
                self.acl(&mut w);
                let flags = if code == op::CREATE_CONTAINER { &[4][..] } else { &[0, 0, 0, 0, 1, 1, 2, 3, 5, 9] };
                w.int(*flags.choose(&mut self.rng).unwrap());
            }
            op::CREATE_TTL => {
                self.data(&mut w);
                self.acl(&mut w);
                let ttl = [1, 100_000, 100_000, 0, -1, 1 << 40, (1 << 40) - 1].choose(&mut self.rng).copied().unwrap();
                w.int(*[5, 6].choose(&mut self.rng).unwrap()).long(ttl);
            }
            op::SET_DATA => {
                self.data(&mut w);
                w.int(self.version());
            }
            op::SET_ACL => {
                self.acl(&mut w);
                w.int(self.version());
            }
            _ => {
                w.int(self.version());
            }
        }
        (code, w)
    }

    fn many(&mut self, max: usize, mut one: impl FnMut(&mut Self) -> (i32, Writer)) -> Writer {
        let mut w = Writer::default();
        for _ in 0..self.rng.random_range(0..=max) {
            let (code, body) = one(self);
            w.int(code).bool(false).int(-1).0.extend(body.0);
        }
        w.int(-1).bool(true).int(-1);
        w
    }

    fn quota(&mut self) -> (i32, Writer) {
        let mut w = Writer::default();
        let node = self.path();
        let name = *["", "/zookeeper_limits", "/zookeeper_stats"].choose(&mut self.rng).unwrap();
        let path = format!("/zookeeper/quota{node}{name}");
        if self.rng.random_range(0..4) == 0 {
            w.string(&path).int(-1);
            return (op::DELETE, w);
        }
        let data = *["count=5,bytes=10", "count=1,bytes=-1=;byteHardLimit=3;countHardLimit=2"].choose(&mut self.rng).unwrap();
        w.string(&path).buffer(data.as_bytes()).int(1).int(31).string("world").string("anyone").int(0);
        (op::CREATE, w)
    }

    fn read(&mut self, client: usize) -> (i32, Writer) {
        let mut w = Writer::default();
        let path =
            if self.rng.random_range(0..6) == 0 { format!("/zookeeper/quota{}/zookeeper_stats", self.path()) } else { self.any_path() };
        // In 3.8 a standard watch takes the place of a persistent one on the same path: one client has these, others those.
        let watch = client != 2 && self.rng.random();
        let code = match self.rng.random_range(0..12) {
            0 | 1 => op::EXISTS,
            2 | 3 => op::GET_DATA,
            4 => op::GET_CHILDREN,
            5 => op::GET_CHILDREN2,
            6 => op::GET_ACL,
            7 => op::GET_ALL_CHILDREN_NUMBER,
            8 => op::GET_EPHEMERALS,
            9 => op::WHO_AM_I,
            10 => op::SYNC,
            _ => {
                return (
                    op::MULTI_READ,
                    self.many(3, |this| {
                        let mut w = Writer::default();
                        w.string(&this.any_path()).bool(false);
                        (if this.rng.random() { op::GET_DATA } else { op::GET_CHILDREN }, w)
                    }),
                );
            }
        };
        match code {
            op::EXISTS | op::GET_DATA | op::GET_CHILDREN | op::GET_CHILDREN2 => w.string(&path).bool(watch),
            op::WHO_AM_I => &mut w,
            _ => w.string(&path),
        };
        (code, w)
    }

    fn watches(&mut self, client: usize) -> (i32, Writer) {
        let mut w = Writer::default();
        let path = self.path();
        if self.rng.random_range(0..3) == 0 {
            w.string(&path).int(self.rng.random_range(1..5));
            return (op::REMOVE_WATCHES, w);
        }
        // One mode for a path, for the same reason as above.
        let mode = i32::from(path.ends_with('a'));
        if client == 2 {
            if self.rng.random() {
                w.string(&path).int(mode);
                return (op::ADD_WATCH, w);
            }
            w.long(0).int(0).int(0).int(0);
            [0, 1].into_iter().for_each(|m| {
                w.int(i32::from(m == mode));
                if m == mode {
                    w.string(&path);
                }
            });
            return (op::SET_WATCHES2, w);
        }
        // Since the beginning or since never: what lies between depends on the server.
        w.long(*[0, i64::MAX].choose(&mut self.rng).unwrap());
        for _ in 0..3 {
            let paths: Vec<String> = (0..self.rng.random_range(0..3)).map(|_| self.path()).collect();
            w.int(paths.len() as i32);
            paths.iter().for_each(|p| {
                w.string(p);
            });
        }
        (op::SET_WATCHES, w)
    }

    fn odd(&mut self) -> (i32, Writer) {
        let mut w = Writer::default();
        let code = match self.rng.random_range(0..9) {
            0 => 77,
            1 => op::SASL,
            2 => op::RECONFIG,
            3 => op::AUTH,
            _ => {
                // Cut somewhere.
                let (code, mut body) = if self.rng.random() { self.change(false) } else { self.read(0) };
                let n = self.rng.random_range(0..=body.0.len());
                body.0.truncate(n);
                return (if code == op::WHO_AM_I || code == op::SYNC { op::EXISTS } else { code }, body);
            }
        };
        match code {
            op::SASL => w.int(0),
            op::RECONFIG => w.string("").string("").string("").long(-1),
            op::AUTH => w.int(0).string("kerberos").buffer(b"x"),
            _ => &mut w,
        };
        (code, w)
    }

    fn auth(&mut self) -> (i32, Writer) {
        let mut w = Writer::default();
        let (scheme, credentials) =
            *[("digest", "ann:1"), ("digest", "bob:2"), ("ip", ""), ("digest", "super:test")].choose(&mut self.rng).unwrap();
        w.int(0).string(scheme).buffer(credentials.as_bytes());
        (op::AUTH, w)
    }

    /// The next step, and whose it is.
    pub fn next(&mut self) -> (usize, Step) {
        let client = self.rng.random_range(0..CLIENTS);
        let (code, body) = match self.rng.random_range(0..100) {
            0..=41 => self.change(false),
            42..=51 => (op::MULTI, self.many(4, |this| this.change(true))),
            52..=56 => self.quota(),
            57..=81 => self.read(client),
            82..=92 => self.watches(client),
            93..=95 => self.auth(),
            96..=98 => self.odd(),
            _ => return (client, Step::Renew),
        };
        (client, Step::Ask(code, body.0))
    }
}

//! A ZooKeeper client with nothing but a socket: what it sends and gets is what is on the wire.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

use septet_coordinator::{
    jute::{JuteError, Reader, Writer},
    protocol::{Stat, op},
};

use super::{DEADLINE, eventually};

/// What came back: the protocol's error code is an answer, too.
pub type Answer<T> = io::Result<Result<T, i32>>;

pub const EPHEMERAL: i32 = 1;
pub const SEQUENTIAL: i32 = 2;

#[derive(Debug)]
pub struct Reply {
    pub xid: i32,
    pub zxid: i64,
    pub err: i32,
    pub body: Vec<u8>,
}

#[derive(Debug)]
pub struct Client {
    pub stream: TcpStream,
    pub session: i64,
    pub password: Vec<u8>,
    pub timeout_ms: i32,
    /// newest zxid seen
    pub zxid: i64,
    /// watch events that came: type, path
    pub events: Vec<(i32, String)>,
    xid: i32,
}

fn bad(e: JuteError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

pub fn frame(body: &[u8]) -> Vec<u8> {
    [&(body.len() as i32).to_be_bytes()[..], body].concat()
}

/// A connect request, framed.
pub fn hello(last_zxid: i64, timeout_ms: i32, session: i64, password: &[u8]) -> Vec<u8> {
    let mut w = Writer::framed();
    w.int(0).long(last_zxid).int(timeout_ms).long(session).buffer(password).bool(false);
    w.frame()
}

pub fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut body = vec![0; u32::from_be_bytes(head) as usize];
    stream.read_exact(&mut body)?;
    Ok(body)
}

pub fn stat(r: &mut Reader<'_>) -> Result<Stat, JuteError> {
    let (czxid, mzxid, ctime, mtime) = (r.long()?, r.long()?, r.long()?, r.long()?);
    let (version, cversion, aversion, ephemeral_owner) = (r.int()?, r.int()?, r.int()?, r.long()?);
    let (data_length, num_children, pzxid) = (r.int()?, r.int()?, r.long()?);
    Ok(Stat { czxid, mzxid, ctime, mtime, version, cversion, aversion, ephemeral_owner, data_length, num_children, pzxid })
}

/// Body of a create.
pub fn create_body(path: &str, data: &[u8], flags: i32) -> Vec<u8> {
    let mut w = Writer::default();
    w.string(path).buffer(data).int(1).int(31).string("world").string("anyone").int(flags);
    w.0
}

/// Body of createTTL.
pub fn ttl_body(path: &str, ttl_ms: i64) -> Vec<u8> {
    let mut body = create_body(path, b"", 5);
    body.extend(ttl_ms.to_be_bytes());
    body
}

/// Body of addAuth.
pub fn auth_body(scheme: &str, credentials: &str) -> Vec<u8> {
    let mut w = Writer::default();
    w.int(0).string(scheme).string(credentials);
    w.0
}

/// Body of a setData.
pub fn set_body(path: &str, data: &[u8]) -> Vec<u8> {
    let mut w = Writer::default();
    w.string(path).buffer(data).int(-1);
    w.0
}

/// Body of a multi.
pub fn multi_body(parts: &[(i32, Vec<u8>)]) -> Vec<u8> {
    let mut w = Writer::default();
    for (op, body) in parts {
        w.int(*op).bool(false).int(-1).0.extend(body);
    }
    w.int(-1).bool(true).int(-1);
    w.0
}

/// Body of exists, getData and getChildren.
pub fn path_body(path: &str, watch: bool) -> Vec<u8> {
    let mut w = Writer::default();
    w.string(path).bool(watch);
    w.0
}

impl Client {
    /// A session, new if `session` is 0.
    fn open(port: u16, timeout_ms: i32, session: i64, password: &[u8], zxid: i64) -> io::Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.write_all(&hello(zxid, timeout_ms, session, password))?;
        let answer = read_frame(&mut stream)?;
        let mut r = Reader(&answer);
        let mut fields = || Ok((r.int()?, r.int()?, r.long()?, r.buffer()?.to_vec()));
        let (_, timeout_ms, session, password) = fields().map_err(bad)?;
        if session == 0 {
            return Err(io::Error::other("session expired"));
        }
        Ok(Self { stream, session, password, timeout_ms, zxid, events: Vec::new(), xid: 0 })
    }

    /// A new session, as soon as the server takes it.
    pub fn new(port: u16, timeout_ms: i32) -> Self {
        eventually("a session", || Self::open(port, timeout_ms, 0, &[0; 16], 0).ok())
    }

    /// Goes on with this session over another connection.
    pub fn resume(&self, port: u16) -> io::Result<Self> {
        Self::open(port, self.timeout_ms, self.session, &self.password, self.zxid)
    }

    pub fn send(&mut self, op: i32, body: &[u8]) -> io::Result<i32> {
        self.xid += 1;
        let xid = self.xid;
        self.stream.write_all(&frame(&[&xid.to_be_bytes()[..], &op.to_be_bytes(), body].concat()))?;
        Ok(xid)
    }

    /// Sends several at once, in one segment.
    pub fn send_all(&mut self, requests: &[(i32, Vec<u8>)]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (op, body) in requests {
            self.xid += 1;
            bytes.extend(frame(&[&self.xid.to_be_bytes()[..], &op.to_be_bytes(), body].concat()));
        }
        self.stream.write_all(&bytes)
    }

    /// The next reply or event.
    fn next(&mut self) -> io::Result<Option<Reply>> {
        let bytes = read_frame(&mut self.stream)?;
        let mut r = Reader(&bytes);
        let (xid, zxid, err) = (r.int().map_err(bad)?, r.long().map_err(bad)?, r.int().map_err(bad)?);
        if xid == -1 {
            let (kind, state, path) = (r.int().map_err(bad)?, r.int().map_err(bad)?, r.string().map_err(bad)?);
            assert_eq!((zxid, err, state), (-1, 0, 3));
            self.events.push((kind, path));
            return Ok(None);
        }
        // Answers to credentials and to unknown operations have no zxid.
        if zxid > 0 {
            assert!(zxid >= self.zxid, "time went back from {:x} to {zxid:x}", self.zxid);
            self.zxid = zxid;
        }
        Ok(Some(Reply { xid, zxid, err, body: r.0.to_vec() }))
    }

    /// The next reply; events before it are kept.
    pub fn receive(&mut self) -> io::Result<Reply> {
        loop {
            if let Some(reply) = self.next()? {
                return Ok(reply);
            }
        }
    }

    pub fn call(&mut self, op: i32, body: &[u8]) -> io::Result<Reply> {
        let xid = self.send(op, body)?;
        let reply = self.receive()?;
        assert_eq!(reply.xid, xid);
        Ok(reply)
    }

    fn ask<T>(&mut self, op: i32, body: &[u8], read: impl FnOnce(&mut Reader<'_>) -> Result<T, JuteError>) -> Answer<T> {
        let reply = self.call(op, body)?;
        match reply.err {
            0 => Ok(Ok(read(&mut Reader(&reply.body)).map_err(bad)?)),
            code => Ok(Err(code)),
        }
    }

    pub fn create(&mut self, path: &str, data: &[u8], flags: i32) -> Answer<String> {
        self.ask(op::CREATE, &create_body(path, data, flags), |r| r.string())
    }

    pub fn set(&mut self, path: &str, data: &[u8]) -> Answer<Stat> {
        self.ask(op::SET_DATA, &set_body(path, data), stat)
    }

    pub fn delete(&mut self, path: &str) -> Answer<()> {
        let mut w = Writer::default();
        w.string(path).int(-1);
        self.ask(op::DELETE, &w.0, |_| Ok(()))
    }

    pub fn get(&mut self, path: &str, watch: bool) -> Answer<(Vec<u8>, Stat)> {
        self.ask(op::GET_DATA, &path_body(path, watch), |r| Ok((r.buffer()?.to_vec(), stat(r)?)))
    }

    pub fn exists(&mut self, path: &str, watch: bool) -> Answer<Stat> {
        self.ask(op::EXISTS, &path_body(path, watch), stat)
    }

    pub fn children(&mut self, path: &str, watch: bool) -> Answer<Vec<String>> {
        self.ask(op::GET_CHILDREN, &path_body(path, watch), |r| r.vector(4, Reader::string))
    }

    pub fn ephemerals(&mut self, prefix: &str) -> Answer<Vec<String>> {
        let mut w = Writer::default();
        w.string(prefix);
        self.ask(op::GET_EPHEMERALS, &w.0, |r| r.vector(4, Reader::string))
    }

    pub fn sync(&mut self) -> Answer<String> {
        let mut w = Writer::default();
        w.string("/");
        self.ask(op::SYNC, &w.0, |r| r.string())
    }

    pub fn ping(&mut self) -> io::Result<()> {
        self.stream.write_all(&frame(&[&(-2i32).to_be_bytes()[..], &op::PING.to_be_bytes()].concat()))?;
        assert_eq!(self.receive()?.xid, -2);
        Ok(())
    }

    pub fn set_watches(&mut self, since: i64, lists: [&[&str]; 3]) -> Answer<()> {
        let mut w = Writer::default();
        w.long(since);
        for list in lists {
            w.int(list.len() as i32);
            list.iter().for_each(|p| {
                w.string(p);
            });
        }
        self.ask(op::SET_WATCHES, &w.0, |_| Ok(()))
    }

    /// Ends the session; true if it was answered.
    pub fn close(&mut self) -> io::Result<bool> {
        Ok(self.call(op::CLOSE, &[])?.err == 0)
    }

    /// Reads until there is an event.
    pub fn event(&mut self) -> io::Result<(i32, String)> {
        while self.events.is_empty() {
            if let Some(reply) = self.next()? {
                panic!("not asked for: {reply:?}");
            }
        }
        Ok(self.events.remove(0))
    }
}

//! Answers as texts in which what may differ between two servers is replaced: zxids by their distance from the beginning
//! of a run, times by whether they are set, sessions by their client, and orders that ZooKeeper does not promise.

use septet_coordinator::{
    jute::{JuteError, Reader},
    protocol::op,
};

use super::common::client;

/// What a run began with.
pub struct View {
    pub zxid: i64,
    /// zxids that have no counterpart: here a session that moves gets one
    pub extra: Vec<i64>,
    pub sessions: Vec<i64>,
}

type Text = Result<String, JuteError>;

impl View {
    fn zxid(&self, zxid: i64) -> String {
        match zxid {
            0 => "0".into(),
            z if z >= self.zxid => format!("+{}", z - self.zxid - self.extra.iter().filter(|e| **e <= z).count() as i64),
            z if z < 0 => format!("{z}"),
            _ => "before".into(),
        }
    }

    fn owner(&self, owner: i64) -> String {
        self.sessions.iter().rposition(|s| *s == owner).map_or_else(|| format!("{owner:x}"), |i| format!("session {i}"))
    }

    fn stat(&self, r: &mut Reader<'_>) -> Text {
        let s = client::stat(r)?;
        Ok(format!(
            "[c{} m{} p{} t{}{} v{} cv{} av{} owner {} {} bytes {} children]",
            self.zxid(s.czxid),
            self.zxid(s.mzxid),
            self.zxid(s.pzxid),
            u8::from(s.ctime > 0),
            u8::from(s.mtime > 0),
            s.version,
            s.cversion,
            s.aversion,
            self.owner(s.ephemeral_owner),
            s.data_length,
            s.num_children
        ))
    }

    fn one(&self, code: i32, r: &mut Reader<'_>) -> Text {
        let sorted = |mut all: Vec<String>| {
            all.sort();
            format!("{all:?}")
        };
        let acl = |r: &mut Reader<'_>| r.vector(12, |r| Ok(format!("{} {} {}", r.int()?, r.string()?, r.string()?)));
        Ok(match code {
            op::CREATE => r.string()?,
            op::CREATE2 | op::CREATE_CONTAINER | op::CREATE_TTL => format!("{} {}", r.string()?, self.stat(r)?),
            op::EXISTS | op::SET_DATA | op::SET_ACL => self.stat(r)?,
            op::GET_DATA => format!("{:?} {}", r.nullable()?, self.stat(r)?),
            op::GET_ACL => format!("{:?} {}", acl(r)?, self.stat(r)?),
            op::GET_CHILDREN | op::GET_EPHEMERALS => sorted(r.vector(4, Reader::string)?),
            op::GET_CHILDREN2 => format!("{} {}", sorted(r.vector(4, Reader::string)?), self.stat(r)?),
            op::GET_ALL_CHILDREN_NUMBER | op::ADD_WATCH => r.int()?.to_string(),
            op::WHO_AM_I => sorted(r.vector(8, |r| Ok(format!("{} {}", r.string()?, r.string()?)))?),
            op::SYNC => r.string()?,
            op::SASL => format!("{:?}", r.nullable()?),
            op::MULTI | op::MULTI_READ => {
                let mut out = String::new();
                loop {
                    let (code, done, err) = (r.int()?, r.bool()?, r.int()?);
                    out += &format!("({code} {done} {err}");
                    if done {
                        break out + ")";
                    }
                    let body = if code == op::ERROR { r.int()?.to_string() } else { self.one(code, r)? };
                    out += &format!(" {body})");
                }
            }
            _ => String::new(),
        })
    }

    /// An answer.
    pub fn answer(&self, code: i32, reply: &client::Reply) -> String {
        let mut r = Reader(&reply.body);
        let body = if reply.err == 0 { self.one(code, &mut r) } else { Ok(String::new()) };
        let body = body.unwrap_or_else(|e| format!("{e}: {:x?}", reply.body));
        format!("zxid {} err {} {body} rest {:x?}", self.zxid(reply.zxid), reply.err, r.0)
    }
}

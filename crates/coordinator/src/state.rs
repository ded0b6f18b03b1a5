//! What is replicated: the tree and the sessions, changed by commands in the order of the log.
//!
//! Invariant: [`State::apply`] is deterministic; every server that applied the same log has the same state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    format2::OldWrite,
    protocol::{Caller, Code, Write, WriteAnswer},
    tree::{self, Event, Stamp, Tree},
    watches::ConnectionId,
};

/// Which connection to which run of which server a command comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// server id
    pub server: u64,
    /// random number of this run of the server; in the lower bits the connection, 0 where it is none
    pub boot: u64,
}

impl Origin {
    /// Lower bits of `boot` that tell connections apart.
    const CONNECTION: u64 = (1 << 24) - 1;

    /// A new run of a server.
    pub fn new_run(server: u64) -> Self {
        Self { server, boot: rand::random::<u64>() & !Self::CONNECTION }
    }

    /// A connection of the same run. A session belongs to one connection: what an earlier one asked for and is applied late, because
    /// its proposal was held up, finds that the session has moved.
    pub fn of_connection(self, id: ConnectionId) -> Self {
        Self { boot: (self.boot & !Self::CONNECTION) | (id & Self::CONNECTION), ..self }
    }

    /// Whether both are of one run of one server.
    pub fn is_of_run(&self, other: &Self) -> bool {
        self.of_connection(0) == other.of_connection(0)
    }
}

/// What is asked of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// a new session
    CreateSession {
        /// its id
        id: i64,
        /// its password
        #[serde(with = "serde_bytes")]
        password: Vec<u8>,
        /// milliseconds without a word after which it ends
        timeout_ms: i32,
    },
    /// a client of an existing session came to this server
    MoveSession {
        /// session
        id: i64,
        /// its password
        #[serde(with = "serde_bytes")]
        password: Vec<u8>,
    },
    /// the session ends, as its client asked
    CloseSession {
        /// session
        id: i64,
    },
    /// a client's write as format 2 of the log has it
    OldWrite {
        /// session
        session: i64,
        /// what to change
        write: OldWrite,
    },
    /// sessions of which the leader of this term heard nothing for too long; in a log entry of another term it does
    /// nothing, so a leader that was replaced ends no session
    Expire {
        /// sessions
        ids: Vec<i64>,
        /// the leader's term
        term: u64,
    },
    /// a client's write
    Write {
        /// session
        session: i64,
        /// who asks
        caller: Caller,
        /// what to change
        write: Write,
    },
    /// a container or a node with a TTL that the leader of this term found to be due; it is removed if it still is
    Collect {
        /// its path
        path: String,
        /// the leader's `znode.container.maxNeverUsedIntervalMs`
        never_used_ms: i64,
        /// the leader's term
        term: u64,
    },
}

/// A command of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// who waits for the answer
    pub origin: Origin,
    /// number that the origin gave it
    pub seq: u64,
    /// the leader's clock when it was proposed, in milliseconds since 1970
    pub time_ms: i64,
    /// what is asked
    pub ask: Ask,
}

/// Answer to a command, for its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// session made or moved, with its timeout
    Session(i32),
    /// nothing is left to do: the session ended, or was not there
    Closed,
    /// result of a write
    Write(Result<WriteAnswer, Code>),
    /// there is no such session, or the password is wrong
    NoSession,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// proves that a client owns it
    #[serde(with = "serde_bytes")]
    pub password: Vec<u8>,
    /// milliseconds without a word after which it ends
    pub timeout_ms: i32,
    /// the connection that it belongs to
    pub owner: Origin,
}

/// Everything that is replicated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct State {
    /// znodes
    pub tree: Tree,
    /// sessions by id
    pub sessions: BTreeMap<i64, Session>,
    /// newest transaction id: term in the upper half, a count in the lower
    pub zxid: i64,
}

/// A state at one moment, as it goes into a snapshot: what [`State`] is read from.
#[derive(Debug, Serialize)]
pub struct Frozen {
    tree: tree::Frozen,
    sessions: BTreeMap<i64, Session>,
    zxid: i64,
}

/// What followed from one command.
#[derive(Debug)]
pub struct Applied {
    /// for the origin
    pub answer: Answer,
    /// for watches
    pub events: Vec<Event>,
    /// the sessions that ended
    pub closed: Vec<i64>,
    /// the session that now belongs to the command's origin
    pub moved: Option<i64>,
}

impl State {
    /// The state as it is now, whatever is applied later. It takes a time that does not depend on the number of nodes.
    pub fn freeze(&self) -> Frozen {
        Frozen { tree: self.tree.freeze(), sessions: self.sessions.clone(), zxid: self.zxid }
    }

    /// A leader of this term has begun.
    pub fn begin_term(&mut self, term: u64) {
        if (self.zxid >> 32) < term as i64 {
            self.zxid = (term as i64) << 32;
        }
    }

    /// Applies the next command of the log.
    pub fn apply(&mut self, term: u64, command: &Command) -> Applied {
        self.begin_term(term);
        self.zxid += 1;
        let mut done = Applied { answer: Answer::NoSession, events: Vec::new(), closed: Vec::new(), moved: None };
        match &command.ask {
            Ask::CreateSession { id, password, timeout_ms } => {
                let session = Session { password: password.clone(), timeout_ms: *timeout_ms, owner: command.origin };
                self.sessions.insert(*id, session);
                done.answer = Answer::Session(*timeout_ms);
            }
            Ask::MoveSession { id, password } => {
                if let Some(s) = self.sessions.get_mut(id).filter(|s| s.password == *password) {
                    s.owner = command.origin;
                    done.answer = Answer::Session(s.timeout_ms);
                    done.moved = Some(*id);
                }
            }
            Ask::CloseSession { id } => {
                self.close(*id, &mut done);
                done.answer = Answer::Closed;
            }
            Ask::Expire { ids, term: of } => {
                if *of == term {
                    ids.iter().for_each(|id| self.close(*id, &mut done));
                }
                done.answer = Answer::Closed;
            }
            Ask::OldWrite { session, write } => {
                done.answer = self.write(*session, &Caller::default(), &write.into(), command, &mut done.events);
            }
            Ask::Write { session, caller, write } => {
                done.answer = self.write(*session, caller, write, command, &mut done.events);
            }
            Ask::Collect { path, never_used_ms, term: of } => {
                if *of == term {
                    let stamp = Stamp { session: 0, zxid: self.zxid, time_ms: command.time_ms };
                    self.tree.collect(path, *never_used_ms, stamp, &mut done.events);
                }
                done.answer = Answer::Closed;
            }
        }
        done
    }

    fn write(&mut self, session: i64, caller: &Caller, write: &Write, command: &Command, events: &mut Vec<Event>) -> Answer {
        Answer::Write(match self.sessions.get(&session) {
            None => Err(Code::SessionExpired),
            Some(s) if s.owner != command.origin => Err(Code::SessionMoved),
            Some(_) => {
                let stamp = Stamp { session, zxid: self.zxid, time_ms: command.time_ms };
                self.tree.apply(write, caller, stamp, events)
            }
        })
    }

    fn close(&mut self, id: i64, done: &mut Applied) {
        if self.sessions.remove(&id).is_some() {
            self.tree.drop_ephemerals(id, self.zxid, &mut done.events);
            done.closed.push(id);
        }
    }
}

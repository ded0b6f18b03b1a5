//! The same seeded requests to this coordinator and to Apache ZooKeeper 3.8: every answer is the same, field by field.
//! Needs SEPTET_TEST_KAFKA. `SEPTET_TEST_SEEDS=FROM..TO` runs other seeds.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod shown;
mod steps;

use common::{
    Ensemble, LONG_MS,
    client::{Client, create_body},
    zookeeper::{ZooKeeper, skip},
};
use septet_coordinator::protocol::op;
use shown::View;
use steps::{CLIENTS, Step, Steps};

/// Steps of a seed.
const STEPS: usize = 150;
const CONFIG: &str = "extendedTypesEnabled=true\nDigestAuthenticationProvider.superDigest=super:D/InIHSb7yEEbrWz8b9l71RjZJU=\n\
                      maxClientCnxns=0";
/// Containers and TTL nodes stay.
const NEVER: &str = "znode.container.checkIntervalMs=86400000";

/// One server with the clients of a run.
struct Side {
    port: u16,
    ours: bool,
    clients: Vec<Client>,
    view: View,
}

impl Side {
    fn new(port: u16, ours: bool, root: &str) -> Self {
        let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::new(port, LONG_MS)).collect();
        let reply = clients[0].call(op::CREATE, &create_body(root, b"", 0)).unwrap();
        assert_eq!(reply.err, 0);
        let sessions = clients.iter().map(|c| c.session).collect();
        Self { port, ours, clients, view: View { zxid: reply.zxid, extra: Vec::new(), sessions } }
    }

    fn renew(&mut self, client: usize) {
        self.clients[client] = Client::new(self.port, LONG_MS);
        self.view.sessions.push(self.clients[client].session);
    }

    /// What the step answers, and what each client is told.
    fn run(&mut self, client: usize, step: &Step) -> Vec<String> {
        let mut out = Vec::new();
        match step {
            Step::Renew => {
                out.push(format!("closed {}", self.clients[client].close().unwrap()));
                self.renew(client);
            }
            Step::Ask(code, body) => {
                let sent = self.clients[client].send(*code, body).unwrap();
                match self.clients[client].receive() {
                    Ok(reply) => {
                        assert_eq!(reply.xid, sent);
                        out.push(self.view.answer(*code, &reply));
                        // The connection ends behind an answer without a zxid, in its time.
                        while reply.zxid <= 0 && reply.err != 0 && self.clients[client].receive().is_ok() {}
                    }
                    Err(e) => out.push(format!("lost: {:?}", e.kind())),
                }
            }
        }
        for i in 0..CLIENTS {
            if self.clients[i].ping().is_err() {
                out.push(format!("client {i} is disconnected"));
                // The session would end some time later.
                let mut again = self.clients[i].resume(self.port).unwrap();
                again.ping().unwrap();
                self.view.extra.extend(Some(again.zxid).filter(|_| self.ours));
                again.close().unwrap();
                self.renew(i);
            }
            // The order of a session's ephemerals is not promised.
            let mut events = std::mem::take(&mut self.clients[i].events);
            events.sort();
            out.push(format!("client {i}: {events:?}"));
        }
        out
    }
}

#[test]
fn every_answer_is_zookeepers() {
    let Some(zookeeper) = ZooKeeper::start(CONFIG, &[&format!("-D{NEVER}")]) else { return skip("the comparison with ZooKeeper") };
    let ours = Ensemble::start(1, &format!("{CONFIG}\n{NEVER}"));
    let seeds = std::env::var("SEPTET_TEST_SEEDS").ok().and_then(|text| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    for seed in seeds.unwrap_or(0..120u64) {
        let root = format!("/seed{seed}");
        let mut steps = Steps::new(seed, &root);
        let (mut theirs, mut mine) = (Side::new(zookeeper.port, false, &root), Side::new(ours.port(0), true, &root));
        for n in 0..STEPS {
            let (client, step) = steps.next();
            let (want, got) = (theirs.run(client, &step), mine.run(client, &step));
            assert_eq!(got, want, "seed {seed}, step {n}, client {client}: {step}");
        }
        for side in [&mut theirs, &mut mine] {
            side.clients.iter_mut().for_each(|c| assert!(c.close().unwrap()));
        }
    }
}

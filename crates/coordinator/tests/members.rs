//! Servers come and go by edits of `zoo.cfg` and restarts, one at a time, while clients write: nothing that was
//! acknowledged is lost, and what would be unsafe is refused.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Ensemble, LONG_MS, Server, client::Client, eventually, mode};
use septet_zookeeper::{Acls, Client as Session, CreateMode, Error};
use tokio::runtime::Runtime;

/// Gives a server these lines `server.N`; `roles` are for those that are not participants.
fn set_members(ensemble: &Ensemble, server: usize, members: &[usize], observers: &[usize]) {
    let file = ensemble.servers[server].dir.join("zoo.cfg");
    let rest = fs::read_to_string(&file).unwrap();
    let mut text: String = rest.lines().filter(|l| !l.starts_with("server.")).map(|l| format!("{l}\n")).collect();
    for i in members.iter().chain(observers) {
        let role = if observers.contains(i) { ":observer" } else { "" };
        text += &format!("server.{}=127.0.0.1:{}:1{role}\n", i + 1, ensemble.servers[*i].peer_port);
    }
    fs::write(file, text).unwrap();
}

/// Servers of which the first few have each other in their zoo.cfg; one alone has nobody. None runs.
fn build(all: usize, first: usize) -> Ensemble {
    let ensemble = Ensemble::build(all, |_| "tickTime=500".into());
    let members: Vec<usize> = if first == 1 { vec![] } else { (0..first).collect() };
    (0..first).for_each(|i| set_members(&ensemble, i, &members, &[]));
    ensemble
}

/// Restarts servers one after the other, the leader last, each once the one before serves again.
fn roll(ensemble: &mut Ensemble, servers: &[usize]) {
    let mut order = servers.to_vec();
    order.sort_by_key(|i| mode(&ensemble.servers[*i]).as_deref() == Some("leader"));
    for i in order {
        assert!(ensemble.servers[i].terminate().success());
        ensemble.servers[i].start();
        serves(&ensemble.servers[i]);
    }
}

fn serves(server: &Server) {
    eventually("it serves", || mode(server));
}

/// Waits until these serve and have an ensemble of so many voters.
fn settled(ensemble: &Ensemble, servers: &[usize], voters: usize) {
    for i in servers {
        let server = &ensemble.servers[*i];
        eventually("the ensemble has its voters", || {
            (mode(server).is_some() && server.measured("quorum_size")? == voters.to_string()).then_some(())
        });
    }
    eventually("the leader has its followers", || {
        let synced = servers.iter().find_map(|i| ensemble.servers[*i].measured("synced_followers"))?;
        (synced == (voters - 1).to_string()).then_some(())
    });
}

/// Clients that write all the time, each in one session.
struct Load {
    runtime: Runtime,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    writers: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(ensemble: &Ensemble, servers: &[usize]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Client::new(ensemble.port(servers[0]), LONG_MS).create("/w", b"", 0).unwrap().unwrap();
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let hosts: Vec<String> = servers.iter().map(|i| format!("127.0.0.1:{}", ensemble.port(*i))).collect();
        let writer = |me| runtime.spawn(write(me, hosts.join(","), stop.clone(), acknowledged.clone()));
        let writers = (0..3).map(writer).collect();
        Self { runtime, stop, acknowledged, writers }
    }

    /// Waits for so many more acknowledged writes.
    fn more(&self, n: usize) {
        let from = self.acknowledged.load(Ordering::SeqCst);
        eventually("writes go on", || (self.acknowledged.load(Ordering::SeqCst) >= from + n).then_some(()));
    }

    /// What was acknowledged.
    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.writers.into_iter().flat_map(|w| self.runtime.block_on(w).unwrap()).collect()
    }
}

async fn write(me: usize, hosts: String, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicUsize>) -> Vec<String> {
    let session = Session::connector().with_session_timeout(Duration::from_secs(40)).connect(&hosts).await.unwrap();
    let (id, options) = (session.session_id(), CreateMode::Persistent.with_acls(Acls::anyone_all()));
    session.create(&format!("/mine-{me}"), b"", &CreateMode::Ephemeral.with_acls(Acls::anyone_all())).await.unwrap();
    let mut done = Vec::new();
    for n in 0.. {
        let path = format!("/w/{me}-{n}");
        match session.create(&path, path.as_bytes(), &options).await {
            Ok(_) => {
                acknowledged.fetch_add(1, Ordering::SeqCst);
                done.push(path);
            }
            // Nobody knows whether it was done: it counts as neither.
            Err(Error::ConnectionLoss) => {}
            Err(e) => panic!("{e}"),
        }
        if stop.load(Ordering::SeqCst) {
            break;
        }
    }
    // The session has lived through everything, and what it made with it.
    assert_eq!(session.session_id(), id);
    assert!(session.check_stat(&format!("/mine-{me}")).await.unwrap().is_some());
    done
}

/// Each acknowledged write is on each of these servers.
fn check_all_there(ensemble: &Ensemble, servers: &[usize], acknowledged: &[String]) {
    for i in servers {
        let mut client = Client::new(ensemble.port(*i), LONG_MS);
        client.sync().unwrap().unwrap();
        let there: BTreeSet<_> = client.children("/w", false).unwrap().unwrap().into_iter().map(|c| format!("/w/{c}")).collect();
        let lost: Vec<_> = acknowledged.iter().filter(|p| !there.contains(*p)).collect();
        assert!(lost.is_empty(), "{} of {} acknowledged writes are lost: {lost:?}", lost.len(), acknowledged.len());
    }
}

fn shown(ensemble: &Ensemble, server: usize) -> usize {
    let text = Client::new(ensemble.port(server), LONG_MS).get("/zookeeper/config", false).unwrap().unwrap().0;
    String::from_utf8(text).unwrap().lines().filter(|l| l.starts_with("server.")).count()
}

#[test]
fn three_become_five_and_three_again_while_clients_write() {
    let mut ensemble = build(5, 3);
    ensemble.servers[..3].iter_mut().for_each(Server::start);
    ensemble.leader();
    let load = Load::start(&ensemble, &[0, 1, 2]);
    load.more(30);
    let mut watching = Client::new(ensemble.port(0), LONG_MS);
    watching.get("/zookeeper/config", true).unwrap().unwrap();
    let all = [0, 1, 2, 3, 4];
    (0..5).for_each(|i| set_members(&ensemble, i, &all, &[]));
    ensemble.servers[3..].iter_mut().for_each(Server::start);
    roll(&mut ensemble, &[0, 1, 2]);
    settled(&ensemble, &all, 5);
    load.more(30);
    assert_eq!(all.map(|i| shown(&ensemble, i)), [5; 5]);
    assert!(ensemble.servers[0].ask("conf").unwrap().contains("server.5=127.0.0.1:"));
    // The new ones count: with two of the old ones it goes on.
    ensemble.servers[..2].iter_mut().for_each(Server::kill);
    load.more(30);
    ensemble.servers[..2].iter_mut().for_each(Server::start);
    settled(&ensemble, &all, 5);

    let three = [0, 1, 2];
    three.iter().for_each(|i| set_members(&ensemble, *i, &three, &[]));
    roll(&mut ensemble, &three);
    settled(&ensemble, &three, 3);
    // The others still run, and say so; they disturb nobody and serve nobody.
    for i in [3, 4] {
        let server = &ensemble.servers[i];
        eventually("it says that it does not belong to them", || {
            let log = server.stderr();
            (log.contains("does not belong to the ensemble") || log.contains("does not know server.")).then_some(())
        });
        eventually("it serves no more", || mode(server).is_none().then_some(()));
        assert!(server.stderr().contains("if it was removed, stop it") || server.stderr().contains("was removed, stop it"));
    }
    let leader = three.iter().position(|i| mode(&ensemble.servers[*i]).as_deref() == Some("leader")).unwrap();
    let term = |ensemble: &Ensemble| {
        ensemble.servers[leader].ask("srvr").unwrap().lines().find(|l| l.starts_with("Zxid")).unwrap()[..8].to_owned()
    };
    let before = term(&ensemble);
    load.more(100);
    assert_eq!((mode(&ensemble.servers[leader]).as_deref(), term(&ensemble)), (Some("leader"), before));
    assert_eq!(three.map(|i| shown(&ensemble, i)), [3; 3]);
    assert!(ensemble.servers.iter_mut().all(Server::is_running));
    ensemble.servers[3..].iter_mut().for_each(Server::kill);
    let acknowledged = load.end();
    assert!(acknowledged.len() > 200);
    check_all_there(&ensemble, &three, &acknowledged);
}

#[test]
fn one_becomes_three_with_its_data_and_sessions() {
    let mut ensemble = build(3, 1);
    ensemble.servers[0].start();
    let load = Load::start(&ensemble, &[0]);
    load.more(30);
    let all = [0, 1, 2];
    all.iter().for_each(|i| set_members(&ensemble, *i, &all, &[]));
    // The new ones may be first: they wait, and serve nobody an empty tree.
    ensemble.servers[1..].iter_mut().for_each(Server::start);
    eventually("it waits", || ensemble.servers[1].stderr().contains("waiting for server.1").then_some(()));
    assert_eq!(mode(&ensemble.servers[1]), None);
    roll(&mut ensemble, &[0]);
    settled(&ensemble, &all, 3);
    load.more(30);
    let acknowledged = load.end();
    check_all_there(&ensemble, &all, &acknowledged);
    // And now one may go.
    ensemble.servers[0].kill();
    eventually("the others go on", || [1, 2].iter().find(|i| mode(&ensemble.servers[**i]).as_deref() == Some("leader")));
    check_all_there(&ensemble, &[1, 2], &acknowledged);
    Client::new(ensemble.port(1), LONG_MS).create("/more", b"", 0).unwrap().unwrap();
}

#[test]
fn a_server_is_replaced_and_one_with_an_old_file_goes_along() {
    let mut ensemble = build(4, 3);
    ensemble.servers[..3].iter_mut().for_each(Server::start);
    ensemble.leader();
    let load = Load::start(&ensemble, &[0, 1]);
    load.more(20);
    ensemble.servers[2].kill();
    // One server alone asks for another ensemble: nothing happens.
    set_members(&ensemble, 0, &[0, 1], &[]);
    roll(&mut ensemble, &[0]);
    eventually("it says that it is alone", || ensemble.servers[0].stderr().contains("it changes once a majority").then_some(()));
    load.more(20);
    assert_eq!([0, 1].map(|i| shown(&ensemble, i)), [3; 2]);
    let new = [0, 1, 3];
    new.iter().for_each(|i| set_members(&ensemble, *i, &new, &[]));
    roll(&mut ensemble, &[0, 1]);
    eventually("it says what is missing", || {
        [0, 1].iter().any(|i| ensemble.servers[*i].stderr().contains("server.4 is to join the ensemble and does not answer")).then_some(())
    });
    ensemble.servers[3].start();
    settled(&ensemble, &new, 3);
    load.more(20);
    // The old one comes back with its old file: it is told that it no longer belongs to them.
    ensemble.servers[2].start();
    eventually("it is told", || ensemble.servers[2].stderr().contains("does not know server.3").then_some(()));
    assert_eq!(mode(&ensemble.servers[2]), None);
    load.more(20);
    check_all_there(&ensemble, &new, &load.end());

    // Grown by a majority: the third goes along with its old file, and it knows the new one.
    let all = [0, 1, 2, 3];
    all[..3].iter().for_each(|i| set_members(&ensemble, *i, &all, &[]));
    ensemble.servers[2].kill();
    ensemble.servers[2].start();
    roll(&mut ensemble, &[0, 1]);
    // What it has may be anybody's: it joins with an empty directory, as a new server does.
    eventually("its data are in the way", || {
        new.iter().any(|i| ensemble.servers[*i].stderr().contains("server.3 is to join the ensemble and has data of its own")).then_some(())
    });
    ensemble.servers[2].kill();
    fs::remove_dir_all(ensemble.servers[2].dir.join("data/version-2")).unwrap();
    ensemble.servers[2].start();
    eventually("it is back", || (ensemble.servers[3].measured("quorum_size")? == "4").then_some(()));
    ensemble.servers[0].kill();
    let mut client = Client::new(ensemble.port(3), LONG_MS);
    let created = eventually("three of four go on", || {
        client.create("/end", b"", 2).ok().or_else(|| {
            client = Client::new(ensemble.port(3), LONG_MS);
            None
        })
    });
    created.unwrap();
}

#[test]
fn a_leader_with_an_old_file_does_what_the_others_ask_for() {
    let mut ensemble = build(4, 3);
    ensemble.servers[..3].iter_mut().for_each(Server::start);
    let leader = eventually("a leader", || (0..3).find(|i| mode(&ensemble.servers[*i]).as_deref() == Some("leader")));
    let all = [0, 1, 2, 3];
    let others: Vec<usize> = all.into_iter().filter(|i| *i != leader).collect();
    others.iter().for_each(|i| set_members(&ensemble, *i, &all, &[]));
    ensemble.servers[3].start();
    roll(&mut ensemble, &others[..2]);
    settled(&ensemble, &all, 4);
    let file = fs::read_to_string(ensemble.servers[leader].dir.join("zoo.cfg")).unwrap();
    assert_eq!((file.matches("server.").count(), shown(&ensemble, leader)), (3, 4));
    // It knows the new one well enough to go on with it when one of the others is gone, and is needed by nobody.
    for gone in [others[0], leader] {
        ensemble.servers[gone].kill();
        let mut client = Client::new(ensemble.port(3), LONG_MS);
        let created = eventually("three of four go on", || {
            client.create("/n", b"", 2).ok().or_else(|| {
                client = Client::new(ensemble.port(3), LONG_MS);
                None
            })
        });
        created.unwrap();
        ensemble.servers[gone].start();
        settled(&ensemble, &all, 4);
    }
}

#[test]
fn servers_that_stood_alone_do_not_mix_their_data() {
    let mut ensemble = build(3, 1);
    let one = fs::read_to_string(ensemble.servers[0].dir.join("zoo.cfg")).unwrap();
    // The second stood alone, as number 1 as all that do: its log looks like the first's.
    let of_second = |l: &str| match l.split_once('=') {
        Some(("dataDir", _)) => format!("dataDir={}\n", ensemble.servers[1].dir.join("data").display()),
        Some(("clientPort", _)) => format!("clientPort={}\n", ensemble.port(1)),
        _ => format!("{l}\n"),
    };
    fs::write(ensemble.servers[1].dir.join("zoo.cfg"), one.lines().map(of_second).collect::<String>()).unwrap();
    for (i, path) in [(0, "/first"), (1, "/second")] {
        ensemble.servers[i].start();
        let mut client = Client::new(ensemble.port(i), LONG_MS);
        client.create(path, b"", 0).unwrap().unwrap();
        assert!(client.close().unwrap());
        ensemble.servers[i].terminate();
    }
    let all = [0, 1, 2];
    all.iter().for_each(|i| set_members(&ensemble, *i, &all, &[]));
    ensemble.servers.iter_mut().for_each(Server::start);
    eventually("two of three are an ensemble", || (ensemble.servers[2].measured("quorum_size")? == "2").then_some(()));
    eventually("the other's data are in the way", || {
        let logs = [0, 2].map(|i| ensemble.servers[i].stderr());
        logs.iter()
            .any(|l| l.contains("server.2 is to join the ensemble and has data of its own (hint: stop it, move version-2"))
            .then_some(())
    });
    assert_eq!(mode(&ensemble.servers[1]), None);
    ensemble.servers[1].kill();
    let data = ensemble.servers[1].dir.join("data");
    fs::rename(data.join("version-2"), data.join("moved")).unwrap();
    ensemble.servers[1].start();
    settled(&ensemble, &all, 3);
    assert_eq!(Client::new(ensemble.port(1), LONG_MS).children("/", false).unwrap().unwrap(), ["first", "zookeeper"]);
}

#[test]
fn a_server_moves_to_another_port() {
    let mut ensemble = build(3, 3);
    ensemble.servers.iter_mut().for_each(Server::start);
    ensemble.leader();
    ensemble.servers[2].peer_port = common::free_port();
    (0..3).for_each(|i| set_members(&ensemble, i, &[0, 1, 2], &[]));
    // Those that look for it first.
    (0..3).for_each(|i| roll(&mut ensemble, &[i]));
    let moved = format!("the ensemble changes: server.3 is at 127.0.0.1:{}:1:participant", ensemble.servers[2].peer_port);
    eventually("it is known", || ensemble.servers.iter().any(|s| s.stderr().contains(&moved)).then_some(()));
    settled(&ensemble, &[0, 1, 2], 3);
    Client::new(ensemble.port(2), LONG_MS).create("/x", b"", 0).unwrap().unwrap();
}

#[test]
fn what_is_unsafe_is_refused() {
    let mut ensemble = build(5, 3);
    ensemble.servers[..3].iter_mut().for_each(Server::start);
    ensemble.leader();
    let refused = |ensemble: &mut Ensemble, members: &[usize]| {
        ensemble.servers[0].kill();
        set_members(ensemble, 0, members, &[]);
        ensemble.servers[0].start();
        eventually("it ends", || (!ensemble.servers[0].is_running()).then_some(()));
        ensemble.servers[0].kill();
        ensemble.servers[0].stderr()
    };
    let log = refused(&mut ensemble, &[0, 3, 4]);
    assert!(log.contains("fewer than a majority of its voters would stay"), "{log}");
    assert!(log.contains("hint: keep 2 of those servers in zoo.cfg and change the ensemble in several steps"), "{log}");
    let log = refused(&mut ensemble, &[0]);
    assert!(log.contains("hint: to go on with one server, export the data and import them into an empty directory"), "{log}");
    let log = refused(&mut ensemble, &[]);
    assert!(log.matches("hint: to go on with one server").count() == 2, "{log}");
    // With its lines it is back.
    set_members(&ensemble, 0, &[0, 1, 2], &[]);
    ensemble.servers[0].start();
    settled(&ensemble, &[0, 1, 2], 3);
}

#[test]
fn an_observer_serves_clients_and_has_no_vote() {
    let mut ensemble = build(4, 3);
    (0..4).for_each(|i| set_members(&ensemble, i, &[0, 1, 2], &[3]));
    ensemble.servers.iter_mut().for_each(Server::start);
    for server in &ensemble.servers {
        serves(server);
    }
    assert_eq!(mode(&ensemble.servers[3]).as_deref(), Some("observer"));
    settled(&ensemble, &[0, 1, 2], 3);
    let leader = (0..3).find(|i| mode(&ensemble.servers[*i]).as_deref() == Some("leader")).unwrap();
    eventually("the observer is counted", || (ensemble.servers[leader].measured("synced_observers")? == "1").then_some(()));
    assert_eq!(ensemble.servers[3].measured("peer_state").as_deref(), Some("observing - broadcast"));
    assert!(ensemble.servers[3].ask("conf").unwrap().contains("peerType=1"));
    let mut client = Client::new(ensemble.port(3), LONG_MS);
    client.create("/x", b"1", 0).unwrap().unwrap();
    // It may go, and the voters go on; without two of three voters it is no help.
    ensemble.servers[3].kill();
    Client::new(ensemble.port(leader), LONG_MS).set("/x", b"2").unwrap().unwrap();
    ensemble.servers[3].start();
    serves(&ensemble.servers[3]);
    let mut client = Client::new(ensemble.port(3), LONG_MS);
    assert_eq!(client.get("/x", false).unwrap().unwrap().0, b"2");
    let gone: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    gone.iter().for_each(|i| ensemble.servers[*i].kill());
    eventually("nobody serves", || [leader, 3].iter().all(|i| mode(&ensemble.servers[*i]).is_none()).then_some(()));
    gone.iter().for_each(|i| ensemble.servers[*i].start());
    (0..4).for_each(|i| serves(&ensemble.servers[i]));
    // It gets a vote, and another one loses it.
    (0..4).for_each(|i| set_members(&ensemble, i, &[0, 1, 3], &[2]));
    roll(&mut ensemble, &[0, 1, 2]);
    ensemble.servers[3].kill();
    ensemble.servers[3].start();
    settled(&ensemble, &[0, 1, 3], 3);
    eventually("it has become an observer", || (mode(&ensemble.servers[2])? == "observer").then_some(()));
    assert_eq!(Client::new(ensemble.port(2), LONG_MS).get("/x", false).unwrap().unwrap().0, b"2");
}

/// Two of them would be a majority of three, the other three one of five.
#[test]
fn blank_servers_that_disagree_form_nothing() {
    let mut ensemble = build(5, 3);
    (2..5).for_each(|i| set_members(&ensemble, i, &[0, 1, 2, 3, 4], &[]));
    ensemble.servers.iter_mut().for_each(Server::start);
    let disagree = |i: usize, text: &str| ensemble.servers[i].stderr().contains(text).then_some(());
    eventually("it says so", || disagree(0, "server.3, whose zoo.cfg has the voters 1, 2, 3, 4, 5 and not 1, 2, 3"));
    eventually("the other side does, too", || disagree(2, "server.1, whose zoo.cfg has the voters 1, 2, 3 and not 1, 2, 3, 4, 5"));
    assert!(ensemble.servers.iter().all(|s| mode(s).is_none() && s.measured("quorum_size").is_none()), "one of them serves");
    for i in [0, 1] {
        ensemble.servers[i].kill();
        set_members(&ensemble, i, &[0, 1, 2, 3, 4], &[]);
        ensemble.servers[i].start();
    }
    settled(&ensemble, &[0, 1, 2, 3, 4], 5);
}

//! Sessions on real servers, ours and Apache's: they survive restarts and lost connections, and end when they should.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::Duration;

use common::{
    DEADLINE, EPHEMERAL, PERSISTENT, connect, eventually, eventually_within,
    proxy::Proxy,
    server::{BOTH, Kind, Server},
    soon,
};
use septet_zookeeper::{Client, Error, EventType, SessionState, StateWatcher};

const LONG_MS: u64 = 30_000;
/// How long two of ZooKeeper's three servers may take to elect a leader. They were seen to wait for each other until `initLimit`, the leader for
/// the acknowledgement of its epoch and the follower for what it is to learn, and then to begin again.
const ELECTED_WITHIN: Duration = Duration::from_secs(240);

async fn reach(state: &mut StateWatcher, wanted: SessionState) {
    let mut now = state.state();
    while now != wanted {
        now = soon(&format!("{wanted:?}, not {now:?}"), state.changed()).await;
    }
}

/// Asks again while the connection is away.
async fn data(client: &Client, path: &str) -> Vec<u8> {
    eventually("the data", || async {
        match client.get_data(path).await {
            Ok((data, _)) => Some(data),
            Err(Error::ConnectionLoss) => None,
            Err(e) => panic!("{path}: {e}"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_survives_the_restart_of_its_server() {
    for kind in BOTH {
        let mut server = Server::start(kind);
        let client = connect(&server.address(), LONG_MS).await;
        let id = client.session_id();
        client.create("/e", b"1", &EPHEMERAL).await.unwrap();
        let mut state = client.state_watcher();
        server.kill();
        reach(&mut state, SessionState::Disconnected).await;
        assert_eq!(soon("an answer", client.get_data("/e")).await.unwrap_err(), Error::ConnectionLoss, "{kind:?}");
        server.restart();
        reach(&mut state, SessionState::SyncConnected).await;
        assert_eq!(data(&client, "/e").await, b"1");
        assert_eq!(client.session_id(), id);
        client.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_to_another_server() {
    for kind in BOTH {
        // Two ways to one server, as two servers of an ensemble are.
        let server = Server::start(kind);
        let (a, b) = (Proxy::start(server.port).await, Proxy::start(server.port).await);
        let client = connect(&format!("{},{}", a.address, b.address), LONG_MS).await;
        let id = client.session_id();
        client.create("/e", b"", &EPHEMERAL).await.unwrap();
        for _ in 0..3 {
            for (cut, other) in [(&a, &b), (&b, &a)] {
                cut.cut();
                eventually("the other serves", || async { client.sync("/").await.ok() }).await;
                let stat = client.check_stat("/e").await.unwrap().unwrap();
                assert_eq!((stat.ephemeral_owner, client.session_id()), (id.0, id), "{kind:?}");
                let _ = other;
                cut.mend();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ephemerals_are_gone_when_close_returns_and_when_the_last_handle_is_dropped() {
    for kind in BOTH {
        let server = Server::start(kind);
        let other = connect(&server.address(), LONG_MS).await;
        let client = connect(&server.address(), LONG_MS).await;
        client.create("/closed", b"", &EPHEMERAL).await.unwrap();
        client.close().await.unwrap();
        assert_eq!(other.check_stat("/closed").await.unwrap(), None, "{kind:?}");
        let client = connect(&server.address(), LONG_MS).await;
        client.create("/dropped", b"", &EPHEMERAL).await.unwrap();
        drop(client);
        eventually("it is gone", || async { other.check_stat("/dropped").await.unwrap().is_none().then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_server_ended_is_expired() {
    for kind in BOTH {
        let server = Server::start(kind);
        let proxy = Proxy::start(server.port).await;
        let client = connect(&proxy.address, 2000).await;
        client.create("/e", b"", &EPHEMERAL).await.unwrap();
        let (_, _, watcher) = client.get_and_watch_data("/e").await.unwrap();
        let mut state = client.state_watcher();
        let other = connect(&server.address(), LONG_MS).await;
        proxy.cut();
        reach(&mut state, SessionState::Disconnected).await;
        eventually("the server ends it", || async { other.check_stat("/e").await.unwrap().is_none().then_some(()) }).await;
        assert_eq!(state.state(), SessionState::Disconnected, "{kind:?}: only a server decides");
        proxy.mend();
        reach(&mut state, SessionState::Expired).await;
        let event = soon("the watcher's end", watcher.changed()).await;
        assert_eq!((event.event_type, event.session_state), (EventType::Session, SessionState::Expired));
        assert_eq!(client.create("/x", b"", &PERSISTENT).await.unwrap_err(), Error::SessionExpired);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_client_goes_on_with_a_session() {
    for kind in BOTH {
        let server = Server::start(kind);
        let proxy = Proxy::start(server.port).await;
        let first = connect(&proxy.address, LONG_MS).await;
        first.create("/e", b"", &EPHEMERAL).await.unwrap();
        proxy.cut();
        let second = Client::connector().with_session_timeout(Duration::from_secs(30)).with_session(first.session());
        let second = second.connect(&server.address()).await.unwrap();
        assert_eq!(second.session_id(), first.session_id());
        assert_eq!(second.check_stat("/e").await.unwrap().unwrap().ephemeral_owner, first.session_id().0);
        second.close().await.unwrap();
        proxy.mend();
        let mut state = first.state_watcher();
        reach(&mut state, SessionState::Expired).await;
        let again = Client::connector().with_session(first.session()).connect(&server.address()).await;
        assert_eq!(again.err(), Some(Error::SessionExpired), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_is_kept_and_the_granted_time_out_counts() {
    for kind in BOTH {
        let server = Server::start(kind);
        // Granted is at least two ticks of 500 ms.
        let client = connect(&server.address(), 1).await;
        assert_eq!(client.session_timeout(), Duration::from_millis(1000), "{kind:?}");
        client.create("/e", b"", &EPHEMERAL).await.unwrap();
        let mut state = client.state_watcher();
        assert_eq!(state.state(), SessionState::SyncConnected);
        let change = tokio::time::timeout(Duration::from_secs(4), state.changed()).await;
        assert!(change.is_err(), "{kind:?}: {change:?}");
        assert!(client.check_stat("/e").await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_requests_at_once_are_answered_in_their_order() {
    for kind in BOTH {
        let server = Server::start(kind);
        let client = Client::connector().with_session_timeout(Duration::from_secs(30)).with_queue(100, 64 * 1024);
        let client = client.connect(&server.address()).await.unwrap();
        client.create("/n", b"", &PERSISTENT).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for i in 0..5000 {
            let c = client.clone();
            tasks.spawn(async move {
                match i % 2 {
                    0 => c.set_data("/n", &[0; 200], None).await.unwrap().version,
                    _ => c.get_data("/n").await.unwrap().1.version,
                }
            });
        }
        let mut highest = 0;
        while let Some(version) = soon("an answer", tasks.join_next()).await {
            highest = highest.max(version.unwrap());
        }
        assert_eq!(highest, 2500, "{kind:?}");
    }
}

/// Each server is killed in turn, the leader first, while sequential nodes are created and a watch is held.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_lives_on_an_ensemble_whose_servers_die_in_turn() {
    for kind in BOTH {
        let mut servers = Server::start_three(kind);
        let addresses = servers.iter().map(Server::address).collect::<Vec<_>>().join(",");
        let client = connect(&addresses, LONG_MS).await;
        let id = client.session_id();
        client.create("/e", b"", &EPHEMERAL).await.unwrap();
        client.create("/n", b"", &PERSISTENT).await.unwrap();
        client.create("/watched", b"", &PERSISTENT).await.unwrap();
        let (_, _, watcher) = client.get_and_watch_data("/watched").await.unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (c, stopped) = (client.clone(), stop.clone());
        let writing = tokio::spawn(async move {
            let sequential = septet_zookeeper::CreateMode::PersistentSequential.with_acls(septet_zookeeper::Acls::anyone_all());
            let mut acknowledged = Vec::new();
            while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
                match c.create("/n/", b"", &sequential).await {
                    Ok(created) => acknowledged.push(created.path["/n/".len()..].to_owned()),
                    // It may have been created: then it has a number that nobody was told.
                    Err(Error::ConnectionLoss) => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(e) => panic!("{e}"),
                }
            }
            acknowledged
        });
        let first = servers.iter().position(Server::leads).unwrap();
        for i in [first, (first + 1) % 3, (first + 2) % 3] {
            servers[i].kill();
            let limit = if matches!(kind, Kind::Ours) { DEADLINE } else { ELECTED_WITHIN };
            eventually_within(limit, "two serve", || async { client.set_data("/n", b"", None).await.ok() }).await;
            servers[i].restart();
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        let acknowledged = writing.await.unwrap();
        eventually("a sync", || async { client.sync("/").await.ok() }).await;
        let there: std::collections::BTreeSet<String> = client.list_children("/n").await.unwrap().into_iter().collect();
        assert!(!acknowledged.is_empty() && acknowledged.windows(2).all(|w| w[0] < w[1]), "{kind:?}");
        let lost: Vec<_> = acknowledged.iter().filter(|n| !there.contains(*n)).collect();
        assert!(lost.is_empty(), "{kind:?}: {lost:?}");
        assert_eq!(client.session_id(), id);
        assert_eq!(client.check_stat("/e").await.unwrap().unwrap().ephemeral_owner, id.0);
        client.set_data("/watched", b"", None).await.unwrap();
        assert_eq!(soon("the watch", watcher.changed()).await.event_type, EventType::NodeDataChanged);
    }
}

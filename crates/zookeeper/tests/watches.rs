//! Watches on real servers, ours and Apache's: their order, and that they survive lost connections.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeSet;

use common::{
    PERSISTENT, connect, eventually,
    proxy::Proxy,
    server::{BOTH, Server},
    soon,
};
use septet_zookeeper::{AddWatchMode, EventType, PersistentWatcher, SessionState, WatchedEvent};

const LONG_MS: u64 = 30_000;

async fn next(watcher: &mut PersistentWatcher) -> WatchedEvent {
    soon("an event", watcher.changed()).await
}

/// The next event on a node.
async fn node(watcher: &mut PersistentWatcher) -> (EventType, String) {
    loop {
        let event = next(watcher).await;
        if event.event_type != EventType::Session {
            return (event.event_type, event.path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_watch_fires_once_for_what_it_watches() {
    for kind in BOTH {
        let server = Server::start(kind);
        let client = connect(&server.address(), LONG_MS).await;
        let (stat, created) = client.check_and_watch_stat("/a").await.unwrap();
        assert_eq!(stat, None);
        client.create("/a", b"", &PERSISTENT).await.unwrap();
        assert_eq!(soon("created", created.changed()).await.event_type, EventType::NodeCreated);
        let (_, _, data) = client.get_and_watch_data("/a").await.unwrap();
        let (stat, exists) = client.check_and_watch_stat("/a").await.unwrap();
        assert!(stat.is_some());
        let (_, children) = client.list_and_watch_children("/a").await.unwrap();
        client.set_data("/a", b"1", None).await.unwrap();
        for watcher in [data, exists] {
            let event = soon("changed", watcher.changed()).await;
            assert_eq!((event.event_type, event.path.as_str()), (EventType::NodeDataChanged, "/a"), "{kind:?}");
        }
        client.create("/a/b", b"", &PERSISTENT).await.unwrap();
        assert_eq!(soon("children", children.changed()).await.event_type, EventType::NodeChildrenChanged);
        let (_, _, data) = client.get_and_watch_data("/a/b").await.unwrap();
        let (_, children) = client.list_and_watch_children("/a/b").await.unwrap();
        client.delete("/a/b", None).await.unwrap();
        for watcher in [data, children] {
            assert_eq!(soon("deleted", watcher.changed()).await.event_type, EventType::NodeDeleted);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_comes_before_the_data_that_it_tells_of() {
    for kind in BOTH {
        let server = Server::start(kind);
        let (reader, writer) = (connect(&server.address(), LONG_MS).await, connect(&server.address(), LONG_MS).await);
        writer.create("/n", b"0", &PERSISTENT).await.unwrap();
        let writing = tokio::spawn(async move {
            for i in 1..=300 {
                writer.set_data("/n", format!("{i}").as_bytes(), None).await.unwrap();
            }
        });
        let mut seen = 0;
        while seen < 300 {
            let (_, watched, watcher) = reader.get_and_watch_data("/n").await.unwrap();
            seen = watched.version;
            if seen == 300 {
                break;
            }
            // Read until there is something new: by then the event is there, without any waiting.
            while reader.get_data("/n").await.unwrap().1.version == seen {}
            let event = futures_now(watcher.changed()).await;
            assert_eq!(event.map(|e| e.event_type), Some(EventType::NodeDataChanged), "{kind:?} after {seen}");
        }
        writing.await.unwrap();
    }
}

/// The result of a future that is ready.
async fn futures_now<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! { biased; t = future => Some(t), () = std::future::ready(()) => None }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_set_before_a_cut_fire_for_what_changed_during_it() {
    for kind in BOTH {
        let server = Server::start(kind);
        let proxy = Proxy::start(server.port).await;
        let (client, other) = (connect(&proxy.address, LONG_MS).await, connect(&server.address(), LONG_MS).await);
        for path in ["/set", "/deleted", "/parent", "/quiet"] {
            other.create(path, b"", &PERSISTENT).await.unwrap();
        }
        let set = client.get_and_watch_data("/set").await.unwrap().2;
        let deleted = client.get_and_watch_data("/deleted").await.unwrap().2;
        let created = client.check_and_watch_stat("/created").await.unwrap().1;
        let children = client.list_and_watch_children("/parent").await.unwrap().1;
        let quiet = client.get_and_watch_data("/quiet").await.unwrap().2;
        let never = client.check_and_watch_stat("/never").await.unwrap().1;
        proxy.cut();
        let mut state = client.state_watcher();
        while state.state() == SessionState::SyncConnected {
            soon("the cut", state.changed()).await;
        }
        other.set_data("/set", b"1", None).await.unwrap();
        other.delete("/deleted", None).await.unwrap();
        other.create("/created", b"", &PERSISTENT).await.unwrap();
        other.create("/parent/x", b"", &PERSISTENT).await.unwrap();
        proxy.mend();
        for (watcher, path, want) in [
            (set, "/set", EventType::NodeDataChanged),
            (deleted, "/deleted", EventType::NodeDeleted),
            (created, "/created", EventType::NodeCreated),
            (children, "/parent", EventType::NodeChildrenChanged),
        ] {
            let event = soon(path, watcher.changed()).await;
            assert_eq!((event.event_type, event.path.as_str()), (want, path), "{kind:?}");
        }
        // Those with nothing to tell are set again, too.
        other.set_data("/quiet", b"1", None).await.unwrap();
        other.create("/never", b"", &PERSISTENT).await.unwrap();
        assert_eq!(soon("/quiet", quiet.changed()).await.event_type, EventType::NodeDataChanged);
        assert_eq!(soon("/never", never.changed()).await.event_type, EventType::NodeCreated);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn persistent_watches_tell_of_all_changes_and_of_the_connection() {
    for kind in BOTH {
        let server = Server::start(kind);
        let proxy = Proxy::start(server.port).await;
        let client = connect(&proxy.address, LONG_MS).await;
        let other = connect(&server.address(), LONG_MS).await;
        let mut one = client.watch("/a", AddWatchMode::Persistent).await.unwrap();
        let mut all = client.watch("/", AddWatchMode::PersistentRecursive).await.unwrap();
        for path in ["/a", "/a/b", "/a/b/c"] {
            other.create(path, b"", &PERSISTENT).await.unwrap();
        }
        other.set_data("/a", b"", None).await.unwrap();
        other.delete("/a/b/c", None).await.unwrap();
        for (event, path) in [(EventType::NodeCreated, "/a"), (EventType::NodeChildrenChanged, "/a"), (EventType::NodeDataChanged, "/a")] {
            assert_eq!(node(&mut one).await, (event, path.to_owned()));
        }
        for (event, path) in [
            (EventType::NodeCreated, "/a"),
            (EventType::NodeCreated, "/a/b"),
            (EventType::NodeCreated, "/a/b/c"),
            (EventType::NodeDataChanged, "/a"),
            (EventType::NodeDeleted, "/a/b/c"),
        ] {
            assert_eq!(node(&mut all).await, (event, path.to_owned()));
        }
        proxy.cut();
        for watcher in [&mut one, &mut all] {
            assert_eq!(next(watcher).await.session_state, SessionState::Disconnected);
        }
        proxy.mend();
        for watcher in [&mut one, &mut all] {
            assert_eq!(next(watcher).await.session_state, SessionState::SyncConnected);
        }
        // What follows the connected event is seen: the watches are set before any request.
        client.sync("/").await.unwrap();
        other.set_data("/a", b"2", None).await.unwrap();
        assert_eq!(node(&mut one).await, (EventType::NodeDataChanged, "/a".into()));
        assert_eq!(node(&mut all).await, (EventType::NodeDataChanged, "/a".into()));
        client.close().await.unwrap();
        for watcher in [&mut one, &mut all] {
            for _ in 0..2 {
                assert_eq!(next(watcher).await.session_state, SessionState::Closed);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_recursive_watches_are_all_there_after_each_cut() {
    const COUNT: usize = 5000;
    for kind in BOTH {
        let server = Server::start(kind);
        let proxy = Proxy::start(server.port).await;
        let client = connect(&proxy.address, LONG_MS).await;
        let other = connect(&server.address(), LONG_MS).await;
        other.create("/w", b"", &PERSISTENT).await.unwrap();
        let path = |i: usize| format!("/w/a-node-with-a-name-of-some-length-so-that-there-are-several-frames-{i:06}");
        let mut watchers = Vec::new();
        for i in 0..COUNT {
            // Every tenth with a watch that lives on the same node for one event.
            watchers.push(client.watch(&path(i), AddWatchMode::PersistentRecursive).await.unwrap());
        }
        for round in 0..3 {
            proxy.cut();
            let mut state = client.state_watcher();
            while state.state() == SessionState::SyncConnected {
                soon("the cut", state.changed()).await;
            }
            proxy.mend();
            while state.state() != SessionState::SyncConnected {
                soon("the connection", state.changed()).await;
            }
            // Answered behind the frames that set the watches.
            eventually("a sync", || async { client.sync("/").await.ok() }).await;
            let mut tasks = tokio::task::JoinSet::new();
            for i in 0..COUNT {
                let (other, path) = (other.clone(), path(i));
                tasks.spawn(async move {
                    match round % 2 {
                        0 => other.create(&path, b"", &PERSISTENT).await.map(drop),
                        _ => other.delete(&path, None).await,
                    }
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap().unwrap();
            }
            let mut seen = BTreeSet::new();
            for watcher in &mut watchers {
                let (event, path) = node(watcher).await;
                assert_eq!(event, if round % 2 == 0 { EventType::NodeCreated } else { EventType::NodeDeleted });
                seen.insert(path);
            }
            assert_eq!(seen.len(), COUNT, "round {round}");
        }
        drop(watchers);
        eventually("the server has none", || async { (server.watch_count() == Some(0)).then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_watchers_are_taken_back_and_others_on_the_same_path_stay() {
    for kind in BOTH {
        let server = Server::start(kind);
        let client = connect(&server.address(), LONG_MS).await;
        client.create("/n", b"", &PERSISTENT).await.unwrap();
        let count = |wanted: u64| {
            let server = &server;
            eventually("the count", move || async move { (server.watch_count() == Some(wanted)).then_some(()) })
        };
        let (_, _, first) = client.get_and_watch_data("/n").await.unwrap();
        let (_, _, second) = client.get_and_watch_data("/n").await.unwrap();
        let (_, children) = client.list_and_watch_children("/n").await.unwrap();
        count(2).await;
        drop(first);
        drop(children);
        count(1).await;
        client.set_data("/n", b"1", None).await.unwrap();
        assert_eq!(soon("the second", second.changed()).await.event_type, EventType::NodeDataChanged);
        count(0).await;
        // Dropped while another is being set: the new one stays.
        for _ in 0..100 {
            let (_, _, old) = client.get_and_watch_data("/n").await.unwrap();
            let asking = client.get_and_watch_data("/n");
            drop(old);
            let (_, _, new) = asking.await.unwrap();
            client.set_data("/n", b"2", None).await.unwrap();
            assert_eq!(soon("the new one", new.changed()).await.event_type, EventType::NodeDataChanged);
        }
        count(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persistent_watch_outlives_one_shot_watches_on_its_path() {
    for kind in BOTH {
        let server = Server::start(kind);
        let client = connect(&server.address(), LONG_MS).await;
        client.create("/n", b"", &PERSISTENT).await.unwrap();
        let mut persistent = client.watch("/n", AddWatchMode::Persistent).await.unwrap();
        for round in 0..3 {
            let (_, _, data) = client.get_and_watch_data("/n").await.unwrap();
            let (_, children) = client.list_and_watch_children("/n").await.unwrap();
            client.set_data("/n", b"", None).await.unwrap();
            client.create(&format!("/n/{round}"), b"", &PERSISTENT).await.unwrap();
            assert_eq!(soon("data", data.changed()).await.event_type, EventType::NodeDataChanged);
            assert_eq!(soon("children", children.changed()).await.event_type, EventType::NodeChildrenChanged);
            assert_eq!(node(&mut persistent).await.0, EventType::NodeDataChanged);
            assert_eq!(node(&mut persistent).await.0, EventType::NodeChildrenChanged);
        }
        // The one-shot watch stays when the persistent one goes.
        let (_, _, data) = client.get_and_watch_data("/n").await.unwrap();
        drop(persistent);
        client.sync("/").await.unwrap();
        client.set_data("/n", b"", None).await.unwrap();
        assert_eq!(soon("data", data.changed()).await.event_type, EventType::NodeDataChanged);
        eventually("the server has none", || async { (server.watch_count() == Some(0)).then_some(()) }).await;
    }
}

//! The client against a scripted server: exact bytes, lost connections, bounds, garbage.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::Duration;

use common::{
    PERSISTENT, connect,
    fake::{Connection, Fake, head, string},
    soon,
};
use septet_zookeeper::{AddWatchMode, Client, Error, EventType, SessionState};

const SESSION: i64 = 0x1234_5678;

async fn pair() -> (Fake, Connection, Client) {
    let fake = Fake::start().await;
    let (connection, client) = tokio::join!(fake.serve(SESSION, 30_000), connect(&fake.address, 30_000));
    (fake, connection, client)
}

/// 68 bytes.
const STAT: [u8; 68] = [0; 68];

#[tokio::test]
async fn the_first_record_is_zookeepers() {
    let fake = Fake::start().await;
    let given_up = tokio::time::timeout(Duration::from_millis(300), Client::connect(&fake.address));
    let (mut connection, never) = tokio::join!(fake.accept(), given_up);
    assert!(never.is_err());
    let want: [&[u8]; 6] = [&[0; 4], &[0; 8], &6000i32.to_be_bytes(), &[0; 8], &16i32.to_be_bytes(), &[0; 17]];
    assert_eq!(connection.hello, want.concat());
    assert!(connection.is_ended().await);
}

#[tokio::test]
async fn requests_are_written_as_zookeeper_reads_them_and_none_waits_for_another() {
    let (_fake, mut connection, client) = pair().await;
    let (c, root) = (client.clone(), client.clone().chroot("/r").unwrap());
    let calls = tokio::spawn(async move {
        tokio::join!(
            root.create("/n", b"data", &PERSISTENT),
            c.get_data("/n"),
            c.set_data("/n", b"x", Some(3)),
            c.delete("/n", None),
            c.check_stat("/n"),
            root.get_children("/"),
            c.sync("/"),
        )
    });
    let want: [(i32, Vec<u8>); 7] = [
        (15, [string("/r/n"), string("data"), vec![0, 0, 0, 1, 0, 0, 0, 31], string("world"), string("anyone"), vec![0; 4]].concat()),
        (4, [string("/n"), vec![0]].concat()),
        (5, [string("/n"), string("x"), vec![0, 0, 0, 3]].concat()),
        (2, [string("/n"), vec![255; 4]].concat()),
        (3, [string("/n"), vec![0]].concat()),
        (12, [string("/r"), vec![0]].concat()),
        (9, string("/")),
    ];
    for (i, (op, body)) in want.iter().enumerate() {
        let frame = connection.frame().await;
        assert_eq!(head(&frame), (i as i32 + 1, *op));
        assert_eq!(frame[8..], body[..], "operation {op}");
    }
    connection.reply(1, 1, 0, &[string("/r/n"), STAT.to_vec()].concat()).await;
    connection.reply(2, 1, 0, &[string("data"), STAT.to_vec()].concat()).await;
    connection.reply(3, 2, -103, &[]).await;
    connection.reply(4, 3, 0, &[]).await;
    connection.reply(5, 3, -101, &[]).await;
    connection.reply(6, 3, 0, &[vec![0, 0, 0, 2], string("a"), string("b"), STAT.to_vec()].concat()).await;
    connection.reply(7, 3, 0, &string("/")).await;
    let (created, data, set, deleted, stat, children, synced) = soon("all", calls).await.unwrap();
    assert_eq!(created.unwrap().path, "/n");
    assert_eq!(data.unwrap().0, b"data");
    assert_eq!(set, Err(Error::BadVersion));
    assert_eq!((deleted, stat, synced), (Ok(()), Ok(None), Ok(())));
    assert_eq!(children.unwrap().0, ["a", "b"]);
}

#[tokio::test]
async fn what_was_under_way_fails_when_the_connection_is_lost_and_is_not_sent_again() {
    let (fake, mut connection, client) = pair().await;
    let (c, d) = (client.clone(), client.clone());
    let write = tokio::spawn(async move { c.set_data("/w", b"x", None).await });
    let read = tokio::spawn(async move { d.get_data("/r").await });
    for _ in 0..2 {
        connection.frame().await;
    }
    connection.reply(-2, 77, 0, &[]).await;
    drop(connection);
    assert_eq!(soon("the write", write).await.unwrap(), Err(Error::ConnectionLoss));
    assert_eq!(soon("the read", read).await.unwrap().unwrap_err(), Error::ConnectionLoss);
    let mut connection = fake.accept().await;
    // The session, its password, and the newest transaction seen.
    assert_eq!(connection.hello[4..12], 77i64.to_be_bytes());
    assert_eq!(connection.hello[16..24], SESSION.to_be_bytes());
    assert_eq!(connection.hello[28..44], common::fake::PASSWORD);
    connection.welcome(SESSION, 30_000).await;
    let c = client.clone();
    let next = tokio::spawn(async move { c.sync("/").await });
    let frame = connection.frame().await;
    assert_eq!(head(&frame), (3, 9), "only what was asked anew");
    connection.reply(3, 78, 0, &string("/")).await;
    soon("the next", next).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_session_is_over_only_when_a_server_says_so() {
    let fake = Fake::start().await;
    let (connection, client) = tokio::join!(fake.serve(SESSION, 400), connect(&fake.address, 30_000));
    let mut state = client.state_watcher();
    drop(connection);
    // Longer than the time-out without any server that answers.
    for _ in 0..8 {
        drop(fake.accept().await);
    }
    assert_ne!(state.state(), SessionState::Expired);
    let mut connection = fake.accept().await;
    connection.welcome(0, 0).await;
    while soon("the end", state.changed()).await != SessionState::Expired {}
    assert_eq!(client.get_data("/x").await.unwrap_err(), Error::SessionExpired);
    assert_eq!(client.close().await, Err(Error::SessionExpired));
}

#[tokio::test]
async fn pings_keep_the_session_and_silence_ends_the_connection() {
    let fake = Fake::start().await;
    let (mut connection, client) = tokio::join!(fake.serve(SESSION, 1500), connect(&fake.address, 30_000));
    let ping = connection.any_frame().await.unwrap();
    assert_eq!(head(&ping), (-2, 11));
    // It is not answered: the client gives up and comes back with the same session.
    let mut connection = fake.accept().await;
    assert_eq!(connection.hello[16..24], SESSION.to_be_bytes());
    connection.welcome(SESSION, 1500).await;
    assert_eq!(head(&connection.any_frame().await.unwrap()), (-2, 11));
    drop(client);
}

#[tokio::test]
async fn garbage_ends_the_connection_and_not_the_client() {
    let (fake, mut connection, client) = pair().await;
    let frames: [&[u8]; 8] = [
        b"",
        &[1, 2, 3],
        // An answer that nobody waits for, an identity that was not presented.
        &[&99i32.to_be_bytes()[..], &[0; 12]].concat(),
        &[&(-4i32).to_be_bytes()[..], &[0; 12]].concat(),
        &[&(-8i32).to_be_bytes()[..], &[0; 12]].concat(),
        // Events that end early, with a path of a negative length, and one that is not text.
        &[&(-1i32).to_be_bytes()[..], &[0; 12], &[0; 8]].concat(),
        &[&(-1i32).to_be_bytes()[..], &[0; 12], &[0; 8], &[0x80, 0, 0, 0]].concat(),
        &[&(-1i32).to_be_bytes()[..], &[0; 12], &[0; 8], &[0, 0, 0, 1, 0xff]].concat(),
    ];
    for frame in frames {
        connection.send(frame).await;
        assert!(connection.is_ended().await, "{frame:?}");
        connection = fake.serve(SESSION, 30_000).await;
    }
    for length in [-1, i32::MIN, i32::MAX, (4 << 20) + 1] {
        use tokio::io::AsyncWriteExt;
        connection.stream.write_all(&length.to_be_bytes()).await.unwrap();
        assert!(connection.is_ended().await, "{length}");
        connection = fake.serve(SESSION, 30_000).await;
    }
    // An event of a type that is not known yet is passed over.
    connection.send(&[&(-1i32).to_be_bytes()[..], &[0; 12], &[0, 0, 0, 99, 0, 0, 0, 3], &string("/x")].concat()).await;
    // An answer that does not decode is an error of its request alone.
    let c = client.clone();
    let call = tokio::spawn(async move { c.get_data("/x").await });
    let (xid, _) = head(&connection.frame().await);
    connection.reply(xid, 1, 0, &[0, 0, 1, 0]).await;
    assert!(matches!(soon("the answer", call).await.unwrap(), Err(Error::MalformedAnswer(_))));
    assert_eq!(client.state(), SessionState::SyncConnected);
}

#[tokio::test]
async fn callers_wait_while_the_queue_is_full() {
    let fake = Fake::start().await;
    let connector = Client::connector().with_session_timeout(Duration::from_secs(30)).with_max_request(2000).with_queue(3, 3000);
    let (mut connection, client) = tokio::join!(fake.serve(SESSION, 30_000), connector.connect(&fake.address));
    let client = client.unwrap();
    let too_large = client.set_data("/x", &[0; 2000], None).await.unwrap_err();
    assert!(matches!(too_large, Error::RequestTooLarge { limit: 2000, .. }), "{too_large}");
    let send = |data: usize| {
        let c = client.clone();
        tokio::spawn(async move { c.set_data("/x", &vec![0; data], None).await })
    };
    let mut calls: Vec<_> = (0..5).map(|_| send(10)).collect();
    for xid in 1..=3 {
        assert_eq!(head(&connection.frame().await).0, xid);
    }
    // The fourth comes when the first is answered; until then there is nothing but time.
    let early = tokio::time::timeout(Duration::from_millis(300), connection.any_frame()).await;
    assert!(early.is_err(), "{early:?}");
    connection.reply(1, 1, 0, &STAT).await;
    assert_eq!(head(&connection.frame().await).0, 4);
    for xid in 2..=4 {
        connection.reply(xid, 1, 0, &STAT).await;
    }
    assert_eq!(head(&connection.frame().await).0, 5);
    connection.reply(5, 1, 0, &STAT).await;
    for call in calls.drain(..) {
        soon("an answer", call).await.unwrap().unwrap();
    }
    // Bytes are counted too: of two large ones the second waits.
    let calls = [send(1500), send(1500)];
    assert_eq!(head(&connection.frame().await).0, 6);
    assert!(tokio::time::timeout(Duration::from_millis(300), connection.any_frame()).await.is_err());
    connection.reply(6, 1, 0, &STAT).await;
    assert_eq!(head(&connection.frame().await).0, 7);
    connection.reply(7, 1, 0, &STAT).await;
    for call in calls {
        soon("an answer", call).await.unwrap().unwrap();
    }
    // One that is given up before it was written is not sent; its room is free again.
    let mut held: Vec<_> = (0..3).map(|_| send(10)).collect();
    for xid in 8..=10 {
        assert_eq!(head(&connection.frame().await).0, xid);
    }
    let given_up = send(10);
    tokio::task::yield_now().await;
    given_up.abort();
    let _ = given_up.await;
    for xid in 8..=10 {
        connection.reply(xid, 1, 0, &STAT).await;
    }
    for call in held.drain(..) {
        soon("an answer", call).await.unwrap().unwrap();
    }
    let last = send(11);
    assert_eq!(head(&connection.frame().await).0, 11);
    connection.reply(11, 1, 0, &STAT).await;
    soon("the last", last).await.unwrap().unwrap();
}

#[tokio::test]
async fn watches_are_set_again_in_bounded_frames_before_anything_else() {
    let (fake, mut connection, client) = pair().await;
    // 3,000 recursive watches and 100 of each other kind, on paths of 100 bytes.
    let path = |kind: &str, i: usize| format!("/{kind}{i:0>98}");
    let mut persistent = Vec::new();
    let mut once = Vec::new();
    let c = client.clone();
    let asking = tokio::spawn(async move {
        for i in 0..3000 {
            persistent.push(c.watch(&path("r", i), AddWatchMode::PersistentRecursive).await.unwrap());
        }
        for i in 0..100 {
            persistent.push(c.watch(&path("p", i), AddWatchMode::Persistent).await.unwrap());
            once.push(c.get_and_watch_data(&path("d", i)).await.unwrap().2);
            once.push(c.check_and_watch_stat(&path("e", i)).await.unwrap().1);
            once.push(c.list_and_watch_children(&path("c", i)).await.unwrap().1);
        }
        (persistent, once)
    });
    for xid in 1..=3400 {
        let frame = connection.frame().await;
        let (got, op) = head(&frame);
        assert_eq!(got, xid);
        match op {
            106 => connection.reply(xid, 500, 0, &[]).await,
            4 => connection.reply(xid, 500, 0, &[vec![0; 4], STAT.to_vec()].concat()).await,
            3 => connection.reply(xid, 500, -101, &[]).await,
            12 => connection.reply(xid, 500, 0, &[vec![0; 4], STAT.to_vec()].concat()).await,
            other => panic!("{other}"),
        }
    }
    let (persistent, once) = soon("all watches", asking).await.unwrap();
    drop(connection);
    let mut connection = fake.serve(SESSION, 30_000).await;
    let mut counts = [0; 5];
    let mut frames = 0;
    let c = client.clone();
    let after = tokio::spawn(async move { c.sync("/").await });
    loop {
        let frame = connection.frame().await;
        if head(&frame).1 == 9 {
            break;
        }
        frames += 1;
        assert_eq!(head(&frame), (-8, 105));
        assert_eq!(frame[8..16], 500i64.to_be_bytes());
        assert!(frame.len() < 128 * 1024 + 1024, "{}", frame.len());
        let mut r = septet_zookeeper::jute::Reader(&frame[16..]);
        for count in &mut counts {
            *count += r.vector(4, |r| r.string()).unwrap().len();
        }
        assert!(r.is_empty());
        connection.reply(-8, 500, 0, &[]).await;
    }
    assert_eq!(counts, [100, 100, 100, 100, 3000]);
    assert_eq!(frames, 3);
    connection.reply(3401, 500, 0, &string("/")).await;
    soon("the request after them", after).await.unwrap().unwrap();
    drop(persistent);
    drop(once);
    // Each is taken back.
    let mut removed = 0;
    while removed < 3400 {
        let frame = connection.frame().await;
        assert_eq!(head(&frame).1, 18);
        connection.reply(head(&frame).0, 500, 0, &[]).await;
        removed += 1;
    }
}

#[tokio::test]
async fn watches_that_are_refused_again_tell_their_watchers() {
    let (fake, mut connection, client) = pair().await;
    let (watcher, ()) = tokio::join!(client.check_and_watch_stat("/x"), async {
        connection.frame().await;
        connection.reply(1, 5, -101, &[]).await
    });
    let (_, watcher) = watcher.unwrap();
    drop(connection);
    let mut connection = fake.serve(SESSION, 30_000).await;
    assert_eq!(head(&connection.frame().await), (-8, 101));
    connection.reply(-8, 5, -6, &[]).await;
    let event = soon("word of it", watcher.changed()).await;
    assert_eq!((event.event_type, event.session_state), (EventType::Session, SessionState::SyncConnected));
}

#[tokio::test]
async fn events_that_nobody_takes_are_bounded() {
    let (_fake, mut connection, client) = pair().await;
    let (watcher, ()) = tokio::join!(client.watch("/a", AddWatchMode::PersistentRecursive), async {
        connection.frame().await;
        connection.reply(1, 5, 0, &[]).await
    });
    let mut watcher = watcher.unwrap();
    let capacity = septet_zookeeper::PersistentWatcher::CAPACITY;
    for i in 0..=capacity {
        connection
            .send(&[&(-1i32).to_be_bytes()[..], &[255; 8], &[0; 4], &[0, 0, 0, 3, 0, 0, 0, 3], &string(&format!("/a/{i}"))].concat())
            .await;
    }
    let (synced, ()) = tokio::join!(client.sync("/"), async {
        connection.frame().await;
        connection.reply(2, 5, 0, &string("/")).await
    });
    synced.unwrap();
    assert_eq!(watcher.changed().await.event_type, EventType::EventsLost);
    let event = watcher.changed().await;
    assert_eq!((event.event_type, event.path), (EventType::NodeDataChanged, format!("/a/{capacity}")));
}

#[tokio::test]
async fn dropping_the_last_handle_and_close_end_the_session() {
    let (_fake, mut connection, client) = pair().await;
    let other = client.clone();
    drop(client);
    let (closed, ()) = tokio::join!(other.close(), async {
        assert_eq!(head(&connection.frame().await).1, -11);
        connection.reply(1, 5, 0, &[]).await;
    });
    closed.unwrap();
    assert!(connection.is_ended().await);
    assert_eq!(other.get_data("/x").await.unwrap_err(), Error::ClientClosed);
    assert_eq!(other.close().await, Ok(()));

    let (_fake, mut connection, client) = pair().await;
    drop(client);
    assert_eq!(head(&connection.frame().await).1, -11);
    connection.reply(1, 5, 0, &[]).await;
    assert!(connection.is_ended().await);

    // A server that does not confirm it.
    let (_fake, mut connection, client) = pair().await;
    let (closed, ()) = tokio::join!(client.close(), async {
        connection.frame().await;
        drop(connection);
    });
    assert_eq!(closed, Err(Error::ConnectionLoss));
    assert_eq!(client.state(), SessionState::Closed);
}

#[tokio::test]
async fn a_refused_identity_ends_the_session() {
    let (_fake, mut connection, client) = pair().await;
    let (refused, ()) = tokio::join!(client.auth("digest", b"u:p"), async {
        let frame = connection.frame().await;
        assert_eq!(head(&frame), (-4, 100));
        assert_eq!(frame[8..], [vec![0; 4], string("digest"), string("u:p")].concat());
        connection.reply(-4, 0, -115, &[]).await;
    });
    assert_eq!(refused, Err(Error::AuthFailed));
    assert!(connection.is_ended().await);
    assert_eq!(client.state(), SessionState::AuthFailed);
}

#[tokio::test]
async fn without_a_server_connecting_fails_after_one_round_and_requests_after_another() {
    let fake = Fake::start().await;
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let none = soon("an answer", Client::connect(&format!("{gone},{gone}"))).await;
    assert_eq!(none.err(), Some(Error::NoHosts));
    assert!(matches!(Client::connect("").await.err(), Some(Error::BadArguments(_))));
    let servers = format!("{},{gone}", fake.address);
    let (connection, client) = tokio::join!(fake.serve(SESSION, 30_000), connect(&servers, 30_000));
    drop(fake);
    drop(connection);
    let mut state = client.state_watcher();
    while state.state() != SessionState::Disconnected {
        soon("the loss", state.changed()).await;
    }
    assert_eq!(soon("an answer", client.get_data("/x")).await.unwrap_err(), Error::ConnectionLoss);
    assert_eq!(client.state(), SessionState::Disconnected);
}

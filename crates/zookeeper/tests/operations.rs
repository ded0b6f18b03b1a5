//! Every operation on real servers, ours and Apache's, with the same expectations.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::Duration;

use common::{
    EPHEMERAL, PERSISTENT, connect,
    server::{BOTH, Server},
};
use septet_zookeeper::{Acl, Acls, Client, CreateMode, Error, MultiReadResult, MultiWriteError, MultiWriteResult, Permission};

const LONG_MS: u64 = 30_000;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_created_read_changed_and_deleted() {
    for kind in BOTH {
        let server = Server::start(kind);
        let client = connect(&server.address(), LONG_MS).await;
        let created = client.create("/a", b"1", &PERSISTENT).await.unwrap();
        assert_eq!((created.path.as_str(), created.sequence(), created.stat.data_length), ("/a", None, 1));
        assert_eq!(client.create("/a", b"1", &PERSISTENT).await.unwrap_err(), Error::NodeExists);
        assert_eq!(client.create("/b/c", b"1", &PERSISTENT).await.unwrap_err(), Error::NoNode);
        let (data, stat) = client.get_data("/a").await.unwrap();
        assert_eq!((data.as_slice(), stat), (b"1".as_slice(), created.stat), "{kind:?}");
        assert_eq!(client.check_stat("/a").await.unwrap(), Some(stat));
        assert_eq!(client.check_stat("/b").await.unwrap(), None);
        assert_eq!(client.get_data("/b").await.unwrap_err(), Error::NoNode);
        let set = client.set_data("/a", b"two", Some(0)).await.unwrap();
        assert_eq!((set.version, set.data_length, set.czxid), (1, 3, stat.czxid));
        assert!(set.mzxid > stat.mzxid && set.ctime > 1_600_000_000_000);
        assert_eq!(client.set_data("/a", b"x", Some(0)).await.unwrap_err(), Error::BadVersion);
        let sequential = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
        for i in 0..3 {
            let created = client.create("/a/n-", b"", &sequential).await.unwrap();
            assert_eq!((created.path.clone(), created.sequence()), (format!("/a/n-{i:010}"), Some(i)));
        }
        // The name may be nothing but the number.
        assert_eq!(client.create("/a/", b"", &sequential).await.unwrap().path, "/a/0000000003");
        let (mut children, stat) = client.get_children("/a").await.unwrap();
        children.sort();
        assert_eq!(children, ["0000000003", "n-0000000000", "n-0000000001", "n-0000000002"]);
        assert_eq!((stat.num_children, stat.cversion), (4, 4));
        assert_eq!(client.delete("/a", None).await.unwrap_err(), Error::NotEmpty);
        let ephemeral = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
        let e = client.create("/a/e", b"", &ephemeral).await.unwrap();
        assert_eq!((e.sequence(), e.stat.ephemeral_owner), (Some(4), client.session_id().0));
        assert_eq!(client.create(&format!("{}/x", e.path), b"", &PERSISTENT).await.unwrap_err(), Error::NoChildrenForEphemerals);
        assert_eq!(client.delete(&e.path, Some(7)).await.unwrap_err(), Error::BadVersion);
        client.delete(&e.path, Some(0)).await.unwrap();
        client.sync("/a").await.unwrap();
        client.mkdir("/x/y/z", &PERSISTENT).await.unwrap();
        client.mkdir("/x/y/z", &PERSISTENT).await.unwrap();
        client.mkdir("/x/y2", &PERSISTENT).await.unwrap();
        assert_eq!(client.list_children("/x").await.unwrap().len(), 2);
        assert!(matches!(client.mkdir("/q", &EPHEMERAL).await, Err(Error::BadArguments(_))));
        for bad in ["", "x", "/x/", "/x//y", "/../x"] {
            assert!(matches!(client.get_data(bad).await, Err(Error::BadArguments(_))), "{bad:?}");
        }
        let large = vec![b'x'; 1_000_000];
        client.set_data("/a", &large, None).await.unwrap();
        assert_eq!(client.get_data("/a").await.unwrap().0, large);
        assert!(matches!(client.set_data("/a", &vec![0; 1 << 20], None).await, Err(Error::RequestTooLarge { .. })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_multi_does_all_or_nothing_and_names_the_operation_that_failed() {
    for kind in BOTH {
        let server = Server::start(kind);
        let client = connect(&server.address(), LONG_MS).await.chroot("/root").unwrap();
        assert_eq!(client.path(), "/root");
        assert_eq!(client.mkdir("/a", &PERSISTENT).await.unwrap_err(), Error::NoNode, "the root is not there yet");
        client.clone().create("/", b"", &PERSISTENT).await.unwrap();
        let mut multi = client.new_multi_writer();
        assert_eq!(multi.commit().await.unwrap(), []);
        multi.add_create("/a", b"1", &PERSISTENT).unwrap();
        multi.add_check_version("/a", 0).unwrap();
        multi.add_set_data("/a", b"2", Some(0)).unwrap();
        multi.add_create("/s-", b"", &CreateMode::PersistentSequential.with_acls(Acls::anyone_all())).unwrap();
        multi.add_create("/gone", b"", &EPHEMERAL).unwrap();
        multi.add_delete("/gone", None).unwrap();
        assert!(multi.add_delete("gone", None).is_err());
        assert_eq!(multi.len(), 6);
        let results = multi.commit().await.unwrap();
        let (MultiWriteResult::Create { path: a, .. }, MultiWriteResult::Create { path: s, .. }) = (&results[0], &results[3]) else {
            panic!("{results:?}");
        };
        assert_eq!((a.as_str(), s.as_str()), ("/a", "/s-0000000001"), "{kind:?}");
        let MultiWriteResult::SetData { stat } = &results[2] else { panic!("{results:?}") };
        assert_eq!((stat.version, stat.data_length), (1, 1));
        assert_eq!((&results[1], &results[5]), (&MultiWriteResult::Check, &MultiWriteResult::Delete));
        assert!(multi.is_empty());
        let failing: [(usize, Error); 3] = [(0, Error::BadVersion), (2, Error::NodeExists), (3, Error::NoNode)];
        for (index, error) in failing {
            multi.add_check_version("/a", if index == 0 { 7 } else { 1 }).unwrap();
            multi.add_set_data("/a", b"never", None).unwrap();
            multi.add_create(if index == 2 { "/a" } else { "/never" }, b"", &PERSISTENT).unwrap();
            multi.add_delete("/missing", None).unwrap();
            assert_eq!(multi.commit().await, Err(MultiWriteError::OperationFailed { index, source: error }), "{kind:?}");
        }
        assert_eq!(client.get_data("/a").await.unwrap().0, b"2");
        assert_eq!(client.check_stat("/never").await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_put_before_every_path_and_taken_off_every_answer() {
    for kind in BOTH {
        let server = Server::start(kind);
        let plain = connect(&server.address(), LONG_MS).await;
        plain.mkdir("/kafka/x", &PERSISTENT).await.unwrap();
        let rooted = Client::connect(&format!("{}/kafka", server.address())).await.unwrap();
        assert_eq!(rooted.list_children("/").await.unwrap(), ["x"]);
        let below = rooted.clone().chroot("/x").unwrap();
        assert_eq!(below.path(), "/kafka/x");
        let (_, watcher) = below.check_and_watch_stat("/y").await.unwrap();
        let (_, children) = below.list_and_watch_children("/").await.unwrap();
        assert_eq!(below.create("/y", b"1", &PERSISTENT).await.unwrap().path, "/y");
        assert_eq!(watcher.changed().await.path, "/y");
        assert_eq!(children.changed().await.path, "/", "{kind:?}");
        assert_eq!(plain.get_data("/kafka/x/y").await.unwrap().0, b"1");
        assert!(rooted.chroot("x").is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acls_identities_containers_and_time_to_live() {
    for kind in BOTH {
        let server = Server::start(kind);
        let client = connect(&server.address(), LONG_MS).await;
        let (acl, _) = {
            client.create("/open", b"", &PERSISTENT).await.unwrap();
            client.get_acl("/open").await.unwrap()
        };
        assert_eq!(acl, [Acl::new(Permission::ALL, "world", "anyone")]);
        client.auth("digest", b"user:secret").await.unwrap();
        let users = client.list_auth_users().await.unwrap();
        assert!(users.iter().any(|u| u.scheme == "digest" && u.user == "user"), "{users:?}");
        client.create("/mine", b"1", &CreateMode::Persistent.with_acls(Acls::creator_all())).await.unwrap();
        let other = connect(&server.address(), LONG_MS).await;
        assert_eq!(other.get_data("/mine").await.unwrap_err(), Error::NoAuth);
        let known = Client::connector().with_auth("digest", b"user:secret").connect(&server.address()).await.unwrap();
        assert_eq!(known.get_data("/mine").await.unwrap().0, b"1");
        let list = [Acl::new(Permission::READ | Permission::ADMIN, "world", "anyone")];
        let stat = known.set_acl("/mine", Acls::new(&list), Some(0)).await.unwrap();
        assert_eq!(stat.aversion, 1);
        assert_eq!(known.set_acl("/mine", Acls::new(&list), Some(0)).await.unwrap_err(), Error::BadVersion);
        assert_eq!(other.get_data("/mine").await.unwrap().0, b"1");
        assert_eq!(other.set_data("/mine", b"", None).await.unwrap_err(), Error::NoAuth);

        client.create("/container", b"", &CreateMode::Container.with_acls(Acls::anyone_all())).await.unwrap();
        let ttl = CreateMode::PersistentSequential.with_acls(Acls::anyone_all()).with_ttl(Duration::from_secs(5));
        assert_eq!(client.create("/ttl-", b"", &ttl).await.unwrap().sequence(), Some(3));

        client.create("/container/e", b"", &EPHEMERAL).await.unwrap();
        assert_eq!(client.list_ephemerals("/container").await.unwrap(), ["/container/e"]);
        assert_eq!(client.count_descendants_number("/container").await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_multi_read_has_a_result_for_each_operation() {
    for kind in BOTH {
        let server = Server::start(kind);
        let client = connect(&server.address(), LONG_MS).await;
        client.mkdir("/a/b", &PERSISTENT).await.unwrap();
        client.set_data("/a", b"1", None).await.unwrap();
        let mut multi = client.new_multi_reader();
        multi.add_get_data("/a").unwrap();
        multi.add_get_data("/missing").unwrap();
        multi.add_get_children("/a").unwrap();
        let results = multi.commit().await.unwrap();
        let stat = client.check_stat("/a").await.unwrap().unwrap();
        let want = [
            MultiReadResult::Data { data: b"1".to_vec(), stat },
            MultiReadResult::Error { err: Error::NoNode },
            MultiReadResult::Children { children: vec!["b".into()] },
        ];
        assert_eq!(results, want);
    }
}

//! Watches fire once, for those who left them, and leave nothing behind.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;
use septet_coordinator::{
    protocol::{EventType, WatchKind, WatchMode},
    watches::{Full, MAX_WATCHES, Watches},
};

const KINDS: [EventType; 4] = [EventType::Created, EventType::Deleted, EventType::DataChanged, EventType::ChildrenChanged];

fn ids(all: &[u64]) -> HashSet<u64> {
    all.iter().copied().collect()
}

#[test]
fn a_data_watch_fires_once_for_each_who_left_it() {
    let mut w = Watches::default();
    w.add(1, "/a", false).unwrap();
    w.add(2, "/a", false).unwrap();
    w.add(2, "/a", false).unwrap();
    w.add(3, "/b", false).unwrap();
    assert_eq!((w.len(), w.of(2)), (3, 1));
    assert_eq!(w.fire(EventType::ChildrenChanged, "/a"), ids(&[]));
    assert_eq!(w.fire(EventType::DataChanged, "/a"), ids(&[1, 2]));
    assert_eq!(w.fire(EventType::DataChanged, "/a"), ids(&[]));
    assert_eq!((w.len(), w.of(2), w.of(3)), (1, 0, 1));
}

#[test]
fn kinds_of_events_fire_kinds_of_watches() {
    for (kind, data, child) in [
        (EventType::Created, true, false),
        (EventType::DataChanged, true, false),
        (EventType::ChildrenChanged, false, true),
        (EventType::Deleted, true, true),
    ] {
        let mut w = Watches::default();
        w.add(1, "/a", false).unwrap();
        w.add(2, "/a", true).unwrap();
        let fired = w.fire(kind, "/a");
        assert_eq!((fired.contains(&1), fired.contains(&2)), (data, child), "{kind:?}");
        assert_eq!(w.len(), 2 - fired.len());
    }
}

#[test]
fn one_deletion_is_one_event_for_a_client_with_both_watches() {
    let mut w = Watches::default();
    w.add(1, "/a", false).unwrap();
    w.add(1, "/a", true).unwrap();
    assert_eq!(w.of(1), 2);
    assert_eq!(w.fire(EventType::Deleted, "/a"), ids(&[1]));
    assert!(w.is_empty());
}

#[test]
fn a_connection_that_goes_takes_its_watches_with_it() {
    let mut w = Watches::default();
    w.add(1, "/a", false).unwrap();
    w.add(1, "/b", true).unwrap();
    w.add(2, "/a", false).unwrap();
    w.drop_connection(1);
    w.drop_connection(9);
    assert_eq!(w.len(), 1);
    assert_eq!(w.fire(EventType::Deleted, "/b"), ids(&[]));
    assert_eq!(w.fire(EventType::Created, "/a"), ids(&[2]));
    assert!(w.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    /// connection, path, whether on children, mode
    Add(u64, usize, bool, WatchMode),
    Fire(usize, usize),
    Remove(u64, usize, WatchKind),
    Drop(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![4 => Just(WatchMode::Standard), 1 => Just(WatchMode::Persistent), 1 => Just(WatchMode::Recursive)];
    let kind = prop_oneof![Just(WatchKind::Children), Just(WatchKind::Data), Just(WatchKind::Any)];
    prop_oneof![
        4 => (0..4u64, 0..4usize, any::<bool>(), mode).prop_map(|(c, p, k, m)| Step::Add(c, p, k, m)),
        3 => (0..4usize, 0..4usize).prop_map(|(k, p)| Step::Fire(k, p)),
        1 => (0..4u64, 0..4usize, kind).prop_map(|(c, p, k)| Step::Remove(c, p, k)),
        1 => (0..4u64).prop_map(Step::Drop),
    ]
}

const PATHS: [&str; 4] = ["/", "/a", "/a/b", "/b"];

/// Whether a path is another or below it.
fn covers(above: usize, path: usize) -> bool {
    above == path || PATHS[above] == "/" || PATHS[path].starts_with(&format!("{}/", PATHS[above]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn as_a_plain_list_would_do(steps in prop::collection::vec(step(), 0..60)) {
        let mut watches = Watches::default();
        // connection, path, whether on children, mode; a persistent watch is two.
        let mut model: Vec<(u64, usize, bool, WatchMode)> = Vec::new();
        for s in steps {
            match s {
                Step::Add(c, p, child, mode) => {
                    let one = mode == WatchMode::Standard;
                    if one { watches.add(c, PATHS[p], child).unwrap() } else { watches.add_persistent(c, PATHS[p], mode).unwrap() }
                    let all = if one { vec![(c, p, child, mode)] } else { vec![(c, p, false, mode), (c, p, true, mode)] };
                    all.into_iter().for_each(|w| if !model.contains(&w) { model.push(w) });
                }
                Step::Drop(c) => {
                    watches.drop_connection(c);
                    model.retain(|w| w.0 != c);
                }
                Step::Remove(c, p, kind) => {
                    let meant = |w: &(u64, usize, bool, WatchMode)| {
                        w.0 == c && w.1 == p && (kind == WatchKind::Any || w.2 == (kind == WatchKind::Children))
                    };
                    let there = model.iter().any(meant);
                    prop_assert_eq!(watches.has(c, PATHS[p], kind), there);
                    prop_assert_eq!(watches.remove(c, PATHS[p], kind), there);
                    model.retain(|w| !meant(w));
                }
                Step::Fire(k, p) => {
                    let kind = KINDS[k];
                    let hit = |w: &(u64, usize, bool, WatchMode)| {
                        let table = match kind {
                            EventType::Deleted => true,
                            EventType::ChildrenChanged => w.2,
                            _ => !w.2,
                        };
                        table && match w.3 {
                            WatchMode::Recursive => covers(w.1, p) && kind != EventType::ChildrenChanged,
                            _ => w.1 == p,
                        }
                    };
                    let want: HashSet<u64> = model.iter().filter(|w| hit(w)).map(|w| w.0).collect();
                    prop_assert_eq!(watches.fire(kind, PATHS[p]), want);
                    model.retain(|w| w.3 != WatchMode::Standard || !hit(w));
                }
            }
            let places: BTreeSet<_> = model.iter().map(|w| (w.0, w.1, w.2)).collect();
            prop_assert_eq!(watches.len(), places.len());
            prop_assert_eq!(watches.is_empty(), model.is_empty());
            for c in 0..4 {
                prop_assert_eq!(watches.of(c), places.iter().filter(|w| w.0 == c).count());
            }
        }
    }
}

#[test]
fn watches_have_budgets_of_count_and_bytes() {
    let mut w = Watches::default();
    for i in 0..MAX_WATCHES {
        w.add(1, &format!("/{i}"), i % 2 == 0).unwrap();
    }
    assert_eq!(w.add(1, "/more", false), Err(Full::Count));
    w.add(1, "/0", true).unwrap();
    w.add(2, "/more", false).unwrap();
    w.fire(EventType::ChildrenChanged, "/0");
    w.add(1, "/more", false).unwrap();
    w.drop_connection(1);
    // 16 KiB each: about 2,000 for one, 16,000 for all.
    let long = |i: usize| format!("/{i:06}{}", "x".repeat(16_000));
    let (mut of_one, mut all) = (0, 0);
    for connection in 3..13 {
        let room = (0..2200).take_while(|i| w.add(connection, &long(*i), false).is_ok()).count();
        of_one = of_one.max(room);
        all += room;
    }
    assert!((2000..2100).contains(&of_one) && (16_000..17_000).contains(&all), "{of_one} and {all}");
    assert_eq!((w.add(3, &long(9999), false), w.add(13, &long(1), false)), (Err(Full::Own), Err(Full::All)));
    // All that one had is free again.
    w.drop_connection(3);
    assert_eq!((0..2200).take_while(|i| w.add(14, &long(*i), false).is_ok()).count(), of_one);
    (2..15).for_each(|c| w.drop_connection(c));
    assert!(w.is_empty());
    w.add(1, &long(1), false).unwrap();
}

#![allow(clippy::unwrap_used)]
use std::{cell::RefCell, collections::BTreeMap};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::watch::Watchers;

fn named(n: usize) -> Topic {
    Topic { name: Some(format!("t{n}").into()), id: Uuid::nil() }
}

fn at(offset: i64) -> Position {
    Position { leader_epoch: -1, offset, last_fetched_epoch: -1, log_start: -1, max_bytes: 1 << 20 }
}

fn parts(n: usize) -> Parts {
    let mut parts = Parts::default();
    (0..n).for_each(|i| parts.put(named(i), 0, at(0)));
    parts
}

fn asked(id: i32, epoch: i32) -> Asked {
    Asked { id, epoch, by_id: false }
}

#[test]
fn epochs_are_counted_and_others_are_refused() {
    let (sessions, now) = (Sessions::new(10), Instant::now());
    let id = sessions.create(parts(3), false, false, now);
    assert!(id > 0 && sessions.count() == (1, 3));
    let ask = |epoch| sessions.resume(asked(id, epoch), now).map(|p| p.lock().unwrap().len());
    assert_eq!(ask(2), Err(ResponseError::InvalidFetchSessionEpoch));
    assert_eq!(ask(1), Ok(3));
    assert_eq!(ask(1), Err(ResponseError::InvalidFetchSessionEpoch), "an answer that was lost");
    assert_eq!(ask(2), Ok(3));
    let by_id = Asked { by_id: true, ..asked(id, 3) };
    assert_eq!(sessions.resume(by_id, now).err(), Some(ResponseError::FetchSessionTopicIdError));
    assert_eq!(sessions.resume(asked(id ^ 1, 3), now).err(), Some(ResponseError::FetchSessionIdNotFound));
    assert!(sessions.resized(id, 5) && sessions.count() == (1, 5));
    assert!(!sessions.resized(id, 0) && sessions.count() == (0, 0));
    assert_eq!(ask(3), Err(ResponseError::FetchSessionIdNotFound));
    assert_eq!((next_epoch(0), next_epoch(i32::MAX)), (1, 1));
    assert_eq!(Sessions::new(0).create(parts(3), false, false, now), NO_SESSION);
}

#[test]
fn what_gives_way_is_what_kafka_would_evict() {
    let start = Instant::now();
    let after = |s: u64| start + Duration::from_secs(s);
    let full = || {
        let sessions = Sessions::new(2);
        let small = sessions.create(parts(1), false, false, start);
        let large = sessions.create(parts(5), false, true, start);
        (sessions, small, large)
    };
    let alive = |s: &Sessions, id: i32| s.inner().sessions.contains_key(&id);
    // Young sessions of consumers give way to followers only, and never to a smaller one of their kind.
    let (s, small, large) = full();
    assert_eq!(s.create(parts(9), false, false, after(1)), NO_SESSION);
    assert!(s.create(parts(1), false, true, after(1)) != NO_SESSION && !alive(&s, small) && alive(&s, large));
    assert_eq!(s.create(parts(9), false, true, after(1)), NO_SESSION, "followers do not replace each other while they are young");
    // Old ones that are in use give way to larger ones.
    let (s, small, large) = full();
    for (id, at) in [(small, 100), (large, 100)] {
        s.resume(asked(id, 1), after(at)).unwrap();
    }
    assert_eq!(s.create(parts(1), false, false, after(130)), NO_SESSION);
    assert!(s.create(parts(2), false, false, after(130)) != NO_SESSION && !alive(&s, small) && alive(&s, large));
    // One that is not used gives way to anything.
    let (s, small, large) = full();
    s.resume(asked(small, 1), after(100)).unwrap();
    assert!(s.create(parts(1), false, false, after(121)) != NO_SESSION && alive(&s, small) && !alive(&s, large));
    // Partitions have a bound of their own.
    let s = Sessions::new(100);
    let id = s.create(parts(2), false, false, start);
    assert!(!s.resized(id, MAX_PARTITIONS + 1) && s.count() == (0, 0));
}

/// A partition without files: offsets only. Records are not made; `more` says that there would be some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    start: i64,
    end: i64,
    error: i16,
}

#[derive(Default)]
struct Fake {
    states: RefCell<BTreeMap<usize, State>>,
    watchers: RefCell<BTreeMap<usize, Arc<Watchers>>>,
    reads: RefCell<usize>,
}

impl Fake {
    fn number(topic: &Topic) -> usize {
        topic.name.as_ref().unwrap()[1..].parse().unwrap()
    }
    fn change(&self, n: usize, change: impl FnOnce(&mut State)) {
        change(self.states.borrow_mut().entry(n).or_insert(State { start: 0, end: 0, error: 0 }));
        if let Some(w) = self.watchers.borrow().get(&n) {
            w.wake();
        }
    }
}

impl Source for Fake {
    fn read(&self, topic: &Topic, index: i32, position: &Position, _: usize, _: bool, watch: &mut dyn FnMut(&Arc<Watchers>)) -> Part {
        *self.reads.borrow_mut() += 1;
        let n = Self::number(topic);
        watch(self.watchers.borrow_mut().entry(n).or_default());
        let state = self.states.borrow().get(&n).copied().unwrap_or(State { start: 0, end: 0, error: 0 });
        if state.error != 0 {
            return Part { index, error: state.error, ..Part::default() };
        }
        let (end, start) = (state.end, state.start);
        let more = position.offset < end;
        Part { index, high_watermark: end, last_stable_offset: end, start_offset: start, more, ..Part::default() }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Delete(usize),
    Break(usize),
    Mend(usize),
    Move(usize),
    Forget(usize),
    Fetch,
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0usize..6;
    prop_oneof![
        n().prop_map(Step::Append),
        n().prop_map(Step::Delete),
        n().prop_map(Step::Break),
        n().prop_map(Step::Mend),
        n().prop_map(Step::Move),
        n().prop_map(Step::Forget),
        Just(Step::Fetch),
        Just(Step::Fetch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 500, ..ProptestConfig::default() })]

    /// A client that keeps what incremental answers say has, after each, what a full answer would say.
    #[test]
    fn incremental_answers_add_up_to_full_ones(steps in prop::collection::vec(step(), 1..80)) {
        let fake = Fake::default();
        let mut parts = Parts::default();
        let mut view: BTreeMap<usize, (i16, i64, i64)> = BTreeMap::new();
        let mut wanted: BTreeMap<usize, i64> = BTreeMap::new();
        for step in steps.into_iter().chain([Step::Fetch]) {
            match step {
                Step::Append(n) => fake.change(n, |s| s.end += 1),
                Step::Delete(n) => fake.change(n, |s| s.start = s.end),
                // Without a wake: partitions with an error are read each time.
                Step::Mend(n) => drop(fake.states.borrow_mut().get_mut(&n).map(|s| s.error = 0)),
                Step::Break(n) => fake.change(n, |s| s.error = 6),
                Step::Move(n) => {
                    let offset = fake.states.borrow().get(&n).map_or(0, |s| s.end);
                    wanted.insert(n, offset);
                    parts.put(named(n), 0, at(offset));
                }
                Step::Forget(n) => {
                    wanted.remove(&n);
                    view.remove(&n);
                    parts.forget(&named(n), 0);
                }
                Step::Fetch => {
                    let found = parts.read(&fake, 1 << 20);
                    let len = parts.answer_len(&found, false);
                    let answer = parts.answer(found, false);
                    prop_assert!(answer.iter().map(|(_, p)| p.len()).sum::<usize>() <= len);
                    for (topic, list) in answer {
                        for part in list {
                            let now = (part.error, part.high_watermark, part.start_offset);
                            let before = view.insert(Fake::number(&topic), now);
                            prop_assert!(part.error != 0 || before != Some(now), "what the client knows is not said again");
                        }
                    }
                    let states = fake.states.borrow();
                    for n in wanted.keys() {
                        let s = states.get(n).copied().unwrap_or(State { start: 0, end: 0, error: 0 });
                        let want = if s.error == 0 { (0, s.end, s.start) } else { (s.error, -1, -1) };
                        prop_assert_eq!(view.get(n).copied(), Some(want), "partition {}", n);
                    }
                    prop_assert_eq!(view.len(), wanted.len());
                    prop_assert_eq!(parts.len(), wanted.len());
                }
            }
        }
        drop(parts);
        prop_assert!(fake.watchers.borrow().values().all(|w| w.count() == 0));
    }
}

#[test]
fn work_follows_change() {
    let fake = Fake::default();
    let mut parts = parts(1000);
    let found = parts.read(&fake, 1 << 20);
    assert_eq!(parts.answer(found, true).len(), 1000);
    assert_eq!(fake.reads.take(), 1000);
    for _ in 0..10 {
        let found = parts.read(&fake, 1 << 20);
        assert!(parts.answer(found, false).is_empty());
    }
    assert_eq!(fake.reads.take(), 0, "nothing has changed");
    // A follower's partitions are read now and then, so that the leader hears where it is.
    let now = Instant::now();
    for (after, reads) in [(0, 1000), (400, 0), (500, 1000), (999, 0), (1000, 1000)] {
        parts.refresh(now + Duration::from_millis(after), Duration::from_millis(500));
        let found = parts.read(&fake, 1 << 20);
        assert!(parts.answer(found, false).is_empty());
        assert_eq!(fake.reads.take(), reads, "after {after} ms");
    }
    fake.change(7, |s| s.start = 1);
    fake.change(7, |s| s.end = 0);
    let found = parts.read(&fake, 1 << 20);
    let answer = parts.answer(found, false);
    assert_eq!((answer.len(), &answer[0].0, fake.reads.take()), (1, &named(7), 1));
}

#[test]
fn those_that_were_served_come_last() {
    struct Full(std::path::PathBuf, RefCell<Vec<usize>>);
    impl Source for Full {
        fn read(&self, topic: &Topic, index: i32, _: &Position, max: usize, one: bool, _: &mut dyn FnMut(&Arc<Watchers>)) -> Part {
            self.1.borrow_mut().push(Fake::number(topic));
            let records = (one || max >= 100).then(|| crate::log::Slice::of_file(&self.0, 0, 100));
            Part { index, high_watermark: 9, last_stable_offset: 9, start_offset: 0, records, more: true, ..Part::default() }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), [7; 100]).unwrap();
    let source = Full(dir.path().join("f"), RefCell::default());
    let mut parts = parts(3);
    for (max, order) in [(150, [0, 1, 2]), (250, [1, 2, 0]), (0, [0, 1, 2]), (300, [1, 2, 0])] {
        let found = parts.read(&source, max);
        assert_eq!(source.1.take(), order);
        assert_eq!(found.bytes, (max / 100 * 100).max(100));
        parts.answer(found, false);
    }
}

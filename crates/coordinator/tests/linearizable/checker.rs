//! Whether a history of one register is linearizable: the search of Wing and Gong, with the memory of Lowe.

use std::collections::HashSet;

/// What a register holds: value and version, as a znode does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    pub value: u64,
    pub version: i32,
}

/// What a client asked for, and what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// the value and version that were shown
    Read(State),
    /// a value, and the version that it got, unless the outcome is unknown
    Write { value: u64, got: Option<i32> },
    /// as a write, if the version is this; refused otherwise
    Swap { expected: i32, value: u64, got: Option<Swapped> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swapped {
    Done(i32),
    BadVersion,
}

/// An operation from its call to its answer, in nanoseconds; one whose outcome is unknown has no end.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    pub called: u64,
    pub answered: Option<u64>,
    pub action: Action,
}

impl Action {
    /// The state behind it, if it can have had its answer in this state.
    fn step(self, state: State) -> Option<State> {
        let written = |value| State { value, version: state.version + 1 };
        match self {
            Self::Read(shown) => (shown == state).then_some(state),
            Self::Write { value, got } => Some(written(value)).filter(|next| got.is_none_or(|v| v == next.version)),
            Self::Swap { expected, value, got } => {
                let done = state.version == expected;
                match got {
                    None => Some(if done { written(value) } else { state }),
                    Some(Swapped::BadVersion) => (!done).then_some(state),
                    Some(Swapped::Done(version)) => Some(written(value)).filter(|next| done && next.version == version),
                }
            }
        }
    }
}

/// A set of operations.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Set(Vec<u64>);

impl Set {
    fn has(&self, i: usize) -> bool {
        self.0[i / 64] & (1 << (i % 64)) != 0
    }

    fn with(&self, i: usize) -> Self {
        let mut next = self.clone();
        next.0[i / 64] |= 1 << (i % 64);
        next
    }
}

/// Looks for an order of the operations that a register could have had. An error names what no order gets past.
pub fn check(first: State, history: &[Operation]) -> Result<(), String> {
    let mut all = history.to_vec();
    all.sort_by_key(|o| o.called);
    let mut seen = HashSet::new();
    let mut farthest = (0, format!("{first:?}"));
    // What is done, how many in a row from the first on, how many in all, the state.
    let mut open = vec![(Set(vec![0; all.len() / 64 + 1]), 0, 0, first)];
    while let Some((done, mut from, count, state)) = open.pop() {
        while from < all.len() && done.has(from) {
            from += 1;
        }
        let missing = |i: &usize| !done.has(*i);
        let limit = (from..all.len()).filter(missing).filter_map(|i| all[i].answered).min();
        // Nobody waits for an answer: the others may have had no effect.
        let Some(limit) = limit else { return Ok(()) };
        let possible = (from..all.len()).take_while(|i| all[*i].called <= limit).filter(missing);
        let mut stuck = Vec::new();
        for i in possible {
            match all[i].action.step(state) {
                Some(next) => {
                    let then = done.with(i);
                    if seen.insert((then.clone(), next)) {
                        open.push((then, from, count + 1, next));
                    }
                }
                None => stuck.push(all[i]),
            }
        }
        if count >= farthest.0 {
            farthest = (count, format!("{state:?} behind {count} of {} operations; next would be {stuck:?}", all.len()));
        }
    }
    Err(farthest.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: State = State { value: 0, version: 0 };

    fn op(called: u64, answered: u64, action: Action) -> Operation {
        Operation { called, answered: Some(answered), action }
    }

    fn write(value: u64, version: i32) -> Action {
        Action::Write { value, got: Some(version) }
    }

    fn read(value: u64, version: i32) -> Action {
        Action::Read(State { value, version })
    }

    #[test]
    fn histories_that_a_register_can_have() {
        for history in [
            vec![],
            vec![op(1, 2, write(7, 1)), op(3, 4, read(7, 1))],
            // At the same time either may be first.
            vec![op(1, 9, write(7, 1)), op(2, 3, read(0, 0)), op(4, 5, read(7, 1))],
            vec![op(1, 9, write(7, 2)), op(1, 9, write(8, 1)), op(10, 11, read(7, 2))],
            // Of an unknown outcome both are possible, at any time later on.
            vec![
                Operation { called: 1, answered: None, action: Action::Write { value: 7, got: None } },
                op(5, 6, read(0, 0)),
                op(7, 8, read(7, 1)),
            ],
            vec![
                Operation { called: 1, answered: None, action: Action::Write { value: 7, got: None } },
                op(5, 6, write(8, 1)),
                op(7, 8, read(8, 1)),
            ],
            vec![op(1, 2, Action::Swap { expected: 0, value: 5, got: Some(Swapped::Done(1)) }), op(3, 4, read(5, 1))],
            vec![op(1, 2, Action::Swap { expected: 3, value: 5, got: Some(Swapped::BadVersion) }), op(3, 4, read(0, 0))],
        ] {
            assert_eq!(check(FIRST, &history), Ok(()), "{history:?}");
        }
    }

    #[test]
    fn histories_that_no_register_has() {
        for history in [
            vec![op(1, 2, read(7, 1))],
            // An old value after a new one was acknowledged, or was seen.
            vec![op(1, 2, write(7, 1)), op(3, 4, read(0, 0))],
            vec![op(1, 9, write(7, 1)), op(2, 3, read(7, 1)), op(4, 5, read(0, 0))],
            // A write that is lost, or that counts twice.
            vec![op(1, 2, write(7, 1)), op(3, 4, write(8, 1))],
            vec![op(1, 2, write(7, 1)), op(3, 4, read(7, 2))],
            // Two swaps of one version.
            vec![
                op(1, 5, Action::Swap { expected: 0, value: 5, got: Some(Swapped::Done(1)) }),
                op(1, 5, Action::Swap { expected: 0, value: 6, got: Some(Swapped::Done(1)) }),
            ],
            vec![op(1, 2, Action::Swap { expected: 0, value: 5, got: Some(Swapped::BadVersion) })],
        ] {
            assert!(check(FIRST, &history).is_err(), "{history:?}");
        }
    }
}

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn member(id: u64, observer: bool) -> Member {
    Member { host: format!("host{id}"), port: 2888, election_port: 3888, observer, client: None }
}

fn target(voters: &[u64], observers: &[u64]) -> Target {
    let of = |ids: &[u64], observer| ids.iter().map(move |id| (*id, member(*id, observer))).collect::<Vec<_>>();
    Target(of(voters, false).into_iter().chain(of(observers, true)).collect())
}

fn membership(voters: &[u64], learners: &[u64]) -> Membership {
    let all = target(voters, learners);
    Membership { voters: voters.iter().copied().collect(), learners: learners.iter().copied().collect(), addresses: all.lines() }
}

fn asked(by: &[(u64, &Target)]) -> BTreeMap<u64, Target> {
    by.iter().map(|(id, t)| (*id, (*t).clone())).collect()
}

#[test]
fn a_majority_of_the_voters_decides() {
    let (old, new) = (target(&[1, 2, 3], &[]), target(&[1, 2, 3, 4, 5], &[]));
    let m = membership(&[1, 2, 3], &[]);
    assert_eq!(agreed(&m, &asked(&[(1, &new)])), None);
    assert_eq!(agreed(&m, &asked(&[(1, &new), (2, &old), (3, &old)])), Some(old.clone()));
    assert_eq!(agreed(&m, &asked(&[(1, &new), (2, &new), (3, &old)])), Some(new.clone()));
    // Whoever has no vote has no say.
    assert_eq!(agreed(&m, &asked(&[(1, &new), (4, &new), (5, &new)])), None);
    // A majority that would leave a minority of the voters is refused, whoever asks for it.
    let other = target(&[1, 4, 5], &[2, 3]);
    assert_eq!(agreed(&m, &asked(&[(1, &other), (2, &other), (3, &other)])), None);
    assert!(!keeps_majority(&m, &other) && keeps_majority(&m, &target(&[2, 3, 4], &[])));
}

#[test]
fn others_say_where_a_server_is() {
    let m = membership(&[1, 2, 3], &[]);
    let mut own = target(&[1, 2, 3], &[]);
    own.0.get_mut(&1).unwrap().host = "0.0.0.0".into();
    let mut moved_to = target(&[1, 2, 3], &[]);
    moved_to.0.get_mut(&3).unwrap().host = "elsewhere".into();
    assert!(!own.differs(&m, 1) && own.differs(&m, 2) && moved_to.differs(&m, 1));
    let all = asked(&[(1, &moved_to), (2, &moved_to)]);
    assert_eq!(agreed(&m, &all).unwrap().0[&3].host, "elsewhere");
    assert_eq!(moved(&m, &all), [Change::SetAddress(3, "elsewhere:2888:3888:participant".into())]);
    // One alone may be wrong, and a server's own line says nothing.
    assert_eq!(moved(&m, &asked(&[(1, &moved_to), (3, &moved_to)])), []);
    assert_eq!(moved(&m, &asked(&[(1, &own)])), []);
}

#[test]
fn nobody_leaves_before_others_have_joined() {
    let m = membership(&[1, 2, 3], &[]);
    let to = target(&[1, 2, 4], &[]);
    let line = member(4, false).line();
    assert_eq!(steps(&m, &to), [Change::AddLearner(4, line)]);
    assert_eq!(steps(&membership(&[1, 2, 3], &[4]), &to), [Change::Promote(4)]);
    assert_eq!(steps(&membership(&[1, 2, 3, 4], &[]), &to), [Change::Remove(3)]);
    assert_eq!(steps(&membership(&[1, 2, 4], &[]), &to), []);
    assert_eq!(steps(&m, &target(&[1, 2], &[3])), [Change::Demote(3)]);
}

#[test]
fn what_another_server_sends_is_checked() {
    let lines = |all: &[(u64, &str)]| all.iter().map(|(id, l)| (*id, (*l).to_owned())).collect::<BTreeMap<_, _>>();
    assert_eq!(Target::from_lines(1, &target(&[1, 2], &[3]).lines()), Ok(target(&[1, 2], &[3])));
    assert!(Target::from_lines(2, &lines(&[(1, "a:1:2")])).is_err());
    assert!(Target::from_lines(256, &lines(&[(256, "a:1:2")])).is_err());
    assert!(Target::from_lines(1, &lines(&[(1, "a:1")])).is_err());
    assert!(Target::from_lines(1, &lines(&[(1, &format!("{}:1:2", "a".repeat(2000)))])).is_err());
}

/// Servers, each with a vote, without one, or not there; at least one has a vote.
fn servers() -> impl Strategy<Value = (Vec<u64>, Vec<u64>)> {
    proptest::collection::vec(0..3u8, 7).prop_filter_map("no vote", |roles| {
        let of = |role| roles.iter().zip(1u64..).filter(|(r, _)| **r == role).map(|(_, id)| id).collect::<Vec<_>>();
        (!of(0).is_empty()).then(|| (of(0), of(1)))
    })
}

proptest! {
    #[test]
    fn steps_lead_to_what_was_agreed((voters, learners) in servers(), (to, observers) in servers()) {
        let (mut m, to) = (membership(&voters, &learners), target(&to, &observers));
        let agreeing: Vec<u64> = m.voters.intersection(&to.voters()).copied().collect();
        prop_assume!(agreeing.len() >= m.quorum());
        for _ in 0..40 {
            // Those that agreed remain a majority, with those that joined because of them.
            let all: BTreeMap<u64, Target> = to.voters().into_iter().map(|id| (id, to.clone())).collect();
            prop_assert_eq!(agreed(&m, &all), Some(to.clone()));
            let Some(first) = steps(&m, &to).into_iter().next() else { break };
            let next = m.with(&first).unwrap();
            prop_assert!(next.voters.symmetric_difference(&m.voters).count() <= 1);
            m = next;
        }
        prop_assert!(to.is_reached(&m));
        // What changed its role has another line: others know it.
        let all = to.0.keys().map(|id| (*id, to.clone())).collect();
        for change in moved(&m, &all) {
            m = m.with(&change).unwrap();
        }
        prop_assert_eq!(moved(&m, &all), vec![]);
    }
}

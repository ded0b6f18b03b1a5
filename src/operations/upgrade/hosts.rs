//! What an upgrade does to hosts, whatever they are: coordinators, then brokers, then the step that cannot be undone.
//!
//! Invariants: a host that runs what is wanted is not restarted; brokers are not touched before every coordinator runs what is wanted; the
//! last step is taken only once every host was seen to run it. Killed anywhere, the same goes on from what hosts run.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::BoxFuture;

use crate::{
    error::{Error, Result},
    health::Levels,
    inventory::{HostId, Role},
};

/// The roles that are upgraded, in this order.
pub const ROLES: [Role; 2] = [Role::Coordinator, Role::Broker];

/// What a service runs: a version, or a program's digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Running {
    /// it does not run
    #[default]
    Nothing,
    /// it runs, and what cannot be read
    Unread {
        /// whether the process is known to have been started after what is installed was put there
        since_installed: bool,
    },
    /// this
    This(String),
}

/// What a host has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs {
    /// what its service runs
    pub running: Running,
    /// what is installed
    pub installed: Option<String>,
}

impl Runs {
    /// Whether it does not run what is wanted. Where that cannot be read it does if what is wanted is installed and the process was
    /// started after that: an `upgrade` that was killed between the two leaves the new program beside the old process.
    ///
    /// The roll restarts such a host, as its playbook finds files that are newer than the process; then this says so too. A host of which not
    /// even that can be told stays due, so the command ends with an error after its roll ([`all_run`]); the next one restarts nothing either.
    pub fn differs(&self, wanted: &str) -> bool {
        match &self.running {
            Running::Nothing => true,
            Running::Unread { since_installed } => !since_installed || self.installed.as_deref() != Some(wanted),
            Running::This(is) => is != wanted,
        }
    }

    /// For people.
    pub fn shown(&self) -> String {
        let installed = || self.installed.as_deref().map_or_else(|| "nothing".to_owned(), short);
        match &self.running {
            Running::This(is) => short(is),
            Running::Unread { since_installed: true } => installed(),
            Running::Unread { since_installed: false } => format!("an unknown program ({} is installed)", installed()),
            Running::Nothing => format!("{} (not running)", installed()),
        }
    }

    /// Versions or digests that it has.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        let running = match &self.running {
            Running::This(is) => Some(is.as_str()),
            Running::Nothing | Running::Unread { .. } => None,
        };
        running.into_iter().chain(self.installed.as_deref())
    }
}

/// A version as it is, a digest by its beginning.
pub fn short(text: &str) -> String {
    if text.len() == 64 { text.chars().take(12).collect() } else { text.to_owned() }
}

/// Looks at the level after it was raised, at the most, and the time between two of them: half a minute.
const LEVEL_LOOKS: usize = 120;
/// See [`LEVEL_LOOKS`].
pub const LEVEL_PAUSE: Duration = Duration::from_millis(250);

/// The hosts of an upgrade.
pub trait Hosts: Send {
    /// What each host that serves has.
    fn look(&self) -> BoxFuture<'_, Result<BTreeMap<HostId, Runs>>>;
    /// What a host is to run.
    fn wanted(&self, id: HostId) -> Result<String>;
    /// What a host is called.
    fn name(&self, id: HostId) -> String;
    /// Installs on the hosts of a role what they are to run, and restarts, under the gate, those that do not run it.
    fn roll<'a>(&'a mut self, role: Role, due: &'a [HostId]) -> BoxFuture<'a, Result<()>>;
    /// The level that the last step raises; `None` where there is no such step.
    fn levels(&self) -> BoxFuture<'_, Result<Option<Levels>>>;
    /// The last step.
    fn raise(&mut self, to: i16) -> BoxFuture<'_, Result<()>>;
    /// Lets some time go by before the next look: [`LEVEL_PAUSE`].
    fn pause(&self) -> BoxFuture<'_, ()>;
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// hosts that were upgraded
    pub upgraded: Vec<HostId>,
    /// hosts that ran it already
    pub already: Vec<HostId>,
    /// the level before the last step, and after it
    pub raised: Option<(i16, i16)>,
    /// what the last step would raise, where it was not asked for
    pub left: Option<Levels>,
}

/// The hosts of a role that do not run what is wanted.
pub fn due(hosts: &dyn Hosts, seen: &BTreeMap<HostId, Runs>, role: Role) -> Result<Vec<HostId>> {
    let mut out = Vec::new();
    for (id, runs) in seen.iter().filter(|(id, _)| id.role() == role) {
        if runs.differs(&hosts.wanted(*id)?) {
            out.push(*id);
        }
    }
    Ok(out)
}

/// Upgrades hosts; with `finish` also takes the last step.
pub async fn upgrade(hosts: &mut dyn Hosts, finish: bool) -> Result<Done> {
    let mut seen = hosts.look().await?;
    let mut done = Done::default();
    for role in ROLES {
        let due = due(hosts, &seen, role)?;
        done.already.extend(seen.keys().filter(|id| id.role() == role && !due.contains(id)));
        if due.is_empty() {
            continue;
        }
        hosts.roll(role, &due).await?;
        seen = hosts.look().await?;
        all_run(hosts, &seen, &[role])?;
        done.upgraded.extend(due);
    }
    let Some(levels) = hosts.levels().await? else { return Ok(done) };
    if levels.finalized >= levels.supported {
        return Ok(done);
    }
    if !finish {
        done.left = Some(levels);
        return Ok(done);
    }
    // What was seen before a roll says nothing of now.
    let seen = hosts.look().await?;
    all_run(hosts, &seen, &ROLES)?;
    hosts.raise(levels.supported).await?;
    // The controller has accepted it; each broker learns of it in its own time.
    for _ in 0..LEVEL_LOOKS {
        if let Some(now) = hosts.levels().await?.filter(|now| now.finalized >= levels.supported) {
            done.raised = Some((levels.finalized, now.finalized));
            return Ok(done);
        }
        hosts.pause().await;
    }
    Err(Error::failed("the level was accepted and is not in force on all brokers yet").hint("the same command looks again"))
}

/// Insists that all hosts of roles run what is wanted.
fn all_run(hosts: &dyn Hosts, seen: &BTreeMap<HostId, Runs>, roles: &[Role]) -> Result<()> {
    for role in roles {
        if let Some(id) = due(hosts, seen, *role)?.first() {
            let (runs, name, wanted) = (seen.get(id).cloned().unwrap_or_default(), hosts.name(*id), hosts.wanted(*id)?);
            let is_installed = runs.installed.as_deref() == Some(&wanted);
            if is_installed && matches!(runs.running, Running::Unread { .. }) {
                return Err(Error::failed(format!(
                    "{name}: cannot tell whether it runs {}: which program its process is cannot be read, nor that it was started after the installation",
                    short(&wanted)
                ))
                .hint("`septet restart HOST` restarts its service; then run the same command again"));
            }
            return Err(Error::failed(format!("{name} runs {}, not {}", runs.shown(), short(&wanted)))
                .hint("`septet logs HOST` shows its log; the same command goes on from there"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        collections::BTreeSet,
        sync::{Arc, Mutex, atomic::AtomicBool},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::{
        events::Event,
        inventory::Group,
        rolling::{self, Gate, Order, Work},
    };

    const NEW: &str = "4.1.1";

    #[derive(Debug, Clone, Default)]
    struct World {
        hosts: BTreeMap<HostId, Runs>,
        /// hosts whose processes cannot be read
        unread: BTreeSet<HostId>,
        /// whether it cannot be told either since when these run
        ageless: bool,
        restarts: BTreeMap<HostId, usize>,
        /// hosts in the order of their restarts
        order: Vec<HostId>,
        level: i16,
        raised: usize,
        /// looks in which some broker has not learned of the new level yet
        behind: usize,
    }

    /// A run that is killed at a point; it does nothing more then.
    #[derive(Clone)]
    struct Run {
        world: Arc<Mutex<World>>,
        left: Arc<Mutex<usize>>,
        leader: HostId,
    }

    impl Run {
        async fn point(&self) -> Result<()> {
            tokio::task::yield_now().await;
            let mut left = self.left.lock().unwrap();
            match left.checked_sub(1) {
                Some(n) => *left = n,
                None => return Err(Error::failed("killed")),
            }
            Ok(())
        }
        /// As brokers of KRaft know it: what the installed version supports.
        fn supported(&self) -> i16 {
            let w = self.world.lock().unwrap();
            let all_new = w.hosts.iter().filter(|(id, _)| id.role() == Role::Broker).all(|(_, r)| r.running == Running::This(NEW.into()));
            if all_new { 27 } else { 21 }
        }
    }

    impl Work for Run {
        fn gate(&self) -> Option<Arc<dyn Gate>> {
            Some(Arc::new(self.clone()))
        }
        fn name(&self, id: HostId) -> String {
            id.to_string()
        }
        fn tell(&self, _: Event) {}
        fn act<'a>(&'a mut self, hosts: &'a [HostId]) -> BoxFuture<'a, Result<bool>> {
            Box::pin(async move {
                for id in hosts {
                    self.point().await?;
                    {
                        let mut w = self.world.lock().unwrap();
                        let runs = w.hosts.get_mut(id).unwrap();
                        // As `restart_if_newer`: a process that is as new as what is installed stays.
                        let there = runs.installed.clone().map_or(Running::Nothing, Running::This);
                        if runs.running != there {
                            runs.running = there;
                            *w.restarts.entry(*id).or_default() += 1;
                            w.order.push(*id);
                        }
                    }
                    self.point().await?;
                }
                Ok(true)
            })
        }
    }

    impl Gate for Run {
        fn order(&self, _: Role, mut hosts: Vec<HostId>) -> BoxFuture<'_, Result<Order>> {
            hosts.sort_by_key(|id| (*id == self.leader, *id));
            Box::pin(async { Ok(Order { then: hosts, ..Order::default() }) })
        }
        fn before(&self, _: HostId) -> BoxFuture<'_, Result<()>> {
            Box::pin(self.point())
        }
        fn after(&self, _: HostId) -> BoxFuture<'_, Result<()>> {
            Box::pin(self.point())
        }
    }

    impl Hosts for Run {
        fn look(&self) -> BoxFuture<'_, Result<BTreeMap<HostId, Runs>>> {
            Box::pin(async {
                self.point().await?;
                let w = self.world.lock().unwrap();
                let mut seen = w.hosts.clone();
                for runs in seen.iter_mut().filter(|(id, r)| w.unread.contains(id) && r.running != Running::Nothing).map(|(_, r)| r) {
                    let there = runs.installed.clone().map(Running::This);
                    runs.running = Running::Unread { since_installed: !w.ageless && there.as_ref() == Some(&runs.running) };
                }
                Ok(seen)
            })
        }
        fn wanted(&self, _: HostId) -> Result<String> {
            Ok(NEW.into())
        }
        fn name(&self, id: HostId) -> String {
            id.to_string()
        }
        fn roll<'a>(&'a mut self, role: Role, due: &'a [HostId]) -> BoxFuture<'a, Result<()>> {
            Box::pin(async move {
                for id in due {
                    self.point().await?;
                    self.world.lock().unwrap().hosts.get_mut(id).unwrap().installed = Some(NEW.into());
                }
                let ended = rolling::roll(self, role, due.to_vec(), &AtomicBool::new(false)).await?;
                assert!(ended);
                Ok(())
            })
        }
        fn levels(&self) -> BoxFuture<'_, Result<Option<Levels>>> {
            Box::pin(async {
                self.point().await?;
                let supported = self.supported();
                let mut w = self.world.lock().unwrap();
                let behind = w.raised > 0 && w.behind > 0;
                w.behind = w.behind.saturating_sub(usize::from(behind));
                Ok(Some(Levels { finalized: if behind { 21 } else { w.level }, supported }))
            })
        }
        fn raise(&mut self, to: i16) -> BoxFuture<'_, Result<()>> {
            Box::pin(async move {
                self.point().await?;
                {
                    let mut w = self.world.lock().unwrap();
                    // An older host could not read what comes then.
                    assert!(w.hosts.values().all(|r| r.running == Running::This(NEW.into())), "raised too early");
                    (w.level, w.raised) = (to, w.raised + 1);
                }
                self.point().await
            })
        }
        fn pause(&self) -> BoxFuture<'_, ()> {
            Box::pin(async {})
        }
    }

    fn world(old: &[&str; 6]) -> Arc<Mutex<World>> {
        let id = |i: usize| {
            let group = if i < 3 { Group::COORDINATORS } else { Group::BROKERS };
            HostId { group, index: (i % 3 + 1) as u16 }
        };
        // An empty one: the service does not run, what is installed is old. With a question mark: what runs cannot be read.
        let runs = |v: &str| match v.trim_start_matches('?') {
            "" => Runs { running: Running::Nothing, installed: Some("3.9.1".into()) },
            v => Runs { running: Running::This(v.to_owned()), installed: Some(v.to_owned()) },
        };
        let hosts = old.iter().enumerate().map(|(i, v)| (id(i), runs(v))).collect();
        let unread = old.iter().enumerate().filter(|(_, v)| v.starts_with('?')).map(|(i, _)| id(i)).collect();
        Arc::new(Mutex::new(World { hosts, unread, level: 21, ..World::default() }))
    }

    fn go(world: &Arc<Mutex<World>>, left: usize, finish: bool, leader: u16) -> Result<Done> {
        let leader = HostId { group: Group::BROKERS, index: leader };
        let mut run = Run { world: world.clone(), left: Arc::new(Mutex::new(left)), leader };
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(upgrade(&mut run, finish))
    }

    const OLD: [&str; 6] = ["3.9.1"; 6];

    #[test]
    fn coordinators_first_the_leader_last_and_the_level_only_when_asked_for() {
        let w = world(&OLD);
        let done = go(&w, usize::MAX, false, 1).unwrap();
        assert_eq!((done.upgraded.len(), done.already.len(), done.raised), (6, 0, None));
        assert_eq!(done.left, Some(Levels { finalized: 21, supported: 27 }));
        let order: Vec<String> = w.lock().unwrap().order.iter().map(ToString::to_string).collect();
        assert_eq!(order, ["coordinator1", "coordinator2", "coordinator3", "broker2", "broker3", "broker1"]);
        let done = go(&w, usize::MAX, true, 1).unwrap();
        assert_eq!((done.upgraded.len(), done.already.len(), done.raised), (0, 6, Some((21, 27))));
        // Once more: nothing is left.
        assert_eq!(go(&w, usize::MAX, true, 1).unwrap(), Done { already: done.already, ..Done::default() });
        assert_eq!(w.lock().unwrap().raised, 1);
    }

    #[test]
    fn brokers_that_learn_of_the_level_later_are_waited_for() {
        let w = world(&[NEW; 6]);
        w.lock().unwrap().behind = LEVEL_LOOKS - 1;
        assert_eq!(go(&w, usize::MAX, true, 1).unwrap().raised, Some((21, 27)));
        // One that does not is an end too, and what the next run looks at.
        let w = world(&[NEW; 6]);
        w.lock().unwrap().behind = LEVEL_LOOKS;
        let e = go(&w, usize::MAX, true, 1).unwrap_err();
        assert!(e.message.contains("not in force on all brokers yet"), "{e}");
        assert_eq!(go(&w, usize::MAX, true, 1).unwrap().raised, None);
        assert_eq!(w.lock().unwrap().raised, 1);
    }

    #[test]
    fn killed_at_every_point_the_same_command_goes_on() {
        // Also where what runs cannot be read, as after a kill between the installation and the restart.
        for old in [OLD, ["?3.9.1"; 6]] {
            let mut at = 0;
            loop {
                let w = world(&old);
                let first = go(&w, at, true, 1);
                go(&w, usize::MAX, true, 1).unwrap();
                let w = w.lock().unwrap();
                assert!(w.restarts.len() == 6 && w.restarts.values().all(|n| *n == 1), "killed at {at}: {:?}", w.restarts);
                assert_eq!((w.level, w.raised), (27, 1), "killed at {at}");
                if first.is_ok() {
                    break;
                }
                at += 1;
                assert!(at < 200, "no run went through");
            }
        }
    }

    #[test]
    fn one_that_can_never_be_read_is_restarted_once_and_named() {
        let w = world(&["3.9.1", "3.9.1", "3.9.1", "3.9.1", "?3.9.1", "?4.1.1"]);
        w.lock().unwrap().ageless = true;
        for _ in 0..3 {
            let e = go(&w, usize::MAX, true, 1).unwrap_err().to_string();
            assert!(e.contains("broker2: cannot tell whether it runs 4.1.1: which program") && e.contains("septet restart HOST"), "{e}");
            let w = w.lock().unwrap();
            assert_eq!(w.restarts.values().collect::<Vec<_>>(), [&1; 5], "no loop, and no restart of one that is new");
            assert_eq!(w.raised, 0);
        }
        // Now it can be told since when they run.
        w.lock().unwrap().ageless = false;
        go(&w, usize::MAX, true, 1).unwrap();
        let w = w.lock().unwrap();
        assert_eq!((w.restarts.len(), w.level), (5, 27));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn whatever_was_killed_each_host_restarts_once(
            old in proptest::array::uniform6(prop_oneof!["3\\.9\\.1", "4\\.1\\.1", "", "\\?3\\.9\\.1", "\\?4\\.1\\.1"]),
            kills in proptest::collection::vec((0..60usize, any::<bool>()), 0..5),
            leader in 1..4u16,
        ) {
            let w = world(&old.each_ref().map(String::as_str));
            for (left, finish) in kills {
                drop(go(&w, left, finish, leader));
            }
            go(&w, usize::MAX, true, leader).unwrap();
            let w = w.lock().unwrap();
            for (i, (id, runs)) in w.hosts.iter().enumerate() {
                prop_assert_eq!(&runs.running, &Running::This(NEW.into()));
                prop_assert_eq!(w.restarts.get(id).copied().unwrap_or(0), usize::from(old[i].trim_start_matches('?') != NEW), "{}", id);
            }
            let roles: Vec<Role> = w.order.iter().map(|id| id.role()).collect();
            prop_assert!(roles.is_sorted(), "{:?}", w.order);
            prop_assert_eq!(w.level, 27);
        }
    }
}

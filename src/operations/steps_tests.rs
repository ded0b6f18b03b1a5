//! Kills between any two calls of the provider's, renames, resizes, growth and races of `up`: they converge, and touch nothing of
//! another cluster's. In memory, in milliseconds.
#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use futures_util::future::BoxFuture;
use proptest::prelude::*;

use super::{
    Phases,
    converge::{Converge, OnHosts},
};
use crate::{
    error::Result,
    identity::ClusterId,
    inventory::{Group, HostId, Inventory},
    observed::Observed,
    plan::{self, Basis, Digest, Plan, PlanFile, Step},
    provider::{
        Holder, Machines, Provider,
        memory::{Machine, Memory, World},
    },
    report::{Human, Reporter},
};

const PREFIXES: [&str; 3] = ["one", "two", "taken"];
const SIZES: [&str; 2] = ["t3.small", "m5.large"];

fn inventory(prefix: &str, brokers: u16, clients: u16, size: &str) -> Inventory {
    let text = format!(
        "cluster: c\nprefix: {prefix}\nprovider: {{ec2: {{instance_type: {size}}}}}\ngroups: {{brokers: {{count: {brokers}}}, clients: {{count: {clients}}}}}\n"
    );
    Inventory::parse(Path::new("i.yml"), &text).unwrap()
}

/// What a machine with a state directory remembers: the identity that it meant to give a cluster.
#[derive(Default)]
struct Remembered([Mutex<Option<ClusterId>>; 2]);

impl Remembered {
    fn intended(&self, machine: usize) -> ClusterId {
        *self.0[machine].lock().unwrap().get_or_insert_with(ClusterId::random)
    }
}

/// Hosts on which nothing is done, but for their resizes, which are the provider's.
struct NoHosts<'a, U> {
    provider: &'a Memory,
    wanted: &'a Inventory,
    uuid: U,
    observed: Observed,
}

impl<U: Fn() -> ClusterId + Send> OnHosts for NoHosts<'_, U> {
    fn found(&mut self, _: &Observed) {}
    fn planned(&mut self, _: &Plan) -> Result<()> {
        Ok(())
    }
    fn fetch<'a>(&'a mut self, _: &'a mut Phases) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
    fn identity(&mut self, observed: &Observed) -> Result<(ClusterId, String)> {
        Ok((observed.uuid.unwrap_or_else(&self.uuid), String::new()))
    }
    fn connect<'a>(&'a mut self, observed: Observed, _: &'a mut Phases) -> BoxFuture<'a, Result<Observed>> {
        self.observed = observed.clone();
        Box::pin(async { Ok(observed) })
    }
    fn resize<'a>(&'a mut self, steps: &'a [Step]) -> BoxFuture<'a, Result<Observed>> {
        Box::pin(async move {
            let (uuid, network) = (self.observed.uuid.unwrap(), self.observed.network.clone().unwrap());
            let site = crate::provider::Site { uuid, inventory: self.wanted, observed: &self.observed, public_key: "" };
            for step in steps {
                self.provider.apply(step, &network, &site, &|_| ()).await?;
            }
            self.provider.settle().await
        })
    }
    fn configure<'a>(&'a mut self, observed: &'a Observed, _: &'a mut Phases) -> BoxFuture<'a, Result<bool>> {
        let named = |h: &crate::inventory::Host| observed.host(h.id).is_none_or(|o| o.name == h.name);
        let other_names = !self.wanted.hosts.iter().all(named);
        Box::pin(async move { Ok(other_names) })
    }
    fn renamed<'a>(&'a mut self, _: &'a Observed) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// `up`, without what is done on the hosts themselves.
async fn up(provider: &Memory, wanted: &Inventory, uuid: impl Fn() -> ClusterId + Send) -> Result<()> {
    let holder = Holder { id: String::new(), text: String::new() };
    provider.hold(&holder).await?;
    let result = up_locked(provider, wanted, uuid).await;
    provider.release().await;
    result
}

async fn up_locked(provider: &Memory, wanted: &Inventory, uuid: impl Fn() -> ClusterId + Send) -> Result<()> {
    let (reporter, interrupted) = (Reporter::of(Human::kept(false, false)), AtomicBool::new(false));
    let converge = Converge { provider, inventory: wanted, reporter: &reporter, interrupted: &interrupted };
    let mut hosts = NoHosts { provider, wanted, uuid, observed: Observed::default() };
    let (_, observed) = converge.run(&mut hosts, &mut Phases::default()).await?;
    // What it ends with is what exists then, and not what was there before.
    let is = |h: &crate::inventory::Host| observed.host(h.id).is_some_and(|o| o.name == h.name);
    assert!(wanted.hosts.iter().all(is), "{observed:?}");
    Ok(())
}

#[derive(Debug, Clone)]
struct Run {
    machine: usize,
    prefix: usize,
    brokers: u16,
    clients: u16,
    size: usize,
    killed_at: Option<u32>,
    /// side by side with the one before
    races: bool,
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let run = (0..2usize, 0..3usize, 3..6u16, 0..3u16, 0..2usize, proptest::option::weighted(0.8, 0..60u32), any::<bool>());
    let run = run.prop_map(|(machine, prefix, brokers, clients, size, killed_at, races)| Run {
        machine,
        prefix,
        brokers,
        clients,
        size,
        killed_at,
        races,
    });
    proptest::collection::vec(run, 0..8)
}

/// Somebody's machines, one with a name that the third prefix would need.
fn somebody(world: &Arc<Mutex<World>>) -> (ClusterId, Vec<Machine>) {
    let uuid = ClusterId::random();
    let machine = |name: &str, index| Machine {
        uuid,
        cluster: "other".parse().unwrap(),
        id: HostId { group: Group::BROKERS, index },
        name: name.into(),
        size: None,
        running: true,
    };
    let machines = vec![machine("taken-kafka02", 1), machine("their-kafka01", 2)];
    let mut w = world.lock().unwrap();
    w.machines.extend(machines.clone());
    w.networks.insert(uuid, "other".parse().unwrap());
    (uuid, machines)
}

fn converges(all: &[Run], last: &Run) {
    let world: Arc<Mutex<World>> = Arc::default();
    let (theirs, before) = somebody(&world);
    let machines = Remembered::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let one = |number: usize, r: &Run| {
            let wanted = inventory(PREFIXES[r.prefix], r.brokers, r.clients, SIZES[r.size]);
            let provider = Memory::new(&world, &wanted, &format!("run {number}"), r.killed_at);
            let (machine, machines) = (r.machine, &machines);
            // What fails is what was killed, was refused, or met another run.
            async move { drop(up(&provider, &wanted, || machines.intended(machine)).await) }
        };
        let mut i = 0;
        while i < all.len() {
            match all.get(i + 1).filter(|next| next.races) {
                Some(next) => {
                    tokio::join!(one(i, &all[i]), one(i + 1, next));
                    i += 2;
                }
                None => {
                    one(i, &all[i]).await;
                    i += 1;
                }
            }
        }
        let most = |of: fn(&Run) -> u16| all.iter().map(of).chain([of(last)]).max().unwrap();
        let wanted = inventory(PREFIXES[last.prefix % 2], most(|r| r.brokers), most(|r| r.clients), SIZES[last.size]);
        let provider = Memory::new(&world, &wanted, "the last", None);
        up(&provider, &wanted, || machines.intended(last.machine)).await.unwrap();
        // A host that a killed resize left stopped is started by the next run at the latest.
        up(&provider, &wanted, || machines.intended(last.machine)).await.unwrap();
        let observed = provider.observe().await.unwrap();
        assert!(plan::plan(&wanted, &observed).unwrap().is_empty(), "{:?}", plan::plan(&wanted, &observed));
        let names = |hosts: Vec<&str>| hosts.into_iter().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(
            names(observed.hosts.iter().map(|h| h.name.as_str()).collect()),
            names(wanted.hosts.iter().map(|h| h.name.as_str()).collect())
        );
        let w = world.lock().unwrap();
        assert!(!w.touched.contains(&theirs), "another cluster's things were touched");
        assert_eq!(w.machines.iter().filter(|m| m.uuid == theirs).cloned().collect::<Vec<_>>(), before);
        // One cluster of the name, whatever was killed: no host of another identity was left.
        assert!(w.machines.iter().all(|m| m.uuid == theirs || Some(m.uuid) == observed.uuid), "{:?}", w.machines);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn runs_that_are_killed_and_race_converge(all in runs(), last in runs().prop_filter("one", |r| !r.is_empty())) {
        converges(&all, &last[0]);
    }
}

#[test]
fn killed_at_every_point_the_next_run_goes_on() {
    let run = |prefix, brokers, size, killed_at| Run { machine: 0, prefix, brokers, clients: 1, size, killed_at, races: false };
    for at in 0..100 {
        // The first run, a growth, a rename and a resize, each killed at this point.
        converges(&[run(0, 3, 0, Some(at))], &run(0, 3, 0, None));
        converges(&[run(0, 3, 0, None), run(1, 5, 1, Some(at))], &run(1, 5, 1, None));
        // Another machine goes on.
        converges(&[run(0, 3, 0, Some(at))], &Run { machine: 1, ..run(1, 3, 0, None) });
    }
}

/// As `plan --out` goes, and through a file.
async fn plan_file(provider: &Memory, wanted: &Inventory) -> Result<PlanFile> {
    let observed = provider.observe().await?;
    let (network, shape, hosts) = Basis::seen(&observed);
    let basis = Basis {
        septet: "1".into(),
        inventory: wanted.digest.clone().try_into().unwrap(),
        playbooks: Digest::of(""),
        options: Digest::of(""),
        programs: Default::default(),
        network,
        shape,
        hosts,
    };
    let file = PlanFile::new(&wanted.cluster, observed.uuid, basis, plan::plan(wanted, &observed)?, "then".into());
    let dir = tempfile::tempdir().unwrap();
    file.write(&dir.path().join("plan")).unwrap();
    assert_eq!(PlanFile::read(&dir.path().join("plan")).unwrap(), file);
    Ok(file)
}

/// As `up --plan` goes.
async fn up_as_planned(provider: &Memory, wanted: &Inventory, file: &PlanFile, uuid: impl Fn() -> ClusterId + Send) -> Result<()> {
    let holder = Holder { id: String::new(), text: String::new() };
    provider.hold(&holder).await?;
    let run = async {
        file.is_still(&plan_file(provider, wanted).await?)?;
        up_locked(provider, wanted, uuid).await
    };
    let result = run.await;
    provider.release().await;
    result
}

/// A plan is made after some runs; then perhaps another run, then it is applied, perhaps killed.
fn a_plan_is_applied_as_it_is_or_not_at_all(all: &[Run], wanted: &Run, between: Option<&Run>, killed_at: Option<u32>) {
    let world: Arc<Mutex<World>> = Arc::default();
    somebody(&world);
    let machines = Remembered::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let intended = || machines.intended(0);
        let inventory_of = |r: &Run| inventory(PREFIXES[r.prefix], r.brokers, r.clients, SIZES[r.size]);
        for (number, r) in all.iter().enumerate() {
            let i = inventory_of(r);
            drop(up(&Memory::new(&world, &i, &format!("run {number}"), r.killed_at), &i, intended).await);
        }
        let i = inventory_of(wanted);
        // What cannot be planned has no plan.
        let Ok(file) = plan_file(&Memory::new(&world, &i, "plan", None), &i).await else { return };
        let planned: std::collections::BTreeSet<HostId> = file.plan().all().filter_map(Step::host).collect();
        let there = || world.lock().unwrap().machines.clone();
        let at_plan = there();
        if let Some(r) = between {
            let i = inventory_of(r);
            drop(up(&Memory::new(&world, &i, "between", r.killed_at), &i, intended).await);
        }
        let before = there();
        let result = up_as_planned(&Memory::new(&world, &i, "applied", killed_at), &i, &file, intended).await;
        let after = there();
        let changed = |before: &[Machine], after: &[Machine]| -> std::collections::BTreeSet<HostId> {
            let of = |all: &[Machine], m: &Machine| all.iter().find(|o| o.uuid == m.uuid && o.id == m.id).cloned();
            after.iter().filter(|m| of(before, m).as_ref() != Some(*m)).map(|m| m.id).collect()
        };
        match (&result, killed_at) {
            (Ok(()), _) => {
                assert_eq!(before, at_plan, "it was applied to something else than it was made for");
                assert_eq!(changed(&before, &after), planned, "each change is a step, and each step a change");
            }
            (Err(e), None) => {
                assert!(between.is_some(), "{e}");
                assert_eq!(after, before);
            }
            (Err(_), Some(_)) => {
                assert!(changed(&before, &after).is_subset(&planned));
                // The same plan again: it goes on only if nothing was done, and else names what was.
                let again = up_as_planned(&Memory::new(&world, &i, "again", None), &i, &file, intended).await;
                if before == at_plan && after != before {
                    assert!(again.unwrap_err().message.contains("does not apply any more"));
                    assert_eq!(there(), after);
                }
            }
        }
        if between.is_none() {
            // Whatever happened: a new plan ends it.
            let file = plan_file(&Memory::new(&world, &i, "new", None), &i).await.unwrap();
            up_as_planned(&Memory::new(&world, &i, "last", None), &i, &file, intended).await.unwrap();
            assert!(plan_file(&Memory::new(&world, &i, "look", None), &i).await.unwrap().plan().is_empty());
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn plans_are_applied_as_they_are_or_not_at_all(
        all in runs(),
        wanted in runs().prop_filter("one", |r| !r.is_empty()),
        between in runs(),
        killed_at in proptest::option::of(0..60u32),
    ) {
        a_plan_is_applied_as_it_is_or_not_at_all(&all, &wanted[0], between.first(), killed_at);
    }
}

#[test]
fn a_plan_that_was_killed_at_any_point_is_not_applied_twice() {
    let run = |prefix, brokers, size| Run { machine: 0, prefix, brokers, clients: 1, size, killed_at: None, races: false };
    for at in 0..100 {
        a_plan_is_applied_as_it_is_or_not_at_all(&[], &run(0, 3, 0), None, Some(at));
        a_plan_is_applied_as_it_is_or_not_at_all(&[run(0, 3, 0)], &run(1, 5, 1), None, Some(at));
    }
}

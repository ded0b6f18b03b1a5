//! Removals on a provider in memory: what expired, what was extended meanwhile, what is kept.
#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use super::{down, lease};
use crate::{
    clock::now_s,
    error::Result,
    identity::{ClusterId, ClusterName},
    inventory::Inventory,
    plan::Plan,
    provider::{
        Provider,
        memory::{Memory, World},
    },
    report::{Color, Reporter},
};

/// A world with clusters of names that no other test has.
struct Test {
    world: Arc<Mutex<World>>,
    name: ClusterName,
    uuid: ClusterId,
}

impl Test {
    /// One cluster, which expires at this time, with a network, if it is not gone, and data.
    fn new(expires_s: u64, network: bool) -> Self {
        let uuid = ClusterId::random();
        let name: ClusterName = format!("t{}", &uuid.to_string()[..8]).parse().unwrap();
        let mut world = World::default();
        if network {
            world.networks.insert(uuid, name.clone());
        }
        world.volumes.insert((uuid, "data".into()));
        world.ends.insert(uuid, (name.clone(), expires_s));
        Self { world: Arc::new(Mutex::new(world)), name, uuid }
    }

    fn provider(&self, name: &ClusterName) -> Arc<dyn Provider> {
        let text =
            format!("cluster: {name}\nprefix: p\nprovider: {{ec2: {{instance_type: t3.small}}}}\ngroups: {{brokers: {{count: 3}}}}\n");
        let inventory = Inventory::parse(Path::new("i.yml"), &text).unwrap();
        Arc::new(Memory::new(&self.world, &inventory, "run", None))
    }

    async fn sweep(&self, own: &str) {
        let own = own.parse().unwrap();
        let open = |name: &ClusterName| Ok(self.provider(name));
        lease::sweep_others(&*self.provider(&own), &open, &own, &reporter(), &AtomicBool::new(false)).await;
    }

    async fn down_expired(&self, data: bool, meanwhile: impl FnOnce(&mut World)) -> Result<Vec<down::Removed>> {
        let open = |name: &ClusterName| Ok(self.provider(name));
        let agree = |_: &[crate::provider::Expired]| {
            meanwhile(&mut self.world.lock().unwrap());
            Ok(true)
        };
        let own = "somebody".parse().unwrap();
        down::remove_expired(&*self.provider(&own), &open, data, &reporter(), &AtomicBool::new(false), agree).await
    }

    fn left(&self) -> (usize, usize) {
        let world = self.world.lock().unwrap();
        (world.networks.len(), world.volumes.len())
    }
}

fn reporter() -> Arc<Reporter> {
    Arc::new(Reporter::new(false, false, Color::Never, false))
}

#[tokio::test]
async fn data_that_was_kept_is_not_swept_when_its_time_is_over() {
    let test = Test::new(1, false);
    test.sweep("another").await;
    assert!(test.down_expired(false, |_| ()).await.unwrap().is_empty());
    assert_eq!(test.left(), (0, 1));
    // It goes where that is asked for.
    assert_eq!(test.down_expired(true, |_| ()).await.unwrap().len(), 1);
    assert_eq!(test.left(), (0, 0));
}

#[tokio::test]
async fn an_expired_cluster_is_swept_by_commands_on_others_only() {
    let test = Test::new(1, true);
    test.sweep(&test.name).await;
    assert_eq!(test.left(), (1, 1));
    test.sweep("another").await;
    assert_eq!(test.left(), (0, 0));
    let test = Test::new(now_s() + 1000, true);
    test.sweep("another").await;
    assert_eq!(test.left(), (1, 1));
}

#[tokio::test]
async fn a_cluster_that_was_extended_meanwhile_stays() {
    let test = Test::new(1, true);
    let later = (test.name.clone(), now_s() + 1000);
    let removed = test.down_expired(false, |world| drop(world.ends.insert(test.uuid, later))).await.unwrap();
    assert_eq!((removed.len(), test.left()), (0, (1, 1)));
    // As one of which everything but the data was removed meanwhile.
    let test = Test::new(1, true);
    let removed = test.down_expired(false, |world| drop(world.networks.remove(&test.uuid))).await.unwrap();
    assert_eq!((removed.len(), test.left()), (0, (0, 1)));
}

#[tokio::test]
async fn up_renews_an_end_that_has_passed_and_leaves_one_that_has_not() {
    let hour = std::time::Duration::from_secs(3600);
    let end = |test: &Test| test.world.lock().unwrap().ends.get(&test.uuid).map(|(_, at)| *at);
    let test = Test::new(1, true);
    let provider = test.provider(&test.name);
    // Nobody wants it any longer: nothing is begun that would stop again at once.
    let e = lease::renew(&*provider, Some(test.uuid), None).await.unwrap_err();
    assert!(e.message.starts_with("the cluster expired at") && e.hint.unwrap().contains("set `ttl`"));
    assert_eq!(end(&test), Some(1));
    let new = lease::renew(&*provider, Some(test.uuid), Some(hour)).await.unwrap().unwrap();
    assert!(new > now_s() + 3000 && end(&test) == Some(new));
    test.sweep("another").await;
    assert_eq!(test.left(), (1, 1));
    // A later run changes nothing.
    assert_eq!(lease::renew(&*provider, Some(test.uuid), Some(hour * 5)).await.unwrap(), None);
    assert_eq!(lease::renew(&*provider, Some(test.uuid), None).await.unwrap(), None);
    // One without an end gets the inventory's, which is a step of the plan.
    test.world.lock().unwrap().ends.clear();
    let planned = |ttl| {
        let mut plan = Plan::default();
        lease::plan(&mut plan, &*provider, Some(test.uuid), ttl).unwrap();
        plan.all().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(planned(None).is_empty());
    assert_eq!(planned(Some(hour)), ["~ cluster: ends by itself 1 h 0 min after `up`"]);
    assert_eq!(lease::renew(&*provider, Some(test.uuid), None).await.unwrap(), None);
    assert!(lease::renew(&*provider, Some(test.uuid), Some(hour)).await.unwrap().is_some());
    assert!(planned(Some(hour)).is_empty());
    // Of a cluster that is yet to be made nothing is written.
    assert_eq!(lease::renew(&*provider, None, Some(hour)).await.unwrap(), None);
}

//! The clusters of this account and region, and the end of a cluster's life: a tag on everything, and instances that are terminated when
//! they stop themselves, which a timer on each of them does.

use futures_util::future::join_all;
use septet_ec2::{ApiError, Client, Instance, InstanceState, Tags, filter};

use super::{
    Ec2,
    launch::CHANGE_TIMEOUT,
    locked,
    observe::{ALIVE, DATA_DEVICE},
    policy::explain,
    prices::{HOURS_PER_MONTH, price},
    tags::{self, EXPIRES, marks},
    user_data,
};
use crate::{
    clock::now_s,
    error::Result,
    identity::ClusterId,
    observed::Adjustment,
    provider::{Found, Provider, Thing, clusters, expiry::End, marks::Expiry},
};

impl Ec2 {
    /// All clusters of the region.
    pub(super) async fn clusters_now(&self) -> Result<Vec<Found>> {
        let client = self.client().await?;
        let by = [filter("tag-key", &[tags::CLUSTER])];
        let alive = [by[0].clone(), filter("instance-state-name", &ALIVE)];
        let (instances, volumes, groups) = tokio::join!(client.instances(&alive), client.volumes(&by), client.groups(&by));
        let fail = |e: ApiError| explain("cannot list clusters", e);
        let region = client.region().to_owned();
        let hosts = instances.map_err(fail)?.into_iter().filter_map(|i| {
            let name = i.tags.get(tags::DISPLAY).cloned().unwrap_or_else(|| i.id.clone());
            let running = matches!(i.state, InstanceState::Running | InstanceState::Pending);
            let made_s = u64::try_from(i.launched).ok();
            // An instance that is stopped costs nothing; its volumes do.
            let address = if i.public_ip.is_some() { price(&region, "ipv4").unwrap_or_default() } else { 0.0 };
            let hourly = price(&region, &i.instance_type).filter(|_| running).map(|p| p + address);
            Some(Thing { marks: marks(&i.tags)?, host: Some(name), running, made_s, hourly })
        });
        // Volumes that are being deleted are listed for minutes.
        let volumes = volumes.map_err(fail)?.into_iter().filter(|v| v.state != "deleting" && v.state != "deleted");
        let volumes = volumes.filter_map(|v| {
            let hourly = price(&region, "gp3").map(|p| p * f64::from(v.size) / HOURS_PER_MONTH);
            Some(Thing { marks: marks(&v.tags)?, host: None, running: false, made_s: u64::try_from(v.made).ok(), hourly })
        });
        let groups = groups.map_err(fail)?.into_iter();
        let groups = groups.filter_map(|g| Some(Thing { marks: marks(&g.tags)?, host: None, running: false, made_s: None, hourly: None }));
        Ok(clusters(hosts.chain(volumes).chain(groups), now_s()))
    }

    /// When the cluster expires, as written on its security groups, which it always has.
    pub(super) fn known_end(&self) -> Option<u64> {
        let listed = self.seen().groups.iter().find_map(|g| match marks(&g.tags)?.expires? {
            Expiry::At(s) => Some(s),
            Expiry::Unreadable => None,
        });
        // An end is only ever put off.
        listed.max(*locked(&self.written_end))
    }

    /// When the cluster expires, or will, if it is about to be made.
    pub(super) fn end(&self) -> Option<End<'_>> {
        let at_s = self.known_end().or_else(|| Some(now_s() + self.ttl?.as_secs()))?;
        Some(End { at_s, cluster: &self.cluster })
    }

    /// Lets an instance that is about to start know the cluster's end as it is now: the one that it knew may have passed while it was
    /// stopped, and would terminate it as soon as it has booted.
    pub(super) async fn bring_end(&self, client: &Client, instance: &str) -> std::result::Result<(), ApiError> {
        let Some(end) = self.end() else { return Ok(()) };
        let Some(new) = user_data::with_end(&client.user_data(instance).await?, end) else { return Ok(()) };
        self.waiting(client.wait_for(&[instance.to_owned()], InstanceState::Stopped, CHANGE_TIMEOUT)).await?;
        client.modify_user_data(instance, &new).await
    }

    /// Writes the end on everything that the cluster has. Instances are last: they stop by their timers, which are set afterwards. Until
    /// then their data is spared: whatever comes between, an instance that ends at the earlier time does not take it along.
    pub(super) async fn extend_now(&self, uuid: ClusterId, expires_s: u64) -> Result<()> {
        let client = self.client().await?;
        let fail = |e: ApiError| explain("cannot write down when the cluster expires", e);
        let all = self.list_now(uuid).await?;
        let instances: Vec<String> = all.iter().filter(|r| r.kind == "instance").map(|r| r.id.clone()).collect();
        // One that is stopped is told the new end before it starts.
        let stopped = |id: &String| self.seen().instances.values().any(|i| i.id == *id && i.state == InstanceState::Stopped);
        let run: Vec<String> = instances.iter().filter(|id| !stopped(id)).cloned().collect();
        if !run.is_empty() {
            self.spare_data(client, &run).await.map_err(fail)?;
        }
        let ids: Vec<String> = all.iter().map(|r| r.id.clone()).collect();
        client.set_tags(&ids, &Tags::from([(EXPIRES.to_owned(), expires_s.to_string())])).await.map_err(fail)?;
        *locked(&self.written_end) = Some(expires_s);
        for id in instances {
            match client.terminate_when_it_stops(&id).await {
                Err(e) if e.is_not_found() || e.code == "IncorrectInstanceState" => {}
                other => other.map_err(fail)?,
            }
        }
        Ok(())
    }

    /// Has data volumes end with their instances, where that is wanted, once the instances themselves end when the cluster does.
    pub(super) async fn end_data_with_hosts(&self) -> Result<()> {
        let cluster_ends = self.known_end().is_some();
        let due: Vec<String> = {
            let seen = self.seen();
            seen.instances.values().filter(|i| self.data_is_to(cluster_ends, i) == Some(true)).map(|i| i.id.clone()).collect()
        };
        if due.is_empty() {
            return Ok(());
        }
        let client = self.client().await?;
        let set = join_all(due.iter().map(|id| client.delete_on_termination(id, DATA_DEVICE, true))).await;
        let set: std::result::Result<(), ApiError> = set.into_iter().filter(|r| !r.as_ref().is_err_and(ApiError::is_not_found)).collect();
        set.map_err(|e| explain("cannot have data end with its hosts", e))
    }

    /// What a hint says of a host that somebody terminates so that `up` makes it again: what becomes of its data.
    pub(super) fn made_again(&self) -> String {
        let data = self.removal_takes_data().map_or(", with its data".to_owned(), |why| format!("; {why}"));
        format!("`septet up` makes it again{data}")
    }

    /// Whether data volumes are deleted with their instances: in a cluster that ends by itself, unless they are to be kept.
    pub(super) fn data_ends(&self) -> bool {
        self.end().is_some() && self.ends_with_cluster()
    }

    /// Whether data volumes go when the cluster ends by itself.
    fn ends_with_cluster(&self) -> bool {
        self.settings.volume.as_ref().is_some_and(|v| !v.keep)
    }

    /// What an instance's data volume is to do when the instance ends, if that is not what it does now: whether it ends too.
    fn data_is_to(&self, cluster_ends: bool, instance: &Instance) -> Option<bool> {
        let ends = cluster_ends && self.ends_with_cluster();
        let has = instance.volumes.contains_key(DATA_DEVICE);
        (has && instance.deleted_with_it.contains(DATA_DEVICE) != ends).then_some(ends)
    }

    /// Data volumes that are not to do what they would when their instances end.
    pub(super) fn data_adjustments(&self) -> Vec<Adjustment> {
        let cluster_ends = self.known_end().is_some();
        let seen = self.seen();
        let differ = |ends: bool| {
            let hosts = seen.instances.iter().filter(|(_, i)| self.data_is_to(cluster_ends, i) == Some(ends));
            let (names, ids): (Vec<String>, Vec<String>) = hosts.map(|(id, i)| (self.name_of(*id), i.id.clone())).unzip();
            (!ids.is_empty()).then(|| Adjustment::DataEnds { name: names.join(", "), ids, ends })
        };
        [true, false].into_iter().filter_map(differ).collect()
    }
}

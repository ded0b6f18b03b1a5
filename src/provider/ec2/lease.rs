//! The clusters of this account and region, and the end of a cluster's life: a tag on everything, and instances that are terminated when
//! they stop themselves, which a timer on each of them does.

use septet_ec2::{ApiError, Tags, filter};

use super::{
    Ec2,
    observe::ALIVE,
    policy::explain,
    prices::price,
    tags::{self, EXPIRES, marks},
};
use crate::{
    clock::now_s,
    error::Result,
    identity::ClusterId,
    provider::{Found, Thing, clusters, marks::Expiry},
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
            let running = matches!(i.state, septet_ec2::InstanceState::Running | septet_ec2::InstanceState::Pending);
            let made_s = u64::try_from(i.launched).ok();
            Some(Thing { marks: marks(&i.tags)?, host: Some(name), running, made_s, hourly: price(&region, &i.instance_type) })
        });
        let others = volumes.map_err(fail)?.into_iter().map(|v| v.tags).chain(groups.map_err(fail)?.into_iter().map(|g| g.tags));
        let others = others.filter_map(|t| Some(Thing { marks: marks(&t)?, host: None, running: false, made_s: None, hourly: None }));
        Ok(clusters(hosts.chain(others), now_s()))
    }

    /// When the cluster expires, as written on its security groups, which it always has.
    pub(super) fn known_end(&self) -> Option<u64> {
        self.seen().groups.iter().find_map(|g| match marks(&g.tags)?.expires? {
            Expiry::At(s) => Some(s),
            Expiry::Unreadable => None,
        })
    }

    /// Writes the end on everything that the cluster has. Instances are last: they stop by their timers, which are set afterwards.
    pub(super) async fn extend_now(&self, uuid: ClusterId, expires_s: u64) -> Result<()> {
        let client = self.client().await?;
        let fail = |e: ApiError| explain("cannot write down when the cluster expires", e);
        let all = self.list_now(uuid).await?;
        let ids: Vec<String> = all.iter().map(|r| r.id.clone()).collect();
        client.set_tags(&ids, &Tags::from([(EXPIRES.to_owned(), expires_s.to_string())])).await.map_err(fail)?;
        for instance in all.iter().filter(|r| r.kind == "instance") {
            client.terminate_when_it_stops(&instance.id).await.map_err(fail)?;
        }
        Ok(())
    }
}

//! What carries a cluster's UUID, and how it is removed: nothing else is touched, and nothing is dropped from the list before EC2
//! reports its deletion.

use std::time::Duration;

use futures_util::future::join_all;
use septet_ec2::{ApiError, Client, InstanceState, filter, tag_filter};
use tokio::time::Instant;

use super::{
    Ec2,
    observe::{ALIVE, DATA_DEVICE},
    policy::explain,
    rules::Kind,
    tags,
};
use crate::{
    error::{Error, Result},
    identity::ClusterId,
    observed::Resource,
};

/// In which order kinds are removed.
pub const ORDER: [&str; 8] = ["instance", "volume", "security-group", "key-pair", "subnet", "route-table", "internet-gateway", "vpc"];
/// In which order security groups are removed.
const GROUP_ORDER: [Kind; 4] = [Kind::Hosts, Kind::Coordinators, Kind::Brokers, Kind::Control];
/// How long something may still be in use after its user is gone; then everything is listed again, for its user may not have been.
const IN_USE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long instances may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(600);

impl Ec2 {
    /// Everything that carries a UUID.
    pub(super) async fn list_now(&self, uuid: ClusterId) -> Result<Vec<Resource>> {
        let client = self.client().await?;
        let ours = [tag_filter(tags::CLUSTER, &uuid.to_string())];
        let alive = [ours[0].clone(), filter("instance-state-name", &["pending", "running", "stopping", "stopped", "shutting-down"])];
        let (instances, volumes, groups, keys, subnets, tables, gateways, vpcs) = tokio::join!(
            client.instances(&alive),
            client.volumes(&ours),
            client.groups(&ours),
            client.key_pairs(&ours),
            client.subnets(&ours),
            client.route_tables(&ours),
            client.gateways(&ours),
            client.vpcs(&ours),
        );
        let fail = |e: ApiError| explain("cannot list what belongs to the cluster", e);
        let display = |t: &septet_ec2::Tags| t.get(tags::DISPLAY).cloned().unwrap_or_default();
        let mut out = Vec::new();
        let mut add = |kind: &'static str, name: String, id: String, data: bool| out.push(Resource { kind, name, id, data });
        let instances = instances.map_err(fail)?;
        let roots: Vec<&String> =
            instances.iter().flat_map(|i| i.volumes.iter().filter(|(d, _)| *d != DATA_DEVICE).map(|(_, v)| v)).collect();
        // One that is being deleted counts as deleted, although EC2 may list it for minutes.
        for v in volumes.map_err(fail)?.into_iter().filter(|v| v.state != "deleting" && v.state != "deleted") {
            // A system's volume goes with its instance; what is left of an instance, or known to nobody, holds data.
            let data = !roots.contains(&&v.id);
            add("volume", display(&v.tags), v.id, data);
        }
        for i in &instances {
            add("instance", display(&i.tags), i.id.clone(), false);
        }
        groups.map_err(fail)?.into_iter().for_each(|g| add("security-group", g.name, g.id, false));
        keys.map_err(fail)?.into_iter().for_each(|k| add("key-pair", k.name, k.id, false));
        subnets.map_err(fail)?.into_iter().for_each(|s| add("subnet", display(&s.tags), s.id, false));
        tables.map_err(fail)?.into_iter().for_each(|t| add("route-table", display(&t.tags), t.id, false));
        gateways.map_err(fail)?.into_iter().for_each(|g| add("internet-gateway", display(&g.tags), g.id, false));
        vpcs.map_err(fail)?.into_iter().for_each(|v| add("vpc", display(&v.tags), v.id, false));
        out.sort_by(|a, b| (a.kind, &a.name, &a.id).cmp(&(b.kind, &b.name, &b.id)));
        Ok(out)
    }

    /// Removes things of one kind.
    pub(super) async fn remove_now(&self, resources: &[Resource]) -> Result<()> {
        let Some(first) = resources.first() else { return Ok(()) };
        let client = self.client().await?;
        match first.kind {
            "instance" => self.terminate(client, resources).await,
            "security-group" => {
                // A group that another one's rules name cannot be deleted: those that others name go last.
                let place = |r: &Resource| GROUP_ORDER.iter().position(|k| r.name.ends_with(&format!("-{}", k.name())));
                for at in 0..=GROUP_ORDER.len() {
                    let now: Vec<&Resource> = resources.iter().filter(|r| place(r).unwrap_or(GROUP_ORDER.len()) == at).collect();
                    self.each(client, &now).await?;
                }
                Ok(())
            }
            "volume" => self.volumes(client, resources).await,
            _ => self.each(client, &resources.iter().collect::<Vec<_>>()).await,
        }
    }

    async fn terminate(&self, client: &Client, resources: &[Resource]) -> Result<()> {
        let ids: Vec<String> = resources.iter().map(|r| r.id.clone()).collect();
        let doing = "cannot terminate the instances";
        self.spare_data(client, &ids).await.map_err(|e| explain(doing, e))?;
        match client.terminate_instances(&ids).await {
            Ok(()) => {}
            // One that is gone, or protected, refuses the whole call: then each on its own.
            Err(e) if ids.len() > 1 && (e.is_not_found() || e.code == "OperationNotPermitted") => {
                let each = join_all(ids.iter().map(|id| async move { (id, client.terminate_instances(std::slice::from_ref(id)).await) }));
                for (id, result) in each.await {
                    match result {
                        Err(e) if !e.is_not_found() => return Err(explain(&format!("cannot terminate {id}"), e)),
                        _ => {}
                    }
                }
            }
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(explain(doing, e)),
        }
        let ended = self.waiting(client.wait_for(&ids, InstanceState::Terminated, END_TIMEOUT)).await;
        ended.map(drop).map_err(|e| explain(doing, e))
    }

    /// Lets the data of instances that are about to be terminated stay. What Septet removes it removes by name; only what ends by
    /// itself takes its data along.
    pub(super) async fn spare_data(&self, client: &Client, ids: &[String]) -> std::result::Result<(), ApiError> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let seen = client.instances(&[filter("instance-id", &ids), filter("instance-state-name", &ALIVE)]).await?;
        let taking = seen.iter().filter(|i| i.deleted_with_it.contains(DATA_DEVICE));
        let spared = join_all(taking.map(|i| client.delete_on_termination(&i.id, DATA_DEVICE, false))).await;
        spared.into_iter().filter(|r| !r.as_ref().is_err_and(ApiError::is_not_found)).collect()
    }

    /// A system's volume goes with its instance, a little later: only what is not in use is deleted, and what still is, is waited
    /// for.
    async fn volumes(&self, client: &Client, resources: &[Resource]) -> Result<()> {
        let until = Instant::now() + IN_USE_TIMEOUT;
        let mut pause = Duration::from_millis(300);
        let mut left: Vec<&Resource> = resources.iter().collect();
        loop {
            let ids: Vec<&str> = left.iter().map(|r| r.id.as_str()).collect();
            let seen = client.volumes(&[filter("volume-id", &ids)]).await.map_err(|e| explain("cannot list volumes", e))?;
            left.retain(|r| seen.iter().any(|v| v.id == r.id && v.state != "deleting"));
            let is_free = |r: &&Resource| seen.iter().any(|v| v.id == r.id && v.state != "in-use");
            let (free, used): (Vec<&Resource>, Vec<&Resource>) = left.into_iter().partition(is_free);
            self.each(client, &free).await?;
            if used.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                // Then EC2's error has the reason.
                return self.each(client, &used).await;
            }
            self.waiting(tokio::time::sleep(pause)).await;
            pause = (pause * 2).min(Duration::from_secs(3));
            left = used;
        }
    }

    async fn each(&self, client: &Client, resources: &[&Resource]) -> Result<()> {
        let all = join_all(resources.iter().map(|r| async {
            let result = self.waiting(delete(client, r)).await;
            result.map_err(|e| explain(&format!("cannot delete {} {} ({})", r.kind, r.id, r.name), e))
        }));
        all.await.into_iter().collect::<std::result::Result<Vec<()>, Error>>().map(drop)
    }
}

/// Deletes one thing; as long as something that goes away still uses it, again.
async fn delete(client: &Client, r: &Resource) -> std::result::Result<(), ApiError> {
    let until = Instant::now() + IN_USE_TIMEOUT;
    let mut pause = Duration::from_millis(300);
    loop {
        let result = match r.kind {
            "volume" => client.delete_volume(&r.id).await,
            "security-group" => client.delete_group(&r.id).await,
            "key-pair" => client.delete_key(&r.id).await,
            "subnet" => client.delete_subnet(&r.id).await,
            "route-table" => client.delete_route_table(&r.id).await,
            "internet-gateway" => gateway(client, &r.id).await,
            _ => client.delete_vpc(&r.id).await,
        };
        match result {
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) if e.is_in_use() && Instant::now() < until => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
            other => return other,
        }
    }
}

async fn gateway(client: &Client, id: &str) -> std::result::Result<(), ApiError> {
    let found = client.gateways(&[filter("internet-gateway-id", &[id])]).await?;
    for vpc in found.iter().flat_map(|g| &g.vpcs) {
        client.detach_gateway(id, vpc).await?;
    }
    client.delete_gateway(id).await
}

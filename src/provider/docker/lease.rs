//! The clusters of this daemon, and the end of a cluster's life. Labels cannot change: a later end is written on a volume of its own.
//!
//! Invariant: of all ends that stand on a cluster's things the latest counts, so a volume that is missing or left over never ends a
//! cluster early.

use std::collections::HashMap;

use bollard::{
    models::{ContainerUpdateBody, RestartPolicy, RestartPolicyNameEnum, VolumeCreateRequest},
    query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveVolumeOptions},
};

use super::{CLUSTER, Docker, EXPIRES, create::add, errors::explain, marks};
use crate::{
    clock::now_s,
    error::Result,
    identity::ClusterId,
    observed::Resource,
    provider::{
        Found, Thing, clusters,
        expiry::{End, TIMER, UNITS, WANTS},
    },
};

/// What an end of its own is written on.
fn lease_name(uuid: ClusterId, expires_s: u64) -> String {
    format!("{}{expires_s}", lease_prefix(&uuid.to_string()))
}

fn lease_prefix(uuid: &str) -> String {
    format!("septet-{uuid}-until-")
}

/// Whether a volume of this name holds no data, but an end that was put off.
pub fn holds_only_an_end(volume: &str, uuid: &str) -> bool {
    volume.starts_with(&lease_prefix(uuid))
}

/// A cluster's volumes. What nobody knows is data; the end of a cluster that has data is kept with it, since without it the data
/// would count as expired.
pub fn volume_resources(volumes: Vec<String>, uuid: &str) -> Vec<Resource> {
    let has_data = volumes.iter().any(|v| !holds_only_an_end(v, uuid));
    volumes.into_iter().map(|v| Resource { kind: "volume", name: v.clone(), id: v, data: has_data }).collect()
}

/// Containers of a cluster that ends by itself: once they have stopped on purpose, they stay so.
pub fn restart_policy(ends: bool) -> RestartPolicy {
    // Not `unless-stopped`: a daemon that was killed stops what still runs when it comes back, and then takes that for the user's wish.
    let name = if ends { RestartPolicyNameEnum::ON_FAILURE } else { RestartPolicyNameEnum::ALWAYS };
    RestartPolicy { name: Some(name), maximum_retry_count: None }
}

/// Puts the units that stop a host at the cluster's end into what is uploaded, with the timer enabled.
pub fn plant_end(tar: &mut tar::Builder<Vec<u8>>, end: End<'_>) -> Result<()> {
    for (name, text) in end.units() {
        add(tar, &format!("{UNITS}/{name}"), text.as_bytes(), 0o644, 0)?;
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    Ok(tar.append_link(&mut header, format!("{UNITS}/{WANTS}/{TIMER}"), format!("/{UNITS}/{TIMER}"))?)
}

impl Docker {
    /// Lets a container that is about to start know the cluster's end as it is now: otherwise the end that it knew, which may have
    /// passed while it was stopped, stops it before anybody can log in.
    pub(super) async fn bring_end(&self, container: &str) -> Result<()> {
        let doing = "cannot write down when the host stops";
        let Some(at_s) = *self.known_end() else { return Ok(()) };
        let mut tar = tar::Builder::new(Vec::new());
        plant_end(&mut tar, End { at_s, cluster: &self.cluster })?;
        self.upload(container, tar.into_inner()?).await.map_err(|e| explain(doing, e))
    }

    /// All clusters of this daemon.
    pub(super) async fn clusters_now(&self) -> Result<Vec<Found>> {
        let labelled = HashMap::from([("label".to_owned(), vec![CLUSTER.to_owned()])]);
        let containers = ListContainersOptionsBuilder::default().all(true).filters(&labelled).build();
        let networks = ListNetworksOptionsBuilder::default().filters(&labelled).build();
        let volumes = ListVolumesOptionsBuilder::default().filters(&labelled).build();
        let (containers, networks, volumes) = tokio::try_join!(
            self.engine.list_containers(Some(containers)),
            self.engine.list_networks(Some(networks)),
            self.engine.list_volumes(Some(volumes)),
        )
        .map_err(|e| explain("cannot list clusters", e))?;
        let of = |labels: Option<HashMap<String, String>>| {
            let marks = marks(&labels?)?;
            Some(Thing { marks, host: None, running: false, made_s: None, hourly: None })
        };
        let hosts = containers.into_iter().filter_map(|c| {
            let thing = of(c.labels)?;
            let name = c.names.and_then(|n| Some(n.first()?.trim_start_matches('/').to_owned()));
            let running = c.state.is_some_and(|s| s.as_ref() == "running");
            Some(Thing {
                host: name.filter(|_| thing.marks.host.is_some()),
                running,
                made_s: c.created.and_then(|s| u64::try_from(s).ok()),
                ..thing
            })
        });
        let others = networks.into_iter().map(|n| n.labels).chain(volumes.volumes.into_iter().flatten().map(|v| Some(v.labels)));
        Ok(clusters(hosts.chain(others.filter_map(of)), now_s()))
    }

    /// Writes down when a cluster ends, and lets its containers stay stopped then.
    pub(super) async fn extend_now(&self, uuid: ClusterId, expires_s: u64) -> Result<()> {
        let doing = "cannot write down when the cluster expires";
        let name = lease_name(uuid, expires_s);
        let mut labels = self.labels(uuid);
        labels.insert(EXPIRES.to_owned(), expires_s.to_string());
        let request = VolumeCreateRequest { name: Some(name.clone()), labels: Some(labels), ..Default::default() };
        self.engine.create_volume(request).await.map_err(|e| explain(doing, e))?;
        *self.known_end() = Some(expires_s);
        // The new one is there: what earlier ones say does not count any more.
        for volume in self.volumes(CLUSTER, &uuid.to_string()).await? {
            if holds_only_an_end(&volume.name, &uuid.to_string()) && volume.name != name {
                let _ = self.engine.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await;
            }
        }
        for container in self.containers(CLUSTER, &uuid.to_string()).await? {
            let body = ContainerUpdateBody { restart_policy: Some(restart_policy(true)), ..Default::default() };
            let id = container.id.unwrap_or_default();
            self.engine.update_container(&id, body).await.map_err(|e| explain(doing, e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_host_is_made_with_its_timer() {
        let mut tar = tar::Builder::new(Vec::new());
        plant_end(&mut tar, End { at_s: 1_700_000_000, cluster: "lesson" }).unwrap();
        let bytes = tar.into_inner().unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let shown = archive.entries().unwrap().map(|e| {
            let e = e.unwrap();
            let link = e.link_name().unwrap().map(|l| format!(" -> {}", l.display())).unwrap_or_default();
            format!("{}{link}", e.path().unwrap().display())
        });
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [
                "etc/systemd/system/septet-expiry.service",
                "etc/systemd/system/septet-expiry.timer",
                "etc/systemd/system/timers.target.wants/septet-expiry.timer -> /etc/systemd/system/septet-expiry.timer",
            ]
        );
    }

    #[test]
    fn a_later_end_is_kept_with_the_data_and_goes_without_it() {
        let uuid = ClusterId::random();
        let (until, text) = (lease_name(uuid, 2000), uuid.to_string());
        let kept = |volumes: &[&str]| {
            let all = volume_resources(volumes.iter().map(|v| (*v).to_owned()).collect(), &text);
            all.into_iter().filter(|r| r.data).map(|r| r.name).collect::<Vec<_>>()
        };
        assert_eq!(kept(&["septet-x-broker1", &until]), ["septet-x-broker1", until.as_str()]);
        assert_eq!(kept(&[&until]), Vec::<String>::new());
        // Another cluster's end is not known here.
        assert_eq!(kept(&[&lease_name(ClusterId::random(), 2000)]).len(), 1);
    }
}

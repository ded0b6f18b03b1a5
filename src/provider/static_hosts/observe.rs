//! Looking at hosts that exist: how each is reached, what it answers, and whose it is.
//!
//! Invariant: a host that did not answer is listed as such; nothing is concluded about what is on it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, PoisonError},
};

use super::{KEPT, OWNER, Owner, Probe, SCRIPT_TIMEOUT, Seen, StaticHosts, Wanted, script, scripts};
use crate::{
    engine::bundle::Architecture,
    error::{Error, Result},
    identity::ClusterId,
    observed::{HostState, Identity, KeptVolume, Observed, ObservedHost, ObservedNetwork, Place},
    provider::choose,
    ssh::{Ask, Connection, Own, SshError, all},
    visible::Secret,
};

/// Whether a failure concerns one host only. What is wrong with the user's own configuration, or with what stands on a host, ends the
/// command instead.
pub(super) fn is_of_one_host(e: &SshError) -> bool {
    matches!(
        e,
        SshError::Unreachable(_)
            | SshError::Jump { .. }
            | SshError::Lost(_)
            | SshError::HostKey { .. }
            | SshError::UnknownHost { .. }
            | SshError::Login(_)
            | SshError::Sudo(_)
    )
}

impl StaticHosts {
    async fn own(&self, wanted: &Wanted) -> std::result::Result<Own, SshError> {
        let h = &wanted.host;
        let from_file = |path: &std::path::PathBuf| {
            let text = std::fs::read_to_string(path).map_err(|e| SshError::Config(format!("{}: {e}", path.display())))?;
            Ok::<_, SshError>(Secret::new(text.lines().next().unwrap_or_default()))
        };
        let password = match (&h.become_password, &h.become_password_file) {
            (Some(secret), _) => Some(secret.clone()),
            (None, Some(path)) => Some(from_file(path)?),
            (None, None) if self.become_password.is_some() => self.become_password.clone(),
            (None, None) => std::env::var("SEPTET_BECOME_PASSWORD").ok().filter(|p| !p.is_empty()).map(Secret::new),
        };
        let ask = Ask { target: h.target.clone(), user: h.user.clone(), port: h.port, key: h.key.clone(), config: h.config.clone() };
        let mut own = Own::resolve(ask, self.accept_new, password).await?;
        own.shared = self.jumps.clone();
        Ok(own)
    }

    /// Asks a host, over the connection of the last time where it still stands.
    async fn look(&self, wanted: &Wanted) -> std::result::Result<Seen, SshError> {
        let (own, connection) = match self.seen(wanted.id).filter(|s| !s.connection.is_closed()) {
            Some(s) => (s.own, s.connection),
            None => {
                let own = self.own(wanted).await?;
                self.routes.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted.id, own.clone());
                let connection = Arc::new(Connection::open_own(&wanted.name, &own).await?);
                (own, connection)
            }
        };
        let out = connection.exec(&script(scripts::PROBE, &[OWNER, KEPT]), b"", SCRIPT_TIMEOUT).await?;
        let probe = Probe::parse(&String::from_utf8_lossy(&out.stdout)).map_err(SshError::Agent)?;
        let seen = Seen { own, connection, probe };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted.id, seen.clone());
        Ok(seen)
    }

    /// Asks these hosts; their answers in the same order.
    async fn look_at<'a>(&'a self, hosts: Vec<&'a Wanted>) -> Vec<(&'a Wanted, std::result::Result<Seen, SshError>)> {
        all(self.at_once, hosts.into_iter().map(|w| async move { (w, self.look(w).await) })).await
    }

    /// For a removal: what each host answered that is not left out of it.
    pub(super) async fn look_for_removal(&self) -> Result<Vec<(&Wanted, Probe)>> {
        let looked = self.look_at(self.not_left_out()).await;
        let answers = looked.into_iter().map(|(wanted, looked)| (wanted, looked.map(|seen| seen.probe))).collect();
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).sort_out(answers, self.ignore_unreachable)
    }

    /// Hosts that are looked at for a removal.
    fn not_left_out(&self) -> Vec<&Wanted> {
        let left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        self.wanted.iter().filter(|w| !left_out.has(w.id)).collect()
    }

    /// What is wrong with reaching a host, with what to do about it.
    pub(super) fn cannot_reach(wanted: &Wanted, e: &SshError) -> Error {
        let place = format!("{} ({})", wanted.name, wanted.host.target);
        match e {
            SshError::UnknownHost { .. } => Error::failed(format!("{place}: {e}"))
                .hint("compare the fingerprint with the host's own (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there), then run the command with `--accept-new` once"),
            SshError::HostKey { .. } => Error::failed(format!("{place}: {e}; refusing to connect"))
                .hint("if the host was installed anew, remove its old key with `ssh-keygen -R`; otherwise the connection may be intercepted"),
            SshError::Login(_) => Error::failed(format!("{place}: {e}"))
                .hint("`ssh` must log in there without a question: add the key to the host's authorized_keys, name it with `key:`, or add it to an agent"),
            SshError::Sudo(_) => Error::failed(format!("{place}: {e}"))
                .hint("give the password with -K, `become_password_file:` or SEPTET_BECOME_PASSWORD, or allow sudo without one"),
            other => Error::failed(format!("{place}: {other}")),
        }
    }

    pub(super) async fn observe_now(&self) -> Result<Observed> {
        let (mut seen, mut failed) = (Vec::new(), Vec::new());
        for (wanted, result) in self.look_at(self.wanted.iter().collect()).await {
            match result {
                Ok(s) => seen.push((wanted, s.probe)),
                Err(e) if is_of_one_host(&e) => failed.push((wanted, e)),
                Err(e) => return Err(Self::cannot_reach(wanted, &e)),
            }
        }
        let mut counts: BTreeMap<ClusterId, usize> = BTreeMap::new();
        for (wanted, probe) in &seen {
            for (owner, has_host) in [(&probe.owner, true), (&probe.kept, false)] {
                let Some(owner) = owner else { continue };
                let uuid = self.of_this_cluster(wanted, owner)?;
                *counts.entry(uuid).or_default() += usize::from(has_host);
            }
        }
        let identities: Vec<Identity> = counts.into_iter().map(|(uuid, hosts)| Identity { uuid, hosts }).collect();
        let (uuid, twins) = choose(&self.cluster, identities)?;
        // Without a host that says which cluster this is, nothing is known of those that do not answer.
        if let Some((wanted, e)) = failed.first().filter(|_| uuid.is_none()) {
            return Err(Self::cannot_reach(wanted, e));
        }
        let mut observed = Observed { uuid, twins, ..Observed::default() };
        let mut places = BTreeMap::new();
        for (wanted, probe) in seen {
            let address = wanted.host.address.or(probe.reached).unwrap_or(IpAddr::from([0, 0, 0, 0]));
            places.insert(wanted.id, address);
            let is_own = |o: &&Owner| o.cluster.parse().ok() == uuid;
            if let Some(owner) = probe.owner.as_ref().filter(is_own) {
                observed.engine.get_or_insert_with(|| owner.engine.clone());
                observed.hosts.push(Self::host(wanted, owner.host.clone(), address, &probe));
            } else if let Some(kept) = probe.kept.as_ref().filter(is_own) {
                observed.engine.get_or_insert_with(|| kept.engine.clone());
                observed.kept.insert(wanted.id, KeptVolume { reference: kept.data(&self.data).join(", "), zone: String::new() });
            }
        }
        for (wanted, e) in failed {
            observed.unreached.insert(wanted.id, Self::cannot_reach(wanted, &e));
            let address = wanted.host.address.unwrap_or(IpAddr::from([0, 0, 0, 0]));
            observed.hosts.push(Self::host(wanted, wanted.name.clone(), address, &Probe::default()));
        }
        observed.hosts.sort_by_key(|h| h.id);
        observed.network = Some(ObservedNetwork { reference: "given".into(), place: Place::Given(places) });
        Ok(observed)
    }

    pub(super) fn host(wanted: &Wanted, name: String, address: IpAddr, probe: &Probe) -> ObservedHost {
        ObservedHost {
            id: wanted.id,
            reference: wanted.host.target.clone(),
            name,
            state: HostState::Running,
            address,
            public: None,
            host_key: String::new(),
            published: BTreeMap::new(),
            architecture: Architecture::parse(&probe.machine),
            size: None,
            data_volume: None,
            data_is_new: false,
        }
    }

    /// The identity that stands on a host, if it is this cluster's and in the place that the inventory gives it.
    pub(super) fn of_this_cluster(&self, wanted: &Wanted, owner: &Owner) -> Result<ClusterId> {
        let place = format!("{} ({})", wanted.name, wanted.host.target);
        let Some(uuid) = owner.cluster.parse().ok().filter(|_| self.cluster == owner.name) else {
            let text = format!("{place} belongs to cluster `{}` ({}): refusing to use it", owner.name, owner.cluster);
            return Err(Error::failed(text)
                .hint("take it out of the inventory, or give it back first: `septet down --data` with that cluster's inventory"));
        };
        if owner.id() != wanted.id {
            let text = format!(
                "{place} is number {} of {} in this cluster, the inventory has it as number {} of {}",
                owner.index, owner.group, wanted.id.index, wanted.id.group
            );
            return Err(Error::failed(text).hint("a host's number is its place in the list: put it back where it was"));
        }
        Ok(uuid)
    }
}

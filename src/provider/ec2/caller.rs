//! The address from which the control host sees whoever runs Septet: from the internet, asked of the one source that the inventory
//! names; from inside of the VPC, asked of this machine's own routes.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    time::Duration,
};

use septet_ec2::filter;

use super::{Ec2, policy::explain, tags};
use crate::{
    address::parse_cidr,
    error::{Error, Result},
    inventory::{Connect, VpcChoice},
};

/// Time for the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer, in bytes.
const MAX_BYTES: u64 = 256;

fn ask(url: &str) -> Result<Ipv4Addr> {
    let fail = |why: String| {
        Error::failed(format!("{url} does not return this machine's address: {why}"))
            .hint("write who may log in to the control host: `ssh: {from: [203.0.113.7/32]}` below `ec2:`")
    };
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).build().into();
    let mut answer = agent.get(url).call().map_err(|e| fail(e.to_string()))?;
    let text = answer.body_mut().with_config().limit(MAX_BYTES).read_to_string().map_err(|e| fail(e.to_string()))?;
    text.trim().parse().map_err(|_| fail(format!("it answers `{}`", text.trim().chars().take(60).collect::<String>())))
}

/// This machine's own address on the way to another one. Nothing is sent.
fn on_the_way_to(there: Ipv4Addr) -> Result<Ipv4Addr> {
    let fail = |why: String| {
        Error::failed(format!("which address of this machine leads to {there} is not known: {why}"))
            .hint("write who may log in to the control host: `ssh: {from: [10.0.0.7/32]}` below `ec2:`")
    };
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|e| fail(e.to_string()))?;
    socket.connect((there, 22)).map_err(|e| fail(e.to_string()))?;
    match socket.local_addr().map_err(|e| fail(e.to_string()))?.ip() {
        IpAddr::V4(a) if !a.is_unspecified() && !a.is_loopback() => Ok(a),
        other => Err(fail(format!("it would be {other}"))),
    }
}

impl Ec2 {
    /// An address in the network that the cluster is in, or will be.
    async fn somewhere_inside(&self) -> Result<Ipv4Addr> {
        let known = self.seen().groups.iter().find_map(|g| tags::read_layout(&g.tags)).and_then(|l| l.subnets.first().map(|s| s.network));
        if let Some(there) = known {
            return Ok(there);
        }
        let cidr = match &self.settings.vpc {
            VpcChoice::New { cidr } => cidr.clone(),
            VpcChoice::Default | VpcChoice::Id(_) => {
                let vpc = self.vpc().await?.unwrap_or_default();
                let found = self.client().await?.vpcs(&[filter("vpc-id", &[&vpc])]).await;
                found.map_err(|e| explain("cannot list VPCs", e))?.into_iter().next().map(|v| v.cidr).unwrap_or_default()
            }
        };
        parse_cidr(&cidr).map(|(network, _)| network).ok_or_else(|| Error::failed(format!("`{cidr}` is not a network")))
    }

    /// Who may log in to the control host.
    pub(super) async fn ssh_from(&self) -> Result<Vec<String>> {
        if let Some(list) = &self.settings.ssh_from {
            return Ok(list.clone());
        }
        let url = self.settings.ssh_ask.clone();
        let found = self.caller.get_or_try_init(|| async {
            if self.settings.connect == Connect::Private {
                return on_the_way_to(self.somewhere_inside().await?).map(|a| format!("{a}/32"));
            }
            let asked = tokio::task::spawn_blocking(move || ask(&url)).await;
            asked.map_err(|e| Error::failed(e.to_string()))?.map(|a| format!("{a}/32"))
        });
        Ok(vec![found.await?.clone()])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_that_is_no_one_elses_gets_a_hint() {
        let e = on_the_way_to(Ipv4Addr::LOCALHOST).unwrap_err();
        assert!(e.hint.as_ref().is_some_and(|h| h.contains("`ssh: {from: [10.0.0.7/32]}`")), "{e}");
    }
}

//! The address from which the internet sees whoever runs Septet, asked of the one source that the inventory names.

use std::{net::Ipv4Addr, time::Duration};

use super::Ec2;
use crate::error::{Error, Result};

/// Time for the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer, in bytes.
const MAX_BYTES: u64 = 256;

fn ask(url: &str) -> Result<Ipv4Addr> {
    let fail = |why: String| {
        Error::failed(format!("{url} does not tell this machine's address: {why}"))
            .hint("write who may log in to the control host: `ssh: {from: [203.0.113.7/32]}` below `ec2:`")
    };
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).build().into();
    let mut answer = agent.get(url).call().map_err(|e| fail(e.to_string()))?;
    let text = answer.body_mut().with_config().limit(MAX_BYTES).read_to_string().map_err(|e| fail(e.to_string()))?;
    text.trim().parse().map_err(|_| fail(format!("it says `{}`", text.trim().chars().take(60).collect::<String>())))
}

impl Ec2 {
    /// Who may log in to the control host.
    pub(super) async fn ssh_from(&self) -> Result<Vec<String>> {
        if let Some(list) = &self.settings.ssh_from {
            return Ok(list.clone());
        }
        let url = self.settings.ssh_ask.clone();
        let found = self.caller.get_or_try_init(|| async {
            let asked = tokio::task::spawn_blocking(move || ask(&url)).await;
            asked.map_err(|e| Error::failed(e.to_string()))?.map(|a| format!("{a}/32"))
        });
        Ok(vec![found.await?.clone()])
    }
}

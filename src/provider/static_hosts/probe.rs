//! What a host says of itself: its system, what is installed, whose it is. Pure.

use std::net::IpAddr;

use super::{KEPT, OWNER, owner::Owner};

/// What a host answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) machine: String,
    pub(super) reached: Option<IpAddr>,
    pub(super) hostname: String,
    pub(super) os: String,
    pub(super) systemd: bool,
    pub(super) units: Vec<String>,
    pub(super) owner: Option<Owner>,
    pub(super) kept: Option<Owner>,
}

impl Probe {
    pub(super) fn parse(text: &str) -> std::result::Result<Self, String> {
        if !text.lines().any(|l| l == "end") {
            return Err("the answer is incomplete".into());
        }
        let all = |key: &str| {
            text.lines().filter_map(|l| l.split_once(' ')).filter(|(k, _)| *k == key).map(|(_, v)| v.trim()).collect::<Vec<_>>()
        };
        let one = |key: &str| all(key).first().copied().unwrap_or_default();
        let owner = |key: &str, path: &str| match one(key) {
            "" => Ok(None),
            text => serde_json::from_str(text).map(Some).map_err(|e| format!("{path} does not parse: {e}")),
        };
        Ok(Self {
            machine: one("machine").into(),
            // A link-local address has its interface behind it.
            reached: one("reached").split('%').next().and_then(|a| a.parse().ok()),
            hostname: one("name").into(),
            os: one("os").into(),
            systemd: text.lines().any(|l| l == "systemd"),
            units: all("unit").into_iter().map(str::to_owned).collect(),
            owner: owner("owner", OWNER)?,
            kept: owner("kept", KEPT)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_is_whole_or_an_error() {
        let owner = r#"{"cluster":"0123e456-e89b-42d3-a456-426614174000","name":"lab","group":"brokers","index":2,"host":"p-kafka02","engine":"bundled-3"}"#;
        let text = format!(
            "machine x86_64\nreached fe80::1%eth0\nname old\nos debian 12\nsystemd\nunit kafka-server.service\nowner {owner}\nend\n"
        );
        let probe = Probe::parse(&text).unwrap();
        assert_eq!(probe.reached, "fe80::1".parse().ok());
        assert_eq!((probe.hostname.as_str(), probe.os.as_str(), probe.systemd), ("old", "debian 12", true));
        let read = probe.owner.unwrap();
        assert_eq!((read.id().to_string().as_str(), read.before.len()), ("broker2", 0));
        assert!(Probe::parse(&text.replace("\nend\n", "\n")).is_err());
        assert!(Probe::parse("owner {\nend\n").unwrap_err().contains("does not parse"));
    }
}

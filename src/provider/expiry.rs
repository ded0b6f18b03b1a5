//! The units that stop a host at the end of its cluster's life. The playbook `expiry.yml` renders the same templates, so that on a host
//! that got them when it was made it has nothing to change.

/// Where they lie, below the root of the host's file system.
pub const UNITS: &str = "etc/systemd/system";
/// Starts the service at the end.
pub const TIMER: &str = "septet-expiry.timer";
/// Stops the host.
pub const SERVICE: &str = "septet-expiry.service";
/// Where a link enables the timer, below [`UNITS`].
pub const WANTS: &str = "timers.target.wants";

/// When a cluster expires, for the units of its hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End<'a> {
    /// seconds since 1970
    pub at_s: u64,
    /// the cluster's name
    pub cluster: &'a str,
}

impl End<'_> {
    /// The two units, by name.
    pub fn units(self) -> [(&'static str, String); 2] {
        [
            (SERVICE, self.render(include_str!("../../templates/septet-expiry.service"))),
            (TIMER, self.render(include_str!("../../templates/septet-expiry.timer"))),
        ]
    }

    fn render(self, template: &str) -> String {
        template.replace("{{ septet.expires }}", &self.at_s.to_string()).replace("{{ septet.cluster }}", self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_need_nothing_but_the_end_and_the_name() {
        for (name, text) in (End { at_s: 1_700_000_000, cluster: "lesson" }).units() {
            assert!(!text.contains("{{") && text.contains("1700000000") && text.contains("lesson"), "{name}: {text}");
        }
    }
}

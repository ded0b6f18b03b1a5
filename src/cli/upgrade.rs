//! `septet upgrade`

use std::{
    fmt::Write,
    sync::{Arc, atomic::AtomicBool},
};

use super::{Global, Parameters, Recorded, print_data, print_json};
use crate::{
    error::{Error, Result},
    operations::{self, Upgraded, Wish},
    playbook::Options,
    report::hosts_table,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// Version of Apache Kafka, written into the inventory first (`engine: apache`)
    #[arg(long, value_name = "VERSION")]
    engine_version: Option<String>,
    /// Show what would be done, host by host, and change nothing
    #[arg(long)]
    check: bool,
    /// Then raise `metadata.version` (KRaft), once every host runs the version; this cannot be undone
    #[arg(long)]
    finish: bool,
}

impl Arguments {
    /// Whether it is more than a look.
    pub fn changes(&self) -> bool {
        !self.check
    }

    /// As it is typed.
    pub fn command(&self) -> String {
        let version = self.engine_version.as_ref().map(|v| format!(" --engine-version {v}")).unwrap_or_default();
        format!("septet upgrade{version}{}", if self.finish { " --finish" } else { "" })
    }
}

impl Recorded for Arguments {
    fn parameters(&self) -> Parameters {
        let mut parameters = Parameters::new();
        parameters.extend(self.engine_version.clone().map(|v| ("engine_version", v)));
        parameters.extend(self.finish.then(|| ("finish", "true".to_owned())));
        parameters
    }
}

/// What would be done, as lines.
fn would(done: &Upgraded) -> String {
    let mut out = String::new();
    let mut role = "";
    for c in &done.changes {
        if role != c.role {
            role = c.role;
            let _ = writeln!(out, "{role}");
        }
        let _ = writeln!(out, "  {:>3}. {}: from {} to {}", c.turn, c.host, c.from, c.to);
    }
    for note in &done.notes {
        let _ = writeln!(out, "{note}");
    }
    if let Some(pending) = &done.pending {
        let _ = writeln!(out, "{}", pending.text());
    }
    out
}

/// The last step, if there is one.
fn last_step(done: &Upgraded) -> Option<String> {
    match (done.raised, done.unfinished) {
        (Some((from, to)), _) => Some(format!("metadata.version was raised from level {from} to {to}")),
        (None, Some((from, to))) => Some(format!(
            "metadata.version is at level {from}, the brokers support {to}: `septet upgrade --finish` raises it, once the version has proved itself; that cannot be undone"
        )),
        (None, None) => None,
    }
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let options = Options::default();
    let mut cluster = g.cluster(options, g.reporter(false), interrupted)?;
    let wish = Wish { version: a.engine_version.as_deref(), check: a.check, finish: a.finish };
    let done = operations::upgrade(&mut cluster, wish).await?;
    if g.json {
        let value = serde_json::to_value(&done).map_err(|e| Error::failed(e.to_string()))?;
        return if a.check { print_json(&value) } else { g.print_result("result", value) };
    }
    let last = last_step(&done).map(|text| text.replace("`septet ", &format!("`{}", g.command(""))));
    if a.check {
        print_data(&would(&done).replace("`septet ", &format!("`{}", g.command(""))))?;
        match (done.changes.len(), done.already.len()) {
            (0, all) => eprintln!("nothing to upgrade: all {all} hosts run it"),
            (n, there) => eprintln!(
                "\n{n} hosts would be upgraded in this order, {there} run it already; `{}` does it",
                g.command(&a.command()["septet ".len()..])
            ),
        }
    } else {
        if let Some(report) = &done.report {
            print_data(&(hosts_table(&report.hosts) + "\n"))?;
        }
        eprintln!("\n{} hosts upgraded, {} ran it already; the cluster is healthy", done.changes.len(), done.already.len());
    }
    if let Some(last) = last {
        eprintln!("{last}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::{Change, Pending};

    #[test]
    fn what_would_be_done() {
        let change = |host: &str, role, turn| Change { host: host.into(), role, from: "3.9.1".into(), to: "4.1.1".into(), turn };
        let changes = vec![
            change("p-controller02", "coordinators", 1),
            change("p-controller01", "coordinators", 2),
            change("p-kafka01", "brokers", 3),
        ];
        let done = Upgraded { changes, notes: vec!["a note".into()], unfinished: Some((21, 27)), ..Upgraded::default() };
        assert_eq!(
            would(&done),
            "coordinators\n    1. p-controller02: from 3.9.1 to 4.1.1\n    2. p-controller01: from 3.9.1 to 4.1.1\nbrokers\n    3. p-kafka01: from 3.9.1 to 4.1.1\na note\n"
        );
        let pending = Some(Pending { hosts: vec!["p-kafka01".into()], files: 2 });
        let lines = would(&Upgraded { pending, ..done.clone() });
        assert!(lines.ends_with(
            "a note\nconfiguration is pending, and the upgrade applies it as `septet up` does: 2 files on 1 host (p-kafka01)\n"
        ));
        assert!(last_step(&done).is_some_and(|t| t.contains("`septet upgrade --finish` raises it")));
        let done = Upgraded { raised: Some((21, 27)), ..done };
        assert_eq!(last_step(&done).as_deref(), Some("metadata.version was raised from level 21 to 27"));
    }
}

//! `septet check`

use std::sync::{Arc, atomic::AtomicBool};

use super::{Global, print_data, print_json};
use crate::{
    error::{Error, Result},
    operations::{self, Finding},
    playbook::Options,
    provider::Verdict,
    report::plain_table,
    visible::visible_line,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// Show what passes too
    #[arg(short, long)]
    all: bool,
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
    }
}

/// Findings that do not pass, or all, as a table with what to do below; then the counts.
fn shown(findings: &[Finding], all: bool) -> String {
    let some: Vec<&Finding> = findings.iter().filter(|f| all || f.verdict != Verdict::Pass).collect();
    let rows = some.iter().map(|f| vec![word(f.verdict).to_owned(), f.place.clone(), f.check.clone(), f.finding.clone()]);
    let mut out = if some.is_empty() { String::new() } else { plain_table(&["", "where", "check", "finding"], rows) + "\n" };
    let mut told = Vec::new();
    for f in some {
        let Some(hint) = f.hint.as_ref().filter(|h| !told.contains(h)) else { continue };
        out += &format!("{}: {}\n", visible_line(&f.check), visible_line(hint));
        told.push(hint);
    }
    let count = |v| findings.iter().filter(|f| f.verdict == v).count();
    out + &format!("{} passed, {} warnings, {} failed\n", count(Verdict::Pass), count(Verdict::Warn), count(Verdict::Fail))
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let cluster = g.cluster(Options::default(), g.reporter(false), interrupted)?;
    let findings = operations::check(&cluster).await?;
    if g.json {
        print_json(&findings)?;
    } else {
        print_data(&shown(&findings, a.all || g.verbose > 0))?;
    }
    match operations::worst(&findings) {
        Verdict::Fail => Err(Error::failed("")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_as_a_person_sees_them() {
        let finding = |verdict, place: &str, check: &str, text: &str, hint: Option<&str>| Finding {
            place: place.into(),
            check: check.into(),
            verdict,
            finding: text.into(),
            hint: hint.map(str::to_owned),
        };
        let all = [
            finding(Verdict::Pass, "provider", "limits", "nothing stands in the way", None),
            finding(Verdict::Fail, "p-kafka01", "ports", "cannot connect to p-kafka02:9092", Some("a firewall is in the way")),
            finding(Verdict::Fail, "p-kafka03", "ports", "cannot connect to p-kafka02:9092", Some("a firewall is in the way")),
            finding(Verdict::Warn, "p-zk01", "kernel", "vm.swappiness is 60, and there is swap", Some("`sysctl -w vm.swappiness=1`")),
        ];
        insta::assert_snapshot!(shown(&all, false));
        assert_eq!(shown(&all[..1], false), "1 passed, 0 warnings, 0 failed\n");
        assert!(shown(&all, true).contains("nothing stands in the way"));
    }
}

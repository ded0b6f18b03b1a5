//! Tables.

use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets::NOTHING};

use crate::{
    health::{HostHealth, Report},
    playbook::Recap,
    visible::{visible, visible_line},
};

/// A number with what it counts, in the plural where it is not one.
pub fn counted(n: usize, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// A table without lines.
pub fn plain_table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut t = Table::new();
    t.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head.iter().map(|h| h.to_uppercase()));
    for row in rows {
        t.add_row(row.iter().map(|cell| visible_line(cell).into_owned()));
    }
    t.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Hosts: name, role, address, state.
pub fn hosts_table(hosts: &[HostHealth]) -> String {
    plain_table(
        &["host", "role", "address", "state", ""],
        hosts.iter().map(|h| vec![h.name.clone(), h.role.clone(), h.address.clone(), h.state.clone(), h.note.clone()]),
    )
}

/// A health report.
pub fn health_table(report: &Report) -> String {
    let mut out = hosts_table(&report.hosts);
    if report.healthy {
        out += "\nhealthy";
    } else {
        out += &format!("\n{} problem{}:", report.problems.len(), if report.problems.len() == 1 { "" } else { "s" });
        for p in &report.problems {
            out += &format!("\n  {}: {}", visible_line(&p.host), visible(&p.reason));
        }
    }
    for w in &report.warnings {
        out += &format!("\nwarning: {}", visible(w));
    }
    out
}

/// Phases and their times.
pub fn phases_table(phases: &[(String, Duration)]) -> String {
    let total: Duration = phases.iter().map(|(_, d)| *d).sum();
    let seconds = |d: Duration| format!("{:6.2} s", d.as_secs_f64());
    let mut rows: Vec<Vec<String>> = phases.iter().map(|(n, d)| vec![n.clone(), seconds(*d)]).collect();
    rows.push(vec!["total".into(), seconds(total)]);
    plain_table(&["phase", "time"], rows)
}

/// A run's counts per host.
pub fn recap_table(recap: &Recap) -> String {
    let rows = recap.hosts.iter().map(|(h, c)| {
        let mut row = vec![h.clone()];
        row.extend([c.ok, c.changed, c.failed, c.skipped, c.ignored, c.rescued, c.unreachable].map(|n| n.to_string()));
        row
    });
    plain_table(&["host", "ok", "changed", "failed", "skipped", "ignored", "rescued", "unreachable"], rows)
}

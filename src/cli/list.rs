//! `septet list`

use std::time::Duration;

use super::{Global, print_data, print_json};
use crate::{clock, error::Result, operations, provider::Found, report::plain_table};

/// Runs it.
pub async fn run(g: &Global) -> Result<()> {
    let list = operations::list(&g.selected()?).await?;
    if g.json { print_json(&list) } else { print_data(&(table(&list, clock::now_s()) + "\n")) }
}

fn table(list: &[Found], now_s: u64) -> String {
    if list.is_empty() {
        return "no cluster of Septet's exists there".into();
    }
    let span = |s: u64| clock::span(Duration::from_secs(s));
    let row = |f: &Found| {
        let hosts = if f.running == f.hosts { f.hosts.to_string() } else { format!("{} ({} run)", f.hosts, f.running) };
        let age = f.made_s.map(|m| span(now_s.saturating_sub(m))).unwrap_or_default();
        let ends = match f.expires_s {
            None => "never".to_owned(),
            Some(at) if at <= now_s => "expired".to_owned(),
            Some(at) => format!("in {}", span(at - now_s)),
        };
        let cost = match (f.cost, f.hourly) {
            (Some(cost), Some(hourly)) => format!("{cost:.2} USD ({hourly:.3} per hour)"),
            _ => String::new(),
        };
        let text = |t: &Option<String>| t.clone().unwrap_or_else(|| "?".into());
        vec![text(&f.name), text(&f.prefix), hosts, age, ends, cost, f.uuid.to_string()]
    };
    plain_table(&["cluster", "prefix", "hosts", "age", "expires", "cost", "id"], list.iter().map(row))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn clusters_as_a_person_sees_them() {
        let found = |name: &str, hosts, running, expires_s, cost: Option<f64>| Found {
            name: Some(name.into()),
            uuid: "0123e456-e89b-42d3-a456-426614174000".parse().unwrap(),
            prefix: Some("peter".into()).filter(|_| hosts > 0),
            hosts,
            running,
            made_s: Some(10_000),
            expires_s,
            hourly: cost.map(|c| c / 10.0),
            cost,
        };
        let list = [found("a", 7, 7, None, None), found("b", 7, 5, Some(50_000), Some(1.25)), found("c", 0, 0, Some(20_000), None)];
        insta::assert_snapshot!(table(&list, 46_000));
    }
}

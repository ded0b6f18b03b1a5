//! What a cluster costs, by a table that ships with Septet: list prices of a stated day.
//!
//! Invariant: pure. What the table does not know is named, never guessed.

use std::collections::{BTreeMap, BTreeSet};

use super::Ec2;
use crate::provider::Estimate;

const TABLE: &str = include_str!("prices.tsv");
/// Hours that AWS counts for a month.
pub(super) const HOURS_PER_MONTH: f64 = 730.0;
/// GiB of a system volume whose size the image decides.
const ROOT_GIB: i32 = 8;

/// What is paid for: what, by which item of the table, how much of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// for a person
    pub what: String,
    /// item of the table
    pub item: String,
    /// how much of it is paid per piece
    pub amount: f64,
    /// whether the price is per month
    pub monthly: bool,
    /// pieces
    pub count: u32,
}

pub(super) fn price(region: &str, item: &str) -> Option<f64> {
    TABLE.lines().filter(|l| !l.starts_with('#')).find_map(|l| {
        let mut f = l.split('\t');
        (f.next()? == region && f.next()? == item).then(|| f.next()?.parse().ok())?
    })
}

/// Day of the table.
fn as_of() -> String {
    let head = TABLE.lines().next().unwrap_or_default();
    head.split_once("date: ").map_or("", |(_, d)| d.split([' ', ';', ',']).next().unwrap_or_default()).to_owned()
}

/// Adds up.
pub fn estimate(region: &str, bill: &[Item]) -> Estimate {
    let (mut parts, mut unknown, mut hourly) = (Vec::new(), BTreeSet::new(), 0.0);
    for i in bill {
        match price(region, &i.item) {
            Some(p) => {
                let each = p * i.amount / if i.monthly { HOURS_PER_MONTH } else { 1.0 };
                hourly += each * f64::from(i.count);
                parts.push((i.what.clone(), i.count, each));
            }
            None => drop(unknown.insert(format!("{} in {region}", i.what))),
        }
    }
    Estimate { hourly, monthly: hourly * HOURS_PER_MONTH, unknown, as_of: as_of(), parts }
}

impl Ec2 {
    /// What the inventory asks for, as items that are paid.
    pub(super) fn bill(&self) -> Vec<Item> {
        let mut count: BTreeMap<(String, String, bool, u64), u32> = BTreeMap::new();
        let mut add = |what: String, item: &str, monthly: bool, amount: f64| {
            *count.entry((what, item.to_owned(), monthly, amount.to_bits())).or_default() += 1;
        };
        for host in &self.hosts {
            let role = host.id.role();
            if let Some(t) = self.settings.types(host.id.group).first() {
                let what = if self.settings.spot { format!("{t} (at the on-demand price; spot is lower)") } else { t.clone() };
                add(what, t, false, 1.0);
            }
            for v in [Some(&self.settings.root_volume), self.data_volume(role)].into_iter().flatten() {
                let size = v.size.unwrap_or(ROOT_GIB);
                add(format!("gp3 of {size} GiB"), "gp3", true, f64::from(size));
                if let Some(iops) = v.iops.filter(|i| *i > 3000) {
                    add(format!("{iops} operations per second"), "gp3-iops", true, f64::from(iops - 3000));
                }
                if let Some(t) = v.throughput.filter(|t| *t > 125) {
                    add(format!("{t} MiB/s"), "gp3-throughput", true, f64::from(t - 125));
                }
            }
            if self.wants_public(role) {
                add("public IPv4 address".into(), "ipv4", false, 1.0);
            }
        }
        let items = count.into_iter();
        items.map(|((what, item, monthly, amount), count)| Item { what, item, amount: f64::from_bits(amount), monthly, count }).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_table_has_its_form() {
        let day = as_of();
        assert!(day.len() == 10 && day.starts_with("20"), "{day}");
        let mut seen = std::collections::HashSet::new();
        let mut last = String::new();
        for line in TABLE.lines().filter(|l| !l.starts_with('#')) {
            let f: Vec<&str> = line.split('\t').collect();
            assert_eq!(f.len(), 3, "{line}");
            let price: f64 = f[2].parse().unwrap();
            assert!(price > 0.0 && price < 50.0, "{line}");
            assert!(seen.insert((f[0], f[1])), "twice: {line}");
            assert!(f[0].as_bytes().iter().filter(|b| **b == b'-').count() >= 2, "no region: {line}");
            let key = format!("{}\t{}", f[0], f[1]);
            assert!(last < key, "not sorted: {line}");
            last = key;
        }
        for region in ["us-east-1", "eu-central-1", "ap-northeast-2"] {
            for item in ["t3.micro", "t3.small", "m5.large", "gp3", "ipv4"] {
                assert!(price(region, item).is_some(), "{region} {item}");
            }
        }
        assert_eq!(price("us-east-1", "m5.large"), Some(0.096));
    }

    #[test]
    fn what_is_unknown_is_named_and_the_rest_is_added_up() {
        let item = |what: &str, amount, monthly, count| Item { what: what.into(), item: what.into(), amount, monthly, count };
        let e = estimate("us-east-1", &[item("t3.small", 1.0, false, 3), item("gp3", 20.0, true, 3), item("x9.huge", 1.0, false, 1)]);
        let wanted = 3.0 * 0.0208 + 3.0 * 20.0 * 0.08 / 730.0;
        assert!((e.hourly - wanted).abs() < 1e-9, "{e:?}");
        assert!((e.monthly - wanted * 730.0).abs() < 1e-6);
        assert_eq!(e.unknown.into_iter().collect::<Vec<_>>(), ["x9.huge in us-east-1"]);
    }
}

//! Points in time: local for people, RFC 3339 for programs. Durations for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, tz::TimeZone};

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// As `2026-11-28T19:40:12.5Z`.
pub fn rfc3339(ms: i64) -> String {
    timestamp(ms).to_string()
}

/// As `2026-11-28 20:40:12 CET`, in this machine's time zone.
pub fn local(ms: i64) -> String {
    in_zone(ms, TimeZone::system(), "%Y-%m-%d %H:%M:%S %Z")
}

/// The same of seconds since 1970.
pub fn local_s(s: u64) -> String {
    local(i64::try_from(s.saturating_mul(1000)).unwrap_or(i64::MAX))
}

/// As `20:40:12`, in this machine's time zone.
pub fn local_time(ms: i64) -> String {
    in_zone(ms, TimeZone::system(), "%H:%M:%S")
}

/// As `20261128-204012`, in this machine's time zone, for names of files.
pub fn stamp(ms: i64) -> String {
    in_zone(ms, TimeZone::system(), "%Y%m%d-%H%M%S")
}

fn in_zone(ms: i64, zone: TimeZone, format: &str) -> String {
    timestamp(ms).to_zoned_datetime(zone).strftime(format).to_string()
}

/// For `serialize_with`: seconds since 1970 as RFC 3339.
pub fn serialize_s<S: serde::Serializer>(s: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&rfc3339(i64::try_from(s.saturating_mul(1000)).unwrap_or(i64::MAX)))
}

/// The same where there may be none.
pub fn serialize_some_s<S: serde::Serializer>(s: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    match s {
        Some(s) => serialize_s(s, to),
        None => to.serialize_none(),
    }
}

/// As `4.2 s`, `3 min 10 s`, `5 h 2 min` or `3 d 4 h`.
pub fn span(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{:.1} s", d.as_secs_f64()),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// The time between two points, never below zero.
pub fn between(from_ms: i64, to_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(to_ms.saturating_sub(from_ms)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_and_spans() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        assert_eq!(in_zone(1_795_894_812_000, berlin, "%Y-%m-%d %H:%M:%S %Z"), "2026-11-28 20:40:12 CET");
        assert_eq!(rfc3339(1_795_894_812_500), "2026-11-28T19:40:12.5Z");
        assert_eq!(rfc3339(i64::MAX), "1970-01-01T00:00:00Z");
        let spans: Vec<String> = [4, 190, 18_120, 273_600].map(|s| span(Duration::from_secs(s))).to_vec();
        assert_eq!(spans, ["4.0 s", "3 min 10 s", "5 h 2 min", "3 d 4 h"]);
        assert_eq!(between(5, 3), Duration::ZERO);
    }
}

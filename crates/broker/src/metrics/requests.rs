//! Requests by API and version, and how long their answers took.
//!
//! Invariant: there are no more series than APIs and versions that are served.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use septet_daemon::metrics::{Counter, Histogram, Registry};

/// Keys and versions that have a place; those that are served are below.
const KEYS: usize = 96;
const VERSIONS: usize = 24;
/// Upper bounds of times, in milliseconds.
const BOUNDS_MS: [f64; 14] = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 5000.0, 30_000.0];

#[derive(Debug)]
struct Api {
    name: String,
    time: Histogram,
    versions: [OnceLock<Counter>; VERSIONS],
}

/// Requests of all APIs.
#[derive(Debug)]
pub struct Requests {
    registry: Arc<Registry>,
    apis: Box<[OnceLock<Api>]>,
}

/// Measures one request until it is dropped, when its answer has been sent.
#[derive(Debug)]
pub struct Timer {
    begun: Instant,
    time: Histogram,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.time.observe(self.begun.elapsed().as_secs_f64() * 1000.0);
    }
}

impl Requests {
    /// With its series in a registry.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, apis: (0..KEYS).map(|_| OnceLock::new()).collect() }
    }

    /// A request has come; `name` gives the API's name, and is asked once. Without a place it is not measured.
    pub fn begin(&self, key: i16, version: i16, name: impl FnOnce() -> String) -> Option<Timer> {
        let place = self.apis.get(usize::try_from(key).ok()?)?;
        let api = place.get_or_init(|| {
            let name = name();
            let help = "Time from a request's arrival until its answer is sent, in milliseconds";
            let time = self.registry.histogram("kafka_network_requestmetrics_totaltimems", help, &[("request", &name)], &BOUNDS_MS);
            Api { name, time, versions: [const { OnceLock::new() }; VERSIONS] }
        });
        let count = api.versions.get(usize::try_from(version).ok()?)?.get_or_init(|| {
            let labels = [("request", api.name.as_str()), ("version", &version.to_string())];
            self.registry.counter("kafka_network_requestmetrics_requests_total", "Requests", &labels)
        });
        count.inc();
        Some(Timer { begun: Instant::now(), time: api.time.clone() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn requests_are_counted_by_version_and_timed_by_api() {
        let registry = Arc::<Registry>::default();
        let requests = Requests::new(registry.clone());
        for (key, version) in [(0, 9), (0, 9), (0, 7), (4, 5)] {
            drop(requests.begin(key, version, || format!("Key{key}")).unwrap());
        }
        for (key, version) in [(-1, 0), (0, -1), (0, 99), (i16::MAX, 0)] {
            assert!(requests.begin(key, version, || "x".into()).is_none());
        }
        let text = registry.expose();
        for line in [
            r#"kafka_network_requestmetrics_requests_total{request="Key0",version="9"} 2"#,
            r#"kafka_network_requestmetrics_requests_total{request="Key0",version="7"} 1"#,
            r#"kafka_network_requestmetrics_totaltimems_count{request="Key0"} 3"#,
            r#"kafka_network_requestmetrics_totaltimems_count{request="Key4"} 1"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}

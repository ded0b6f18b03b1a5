//! Metrics: a registry that is written without waiting, and read over HTTP in Prometheus's text format (0.0.4).
//!
//! Invariants: the number of series is bounded; what is written is valid text format, whatever names and labels come from
//! outside; a scrape holds no lock while it sends.

mod http;
mod process;
mod text;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

pub use http::{Limits, serve};

/// Series of one registry.
const MAX_SERIES: usize = 50_000;

/// A number that only grows.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }
    /// Adds a number.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that grows and shrinks.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
    /// Adds a number, which may be negative.
    pub fn add(&self, n: f64) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| Some((f64::from_bits(bits) + n).to_bits()));
    }
    /// Its value.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct Buckets {
    /// upper bounds, ascending
    bounds: Vec<f64>,
    /// observations at most as large as the bound and larger than the one before; the last has no bound
    counts: Vec<AtomicU64>,
    sum: Gauge,
}

/// Observations by size.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Buckets>);

impl Histogram {
    fn new(bounds: &[f64]) -> Self {
        let mut bounds: Vec<f64> = bounds.iter().copied().filter(|b| b.is_finite()).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Buckets { bounds, counts, sum: Gauge::default() }))
    }

    /// Counts an observation. One that is not a number is left out.
    pub fn observe(&self, value: f64) {
        if value.is_nan() {
            return;
        }
        let bucket = self.0.bounds.partition_point(|b| *b < value);
        if let Some(count) = self.0.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.0.sum.add(value);
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }
}

/// Where a series' value comes from.
#[derive(Clone)]
enum Source {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
    /// asked when it is read; `None` for no value now
    Ask(Arc<dyn Fn() -> Option<f64> + Send + Sync>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

struct Family {
    kind: Kind,
    help: String,
    /// by rendered labels
    series: BTreeMap<String, Source>,
}

/// Labels and values of series that come and go.
type Collect = Arc<dyn Fn() -> Vec<(Vec<(&'static str, String)>, f64)> + Send + Sync>;

#[derive(Default)]
struct Families {
    by_name: BTreeMap<String, Family>,
    /// gauges whose series are asked for together: help and function, by name
    collected: BTreeMap<String, (String, Collect)>,
    series: usize,
    refused: u64,
}

/// All metrics of a process.
#[derive(Default)]
pub struct Registry(RwLock<Families>);

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.series()).finish()
    }
}

/// Names and values of labels.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Registry {
    /// One with the metrics of the process: `process_*` as Prometheus's clients name them, and `septet_build_info`.
    pub fn of_process(program: &str, version: &str) -> Arc<Self> {
        let this = Self::default();
        process::register(&this, program, version);
        Arc::new(this)
    }

    fn series(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).series
    }

    /// The series of a name and labels, made if it is not there. One of another kind, or one too many, is not exposed.
    fn enter(&self, name: &str, help: &str, labels: Labels<'_>, kind: Kind, new: impl FnOnce() -> Source) -> Source {
        let (name, labels) = (text::name(name), text::labels(labels));
        {
            let families = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(source) = families.by_name.get(&name).filter(|f| f.kind == kind).and_then(|f| f.series.get(&labels)) {
                return source.clone();
            }
        }
        let source = new();
        let mut families = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Families { by_name, series, refused, .. } = &mut *families;
        let family = by_name.entry(name).or_insert_with(|| Family { kind, help: help.to_owned(), series: BTreeMap::new() });
        if let Some(there) = family.series.get(&labels).filter(|_| family.kind == kind) {
            // Made meanwhile.
            return there.clone();
        }
        if family.kind != kind || *series >= MAX_SERIES {
            *refused += 1;
            return source;
        }
        *series += 1;
        family.series.insert(labels, source.clone());
        source
    }

    /// A counter; the same for the same name and labels. By convention the name ends with `_total`.
    pub fn counter(&self, name: &str, help: &str, labels: Labels<'_>) -> Counter {
        match self.enter(name, help, labels, Kind::Counter, || Source::Counter(Counter::default())) {
            Source::Counter(counter) => counter,
            _ => Counter::default(),
        }
    }

    /// A gauge; the same for the same name and labels.
    pub fn gauge(&self, name: &str, help: &str, labels: Labels<'_>) -> Gauge {
        match self.enter(name, help, labels, Kind::Gauge, || Source::Gauge(Gauge::default())) {
            Source::Gauge(gauge) => gauge,
            _ => Gauge::default(),
        }
    }

    /// A histogram; the same for the same name and labels. `bounds` are the upper bounds of its buckets.
    pub fn histogram(&self, name: &str, help: &str, labels: Labels<'_>, bounds: &[f64]) -> Histogram {
        match self.enter(name, help, labels, Kind::Histogram, || Source::Histogram(Histogram::new(bounds))) {
            Source::Histogram(histogram) => histogram,
            _ => Histogram::new(bounds),
        }
    }

    /// A gauge that is asked when it is read; it must not wait. Without a value it is left out. The first for a name and labels counts.
    pub fn ask_gauge(&self, name: &str, help: &str, labels: Labels<'_>, ask: impl Fn() -> Option<f64> + Send + Sync + 'static) {
        self.enter(name, help, labels, Kind::Gauge, || Source::Ask(Arc::new(ask)));
    }

    /// Gauges of one name that are asked for together when they are read, with their labels; it must not wait. Those beyond `limit` are
    /// left out. The first for a name counts.
    pub fn collect_gauges(
        &self,
        name: &str,
        help: &str,
        limit: usize,
        collect: impl Fn() -> Vec<(Vec<(&'static str, String)>, f64)> + Send + Sync + 'static,
    ) {
        let bounded = move || {
            let mut all = collect();
            all.truncate(limit);
            all
        };
        let mut families = self.0.write().unwrap_or_else(PoisonError::into_inner);
        families.collected.entry(text::name(name)).or_insert_with(|| (help.to_owned(), Arc::new(bounded)));
    }

    /// A counter that is asked when it is read, as [`Registry::ask_gauge`].
    pub fn ask_counter(&self, name: &str, help: &str, labels: Labels<'_>, ask: impl Fn() -> Option<f64> + Send + Sync + 'static) {
        self.enter(name, help, labels, Kind::Counter, || Source::Ask(Arc::new(ask)));
    }

    /// Removes all series with a label's value, such as those of a topic that was deleted.
    pub fn remove(&self, label: &str, value: &str) {
        let wanted = text::labels(&[(label, value)]);
        let wanted = wanted.trim_matches(['{', '}']);
        let mut families = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Families { by_name, series, .. } = &mut *families;
        for family in by_name.values_mut() {
            let before = family.series.len();
            family.series.retain(|labels, _| !text::has_label(labels, wanted));
            *series -= before - family.series.len();
        }
        by_name.retain(|_, family| !family.series.is_empty());
    }

    /// All of it in Prometheus's text format.
    pub fn expose(&self) -> String {
        // Sources are shared: what they are asked happens without the lock.
        let (families, collected, refused) = {
            let families = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let list = families.by_name.iter().map(|(name, family)| {
                let series: Vec<_> = family.series.iter().map(|(labels, source)| (labels.clone(), source.clone())).collect();
                (name.clone(), family.kind, family.help.clone(), series)
            });
            (list.collect::<Vec<_>>(), families.collected.clone(), families.refused)
        };
        let mut out = String::new();
        for (name, kind, help, series) in &families {
            text::family(&mut out, name, *kind, help, series);
        }
        for (name, (help, collect)) in &collected {
            let series = collect().into_iter().map(|(labels, value)| {
                let labels: Vec<(&str, &str)> = labels.iter().map(|(n, v)| (*n, v.as_str())).collect();
                let gauge = Gauge::default();
                gauge.set(value);
                (text::labels(&labels), Source::Gauge(gauge))
            });
            text::family(&mut out, name, Kind::Gauge, help, &series.collect::<Vec<_>>());
        }
        if refused > 0 {
            let source = Source::Ask(Arc::new(move || Some(refused as f64)));
            let help = "Series that are not exposed: too many, or of another kind than their name has";
            text::family(&mut out, "septet_metrics_refused", Kind::Gauge, help, &[(String::new(), source)]);
        }
        out
    }
}

//! What middlewares count, for whoever exports it.
//!
//! A plugin asks for a number once, when it is built, and keeps the [`Arc`]; counting is then one relaxed addition.
//! The gateway renders [`snapshot`] for Prometheus. Asking twice for the same name and labels gives the same number, so
//! counts go on across reloads.
//!
//! Label values come from the configuration (a middleware's name, a mode), never from a request: a client must not be
//! able to make series. The number of series is capped all the same; past the cap a plugin gets a number that works
//! and is not exported, and [`Snapshot::dropped`] says how often that happened.
//!
//! ```
//! use portcullis_middleware::metrics;
//!
//! let refused = metrics::counter("greet_refused_total", "Requests that were not greeted.", &[("middleware", "greet")]);
//! refused.increment();
//! assert_eq!(refused.get(), 1);
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::worker::Sharded;

/// How many series there may be in the whole process.
pub const MAX_SERIES: usize = 4096;

static METRICS: Metrics = Metrics::new(MAX_SERIES);

/// A number that only grows. By convention its name ends in `_total`.
pub fn counter(name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Arc<Counter> {
    METRICS.counter(name, help, labels)
}

/// A number that goes up and down.
pub fn gauge(name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Arc<Gauge> {
    METRICS.gauge(name, help, labels)
}

/// Everything counted so far, ordered by name and labels.
pub fn snapshot() -> Snapshot {
    METRICS.snapshot()
}

/// A number that only grows.
///
/// Every worker adds to a place of its own: workers that count the same thing do not slow each other down. Reading adds the
/// places up.
#[derive(Debug, Default)]
pub struct Counter(Sharded<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.mine().fetch_add(count, Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.iter().map(|count| count.load(Relaxed)).sum()
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `change`, which may be negative.
    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Relaxed);
    }

    /// Puts it to `value`.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// Its value now.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Numbers of one name, told apart by their labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// The name, without the exporter's prefix.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// What sort of number it is.
    pub kind: Kind,
    /// Each number.
    pub series: Vec<Series>,
}

/// What sort of number a family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One number with its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// The labels, in the order they were given.
    pub labels: Vec<(&'static str, String)>,
    /// The number.
    pub value: Value,
}

/// A number as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Of a counter.
    Counter(u64),
    /// Of a gauge.
    Gauge(i64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Counter(count) => count.fmt(f),
            Value::Gauge(value) => value.fmt(f),
        }
    }
}

/// All numbers at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The families, ordered by name.
    pub families: Vec<Family>,
    /// How often a series was asked for and there was no room.
    pub dropped: u64,
}

type Labels = Vec<(&'static str, String)>;

/// The numbers of a process. There is one of it, behind the functions above; tests make their own.
struct Metrics {
    state: Mutex<State>,
    cap: usize,
}

struct State {
    families: BTreeMap<&'static str, (&'static str, Members)>,
    dropped: u64,
}

enum Members {
    Counters(BTreeMap<Labels, Arc<Counter>>),
    Gauges(BTreeMap<Labels, Arc<Gauge>>),
}

impl Metrics {
    const fn new(cap: usize) -> Self {
        Self { state: Mutex::new(State { families: BTreeMap::new(), dropped: 0 }), cap }
    }

    fn counter(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Arc<Counter> {
        let mut state = self.state();
        let full = state.is_full(self.cap);
        let (_, members) = state.families.entry(name).or_insert_with(|| (help, Members::Counters(BTreeMap::new())));
        let found = if let Members::Counters(series) = members { series_of(series, labels, full) } else { None };
        found.unwrap_or_else(|| state.drop_one())
    }

    fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Arc<Gauge> {
        let mut state = self.state();
        let full = state.is_full(self.cap);
        let (_, members) = state.families.entry(name).or_insert_with(|| (help, Members::Gauges(BTreeMap::new())));
        let found = if let Members::Gauges(series) = members { series_of(series, labels, full) } else { None };
        found.unwrap_or_else(|| state.drop_one())
    }

    fn snapshot(&self) -> Snapshot {
        fn read<N>(series: &BTreeMap<Labels, Arc<N>>, value: impl Fn(&N) -> Value) -> Vec<Series> {
            series.iter().map(|(labels, number)| Series { labels: labels.clone(), value: value(number) }).collect()
        }
        let state = self.state();
        let families = state.families.iter().map(|(&name, (help, members))| {
            let (kind, series) = match members {
                Members::Counters(series) => (Kind::Counter, read(series, |counter| Value::Counter(counter.get()))),
                Members::Gauges(series) => (Kind::Gauge, read(series, |gauge| Value::Gauge(gauge.get()))),
            };
            Family { name, help, kind, series }
        });
        Snapshot { families: families.filter(|family| !family.series.is_empty()).collect(), dropped: state.dropped }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    /// Whether there is no room for another series, even after those that nobody counts any more are gone.
    fn is_full(&mut self, cap: usize) -> bool {
        if self.len() < cap {
            return false;
        }
        for (_, members) in self.families.values_mut() {
            match members {
                Members::Counters(series) => series.retain(|_, counter| Arc::strong_count(counter) > 1),
                Members::Gauges(series) => series.retain(|_, gauge| Arc::strong_count(gauge) > 1),
            }
        }
        self.len() >= cap
    }

    fn len(&self) -> usize {
        let members = self.families.values().map(|(_, members)| match members {
            Members::Counters(series) => series.len(),
            Members::Gauges(series) => series.len(),
        });
        members.sum()
    }

    /// A number that works and is not exported.
    fn drop_one<N: Default>(&mut self) -> Arc<N> {
        self.dropped += 1;
        Arc::default()
    }
}

fn series_of<N: Default>(
    series: &mut BTreeMap<Labels, Arc<N>>,
    labels: &[(&'static str, &str)],
    full: bool,
) -> Option<Arc<N>> {
    let labels: Labels = labels.iter().map(|&(name, value)| (name, value.to_owned())).collect();
    if let Some(number) = series.get(&labels) {
        return Some(number.clone());
    }
    (!full).then(|| series.entry(labels).or_default().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_and_labels_are_the_same_number() {
        let metrics = Metrics::new(10);
        metrics.counter("refused_total", "", &[("middleware", "a")]).increment();
        metrics.counter("refused_total", "", &[("middleware", "a")]).add(2);
        metrics.counter("refused_total", "", &[("middleware", "b")]).increment();
        let family = metrics.snapshot().families.remove(0);
        assert_eq!((family.name, family.kind), ("refused_total", Kind::Counter));
        let values: Vec<_> = family.series.iter().map(|series| (series.labels[0].1.as_str(), series.value)).collect();
        assert_eq!(values, [("a", Value::Counter(3)), ("b", Value::Counter(1))]);
    }

    #[test]
    fn past_the_cap_numbers_work_and_are_counted_as_dropped() {
        let metrics = Metrics::new(1);
        let kept = metrics.gauge("depth", "", &[("queue", "a")]);
        let lost = metrics.gauge("depth", "", &[("queue", "b")]);
        kept.set(5);
        lost.add(-7);
        assert_eq!(lost.get(), -7);
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.dropped, 1);
        assert_eq!(
            snapshot.families[0].series,
            [Series { labels: vec![("queue", "a".into())], value: Value::Gauge(5) }]
        );
    }

    #[test]
    fn series_that_nobody_counts_make_room_when_it_is_needed() {
        let metrics = Metrics::new(1);
        drop(metrics.counter("old_total", "", &[]));
        let _new = metrics.counter("new_total", "", &[]);
        let names: Vec<_> = metrics.snapshot().families.iter().map(|family| family.name).collect();
        assert_eq!((names, metrics.snapshot().dropped), (vec!["new_total"], 0));
    }

    #[test]
    fn a_name_is_either_a_counter_or_a_gauge() {
        let metrics = Metrics::new(10);
        let _counter = metrics.counter("mixed", "", &[]);
        metrics.gauge("mixed", "", &[]).set(1);
        let snapshot = metrics.snapshot();
        assert_eq!((snapshot.families.len(), snapshot.dropped), (1, 1));
    }
}

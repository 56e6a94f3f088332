//! What is counted about requests.
//!
//! Every thread counts in a [`Shard`] of its own, so that workers never wait for each other nor share a cache line; the
//! lock around a shard's maps is contended only by a scrape. A request whose task moved to another thread counts where
//! it began.
//!
//! Names of listeners, routes and services come from the plan, never from a request. Services that requests name are
//! bounded by the registry and, like everything else here, by [`MOST`]: what is past that counts as `other`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::{Method, StatusCode};
use portcullis_middleware::{Attempt, Cause, Exchange};

use super::Sink;
use super::watch::End;

/// How many combinations of listener, route and service a thread tells apart, and how many services.
const MOST: usize = 16_384;

/// The upper bounds of the buckets of request durations, in seconds.
pub(super) const BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The methods that have a label of their own; any other counts as `other`.
const METHODS: [Method; 8] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
];

/// The numbers of a gateway.
pub(super) struct Numbers {
    id: u64,
    sink: Arc<Sink>,
    shards: Mutex<Vec<Arc<Shard>>>,
}

/// The numbers of one thread.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Shard {
    in_flight: AtomicI64,
    totals: Mutex<Totals>,
    sink: Arc<Sink>,
}

/// Everything counted, of a thread or of all of them.
#[derive(Default)]
pub(super) struct Totals {
    /// By listener, route and service, joined by NUL.
    series: HashMap<Box<str>, Series>,
    /// By service.
    attempts: HashMap<Box<str>, Vec<(Outcome, u64)>>,
    /// What had no room.
    overflow: u64,
}

/// Requests of one listener, route and service.
#[derive(Default, Clone)]
pub(super) struct Series {
    pub(super) requests: Vec<(Answered, u64)>,
    pub(super) buckets: [u64; BUCKETS.len() + 1],
    pub(super) time: Duration,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// How a request was answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Answered {
    method: Option<u8>,
    status: StatusCode,
    cause: Option<Cause>,
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// With an answer of this class.
    Status(u16),
    /// With a failure.
    Failed(Cause),
}

impl Numbers {
    pub(super) fn new(sink: Arc<Sink>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Relaxed), sink, shards: Mutex::default() }
    }

    /// Where this thread counts.
    pub(super) fn of_this_thread(&self) -> Arc<Shard> {
        thread_local! {
            /// Almost always one; tests have several gateways in a process.
            static SHARDS: RefCell<Vec<(u64, Arc<Shard>)>> = const { RefCell::new(Vec::new()) };
        }
        SHARDS.with_borrow_mut(|shards| {
            if let Some((_, shard)) = shards.iter().find(|(id, _)| *id == self.id) {
                return shard.clone();
            }
            let shard = self.adopt();
            shards.push((self.id, shard.clone()));
            shard
        })
    }

    /// A shard whose thread is gone, or a new one.
    fn adopt(&self) -> Arc<Shard> {
        let mut shards = self.shards();
        if let Some(orphan) = shards.iter().find(|shard| Arc::strong_count(shard) == 1) {
            return orphan.clone();
        }
        let shard = Arc::new(Shard { sink: self.sink.clone(), ..Shard::default() });
        shards.push(shard.clone());
        shard
    }

    /// Requests that are not over yet.
    pub(super) fn in_flight(&self) -> i64 {
        self.shards().iter().map(|shard| shard.in_flight.load(Relaxed)).sum()
    }

    /// Everything counted so far.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in &*self.shards() {
            totals.merge(&shard.totals());
        }
        totals
    }

    fn shards(&self) -> MutexGuard<'_, Vec<Arc<Shard>>> {
        self.shards.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Numbers").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Shard {
    pub(super) fn sink(&self) -> &Sink {
        &self.sink
    }

    /// A request began.
    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// A request that began here is over.
    pub(super) fn leave(&self, exchange: &Exchange, end: &End<'_>) {
        self.in_flight.fetch_sub(1, Relaxed);
        let mut totals = self.totals();
        totals.count_request(exchange, end);
        exchange.with_attempts(|attempts| attempts.iter().for_each(|attempt| totals.count_attempt(attempt)));
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Totals {
    /// The series by listener, route and service, in order.
    pub(super) fn series(&self) -> BTreeMap<[&str; 3], &Series> {
        self.series
            .iter()
            .map(|(key, series)| {
                let mut names = key.split('\0');
                let mut name = || names.next().unwrap_or_default();
                ([name(), name(), name()], series)
            })
            .collect()
    }

    /// The attempts by service, in order.
    pub(super) fn attempts(&self) -> BTreeMap<&str, &[(Outcome, u64)]> {
        self.attempts.iter().map(|(service, outcomes)| (&**service, &**outcomes)).collect()
    }

    /// How many requests and attempts were counted as `other`.
    pub(super) fn overflow(&self) -> u64 {
        self.overflow
    }

    fn count_request(&mut self, exchange: &Exchange, end: &End<'_>) {
        thread_local! {
            static KEY: RefCell<String> = const { RefCell::new(String::new()) };
        }
        let series = KEY.with_borrow_mut(|key| {
            key.clear();
            key.push_str(exchange.listener());
            key.push('\0');
            key.push_str(exchange.route().map_or("", |route| &route.name));
            key.push('\0');
            key.push_str(exchange.service().map_or("", |service| service));
            entry(&mut self.series, key, "\0other\0other", &mut self.overflow)
        });
        let method = METHODS.iter().position(|method| method == exchange.method()).map(|index| index as u8);
        count(&mut series.requests, Answered { method, status: end.status, cause: end.cause }, 1);
        let seconds = end.took.as_secs_f64();
        series.buckets[BUCKETS.partition_point(|&bound| bound < seconds)] += 1;
        series.time += end.took;
        series.bytes_in += end.bytes_in;
        series.bytes_out += end.bytes_out;
    }

    fn count_attempt(&mut self, attempt: &Attempt) {
        let outcomes = entry(&mut self.attempts, &attempt.service, "other", &mut self.overflow);
        let outcome = match (attempt.cause, attempt.status) {
            (Some(cause), _) => Outcome::Failed(cause),
            (None, Some(status)) => Outcome::Status(status.as_u16() / 100),
            // Nobody waited for what became of it.
            (None, None) => Outcome::Failed(Cause::ClientClosed),
        };
        count(outcomes, outcome, 1);
    }

    fn merge(&mut self, other: &Totals) {
        for (key, theirs) in &other.series {
            self.series.entry(key.clone()).or_default().add(theirs);
        }
        for (service, theirs) in &other.attempts {
            let ours = self.attempts.entry(service.clone()).or_default();
            theirs.iter().for_each(|&(outcome, number)| count(ours, outcome, number));
        }
        self.overflow += other.overflow;
    }
}

impl Series {
    /// Adds what was counted elsewhere.
    pub(super) fn add(&mut self, other: &Series) {
        other.requests.iter().for_each(|&(answered, number)| count(&mut self.requests, answered, number));
        self.buckets.iter_mut().zip(other.buckets).for_each(|(ours, theirs)| *ours += theirs);
        self.time += other.time;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

/// The entry of a name, or of `other` if there are too many names.
fn entry<'a, V: Default>(map: &'a mut HashMap<Box<str>, V>, name: &str, other: &str, overflow: &mut u64) -> &'a mut V {
    let name = match map.len() < MOST || map.contains_key(name) {
        true => name,
        false => {
            *overflow += 1;
            other
        }
    };
    if !map.contains_key(name) {
        map.insert(name.into(), V::default());
    }
    map.get_mut(name).expect("it was there, or was just put there")
}

/// Few kinds of a thing occur, so looking through them is quicker than hashing.
fn count<K: PartialEq>(counts: &mut Vec<(K, u64)>, kind: K, number: u64) {
    match counts.iter_mut().find(|(known, _)| *known == kind) {
        Some((_, count)) => *count += number,
        None => counts.push((kind, number)),
    }
}

impl Answered {
    /// Method, status and cause as labels.
    pub(super) fn labels(self) -> [(&'static str, String); 3] {
        let method = self.method.map_or("other", |index| METHODS[usize::from(index)].as_str());
        let cause = self.cause.map_or("", Cause::name);
        [("method", method.to_owned()), ("code", self.status.as_str().to_owned()), ("cause", cause.to_owned())]
    }
}

impl Outcome {
    /// Its name as a label.
    pub(super) fn label(self) -> String {
        match self {
            Outcome::Status(class) => format!("{class}xx"),
            Outcome::Failed(cause) => cause.name().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_most_share_one_and_are_counted() {
        let mut map = HashMap::new();
        let mut overflow = 0;
        for number in 0..MOST + 10 {
            *entry(&mut map, &number.to_string(), "other", &mut overflow) += 1;
        }
        assert_eq!((map.len(), map["other"], overflow), (MOST + 1, 10, 10));
        *entry(&mut map, "7", "other", &mut overflow) += 1;
        assert_eq!((map["7"], overflow), (2, 10), "who is known stays known");
    }

    #[test]
    fn threads_count_on_their_own_and_are_added_up() {
        let numbers = Numbers::new(Arc::default());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let shard = numbers.of_this_thread();
                    shard.enter();
                    count(shard.totals().attempts.entry("orders".into()).or_default(), Outcome::Status(2), 5);
                    assert!(Arc::ptr_eq(&shard, &numbers.of_this_thread()));
                });
            }
        });
        assert_eq!(numbers.in_flight(), 3);
        assert_eq!(numbers.totals().attempts()["orders"].iter().map(|(_, number)| number).sum::<u64>(), 15);
        assert!(numbers.shards().len() <= 3, "a thread takes over from one that is gone");
    }
}

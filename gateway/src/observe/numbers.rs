//! What is counted about requests.
//!
//! Every worker counts in a [`Shard`] of its own, so that workers never wait for each other nor share a cache line. The
//! lock around a shard is wanted by nobody else but a scrape, which takes it for a few series at a time. A request whose
//! task moved to another thread counts where it began.
//!
//! Names of listeners, routes and services come from the plan, never from a request. Services that requests name are
//! bounded by the registry and, like everything else here, by [`MOST`]: what is past that counts as `other`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::{Method, StatusCode, Version};
use portcullis_middleware::{Attempt, Cause, Exchange, RouteInfo};

use super::Sink;
use super::watch::End;
use portcullis_middleware::worker::Sharded;

/// How many combinations of listener, route and service a worker tells apart.
const MOST: usize = 16_384;

/// How many ways to those combinations are remembered before all are forgotten. A reload makes new ones.
const WAYS: usize = 2 * MOST;

/// How many series a scrape reads while it keeps a worker from counting.
const GLANCE: usize = 32;

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
    sink: Arc<Sink>,
    shards: Sharded<Arc<Shard>>,
}

/// The numbers of one worker.
#[repr(align(128))]
pub(super) struct Shard {
    begun: AtomicU64,
    over: AtomicU64,
    books: Mutex<Books>,
    sink: Arc<Sink>,
}

/// What a worker has counted, and how it finds where to count.
#[derive(Default)]
struct Books {
    series: Vec<Series>,
    /// The series of a request, by where its names lie in memory: most requests go a way that was gone before.
    ways: HashMap<Way, Known, BuildHasherDefault<Mix>>,
    /// The series by its names.
    names: HashMap<Arc<Names>, usize>,
    /// The series of all that have none of their own.
    other: Option<usize>,
    protocols: Protocols,
}

/// How many requests came in each version of HTTP.
pub(super) type Protocols = [u64; PROTOCOLS.len()];

/// The versions that are told apart.
pub(super) const PROTOCOLS: [Version; 3] = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2];

/// A listener, a route and a service. A request that found no route or no service has an empty name there.
type Names = [Box<str>; 3];

/// Where the names of a request's listener, route and service lie.
#[derive(PartialEq, Eq)]
struct Way([usize; 3]);

/// Where a way leads.
struct Known {
    series: usize,
    /// Kept, so that nothing else comes to lie there.
    _kept: (Arc<str>, Option<Arc<RouteInfo>>, Option<Arc<str>>),
}

/// Requests of one listener, route and service.
#[derive(Default, Clone)]
pub(super) struct Series {
    names: Arc<Names>,
    is_other: bool,
    pub(super) requests: Vec<(Answered, u64)>,
    pub(super) attempts: Vec<(Outcome, u64)>,
    pub(super) buckets: [u64; BUCKETS.len() + 1],
    pub(super) time: Duration,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// Everything that was counted, added up.
#[derive(Default)]
pub(super) struct Totals {
    series: BTreeMap<Arc<Names>, Series>,
    overflow: u64,
    pub(super) protocols: Protocols,
}

/// How a request was answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Answered {
    method: Option<u8>,
    status: StatusCode,
    cause: Option<Cause>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// With an answer of this class.
    Status(u16),
    /// With a failure.
    Failed(Cause),
}

impl Numbers {
    pub(super) fn new(sink: Arc<Sink>) -> Self {
        Self { sink, shards: Sharded::new() }
    }

    /// Where this worker counts.
    pub(super) fn of_this_worker(&self) -> Arc<Shard> {
        self.shards.mine_or(|| Arc::new(Shard::new(self.sink.clone()))).clone()
    }

    /// Requests that are not over yet.
    pub(super) fn in_flight(&self) -> u64 {
        self.shards.iter().map(|shard| shard.in_flight()).sum()
    }

    /// Everything counted so far.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in self.shards.iter() {
            shard.read(|series| totals.add(series));
            let counted = shard.books().protocols;
            totals.protocols.iter_mut().zip(counted).for_each(|(ours, theirs)| *ours += theirs);
        }
        totals
    }
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Numbers").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

impl Shard {
    fn new(sink: Arc<Sink>) -> Self {
        Self { begun: AtomicU64::new(0), over: AtomicU64::new(0), books: Mutex::default(), sink }
    }

    pub(super) fn sink(&self) -> &Sink {
        &self.sink
    }

    /// A request began.
    pub(super) fn enter(&self) {
        self.begun.fetch_add(1, Relaxed);
    }

    /// A request that began here is over.
    pub(super) fn leave(&self, exchange: &Exchange, attempts: &[Attempt], end: &End<'_>) {
        let mut books = self.books();
        // Whoever holds the books is alone with it, so there is no need to tell other processors.
        self.over.store(self.over.load(Relaxed) + 1, Relaxed);
        if let Some(index) = PROTOCOLS.iter().position(|version| *version == end.protocol) {
            books.protocols[index] += 1;
        }
        let series = books.series_of(exchange);
        series.count_request(exchange.method(), end);
        attempts.iter().for_each(|attempt| series.count_attempt(attempt));
    }

    fn in_flight(&self) -> u64 {
        let over = self.over.load(Relaxed);
        self.begun.load(Relaxed).saturating_sub(over)
    }

    /// Reads all series, without keeping the worker for long.
    fn read(&self, mut read: impl FnMut(&Series)) {
        let mut from = 0;
        loop {
            let some: Vec<Series> = self.books().series.iter().skip(from).take(GLANCE).cloned().collect();
            some.iter().for_each(&mut read);
            from += some.len();
            if some.len() < GLANCE {
                return;
            }
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Books {
    fn series_of(&mut self, exchange: &Exchange) -> &mut Series {
        let way = Way::of(exchange);
        let index = match self.ways.get(&way) {
            Some(known) => known.series,
            None => self.explore(way, exchange),
        };
        &mut self.series[index]
    }

    /// Finds a series by the names themselves, and remembers the way.
    #[cold]
    fn explore(&mut self, way: Way, exchange: &Exchange) -> usize {
        let (listener, route, service) = (exchange.listener(), exchange.route(), exchange.service());
        let names = [
            Box::from(&**listener),
            route.map_or("", |route| &route.name).into(),
            service.map_or("", |service| service).into(),
        ];
        let series = self.index_of(names);
        if self.ways.len() >= WAYS {
            self.ways.clear();
        }
        let kept = (listener.clone(), route.cloned(), service.cloned());
        self.ways.insert(way, Known { series, _kept: kept });
        series
    }

    /// The series of some names, or that of `other` if there are too many.
    fn index_of(&mut self, names: Names) -> usize {
        let next = self.series.len();
        if let Some(&index) = self.names.get(&names) {
            return index;
        }
        if self.names.len() < MOST {
            let names = Arc::new(names);
            self.names.insert(names.clone(), next);
            self.series.push(Series { names, ..Series::default() });
            return next;
        }
        *self.other.get_or_insert_with(|| {
            let names = Arc::new(["", "other", "other"].map(Box::from));
            self.series.push(Series { names, is_other: true, ..Series::default() });
            next
        })
    }
}

impl Way {
    fn of(exchange: &Exchange) -> Self {
        let listener = Arc::as_ptr(exchange.listener()).addr();
        let route = exchange.route().map_or(0, |route| Arc::as_ptr(route).addr());
        Way([listener, route, exchange.service().map_or(0, |service| Arc::as_ptr(service).addr())])
    }
}

impl Hash for Way {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.iter().for_each(|&address| state.write_usize(address));
    }
}

/// Hashes addresses, which nobody outside can choose.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write_usize(&mut self, number: usize) {
        let product = u128::from(self.0 ^ number as u64) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_usize(byte.into()));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Totals {
    /// The series by listener, route and service, in order.
    pub(super) fn series(&self) -> impl Iterator<Item = ([&str; 3], &Series)> {
        self.series.iter().map(|(names, series)| (names.each_ref().map(|name| &**name), series))
    }

    /// The attempts by service, in order.
    pub(super) fn attempts(&self) -> BTreeMap<&str, Vec<(Outcome, u64)>> {
        let mut services: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (names, series) in &self.series {
            for &(outcome, number) in &series.attempts {
                count(services.entry(&names[2]).or_default(), outcome, number);
            }
        }
        services
    }

    /// How many requests and attempts were counted as `other`.
    pub(super) fn overflow(&self) -> u64 {
        self.overflow
    }

    fn add(&mut self, series: &Series) {
        if series.is_other {
            let attempts = series.attempts.iter().map(|(_, number)| number);
            self.overflow += series.requests.iter().map(|(_, number)| number).chain(attempts).sum::<u64>();
        }
        self.series.entry(series.names.clone()).or_default().add(series);
    }
}

impl Series {
    fn count_request(&mut self, method: &Method, end: &End<'_>) {
        let method = METHODS.iter().position(|known| known == method).map(|index| index as u8);
        count(&mut self.requests, Answered { method, status: end.status, cause: end.cause }, 1);
        let seconds = end.took.as_secs_f64();
        self.buckets[BUCKETS.partition_point(|&bound| bound < seconds)] += 1;
        self.time += end.took;
        self.bytes_in += end.bytes_in;
        self.bytes_out += end.bytes_out;
    }

    fn count_attempt(&mut self, attempt: &Attempt) {
        let outcome = match (attempt.cause, attempt.status) {
            (Some(cause), _) => Outcome::Failed(cause),
            (None, Some(status)) => Outcome::Status(status.as_u16() / 100),
            // Nobody waited for what became of it.
            (None, None) => Outcome::Failed(Cause::ClientClosed),
        };
        count(&mut self.attempts, outcome, 1);
    }

    /// Adds what was counted elsewhere.
    pub(super) fn add(&mut self, other: &Series) {
        other.requests.iter().for_each(|&(answered, number)| count(&mut self.requests, answered, number));
        other.attempts.iter().for_each(|&(outcome, number)| count(&mut self.attempts, outcome, number));
        self.buckets.iter_mut().zip(other.buckets).for_each(|(ours, theirs)| *ours += theirs);
        self.time += other.time;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
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
    use portcullis_middleware::exchange::Arrival;

    use super::*;

    /// A request that took this way, with one attempt if it got to a service.
    fn count(shard: &Shard, listener: &Arc<str>, route: Option<&Arc<RouteInfo>>, service: Option<&Arc<str>>) {
        let arrival = Arrival { listener: listener.clone(), ..Arrival::default() };
        let exchange = Exchange::new(arrival, &http::Request::default());
        route.into_iter().for_each(|route| exchange.settle_route(route.clone()));
        service.into_iter().for_each(|service| {
            exchange.settle_service(service.clone());
            exchange.begin_attempt(
                service.clone(),
                "10.0.0.1:1".into(),
                &"/".parse().unwrap(),
                &mut Default::default(),
            );
        });
        shard.enter();
        let end = End {
            protocol: Version::HTTP_11,
            status: StatusCode::OK,
            grpc_status: None,
            cause: None,
            note: None,
            bytes_in: 1,
            bytes_out: 2,
            took: Duration::from_millis(3),
        };
        exchange.with_attempts(|attempts| shard.leave(&exchange, attempts, &end));
    }

    fn route(name: &str) -> Arc<RouteInfo> {
        Arc::new(RouteInfo { name: name.to_owned(), place: Default::default() })
    }

    fn requests(totals: &Totals) -> Vec<(String, u64)> {
        let total = |series: &Series| series.requests.iter().map(|(_, number)| number).sum();
        totals.series().map(|(names, series)| (names.join(" "), total(series))).collect()
    }

    #[test]
    fn the_same_names_are_the_same_series_wherever_they_lie() {
        // A reload makes a new route of the same name.
        let numbers = Numbers::new(Arc::default());
        let shard = numbers.of_this_worker();
        let web: Arc<str> = "web".into();
        let orders: Arc<str> = "orders".into();
        for _ in 0..3 {
            let route = route("all");
            count(&shard, &web, Some(&route), Some(&orders));
            count(&shard, &web, Some(&route), Some(&orders));
        }
        count(&shard, &web, None, None);
        let totals = numbers.totals();
        assert_eq!(requests(&totals), [("web  ".to_owned(), 1), ("web all orders".to_owned(), 6)]);
        assert_eq!(totals.attempts(), BTreeMap::from([("orders", vec![(Outcome::Failed(Cause::ClientClosed), 6)])]));
        assert_eq!((shard.books().ways.len(), totals.overflow()), (4, 0));
        let (_, series) = totals.series().last().unwrap();
        assert_eq!((series.buckets[3], series.bytes_in, series.bytes_out), (6, 6, 12));
        assert_eq!(series.time, Duration::from_millis(18));
    }

    #[test]
    fn names_beyond_the_most_share_one_and_are_counted() {
        let numbers = Numbers::new(Arc::default());
        let shard = numbers.of_this_worker();
        let web: Arc<str> = "web".into();
        let name = |number: usize| -> Arc<str> { number.to_string().into() };
        for number in 0..MOST + 10 {
            count(&shard, &web, None, Some(&name(number)));
        }
        count(&shard, &web, None, Some(&name(7)));
        let totals = numbers.totals();
        let requests: HashMap<_, _> = requests(&totals).into_iter().collect();
        assert_eq!(requests.len(), MOST + 1);
        assert_eq!((requests[" other other"], requests["web  7"]), (10, 2), "who is known stays known");
        // Their attempts are counted there too.
        assert_eq!(totals.overflow(), 20);
    }

    #[test]
    fn ways_that_nobody_takes_any_more_are_forgotten() {
        let numbers = Numbers::new(Arc::default());
        let shard = numbers.of_this_worker();
        let web: Arc<str> = "web".into();
        for _ in 0..WAYS + 10 {
            count(&shard, &web, Some(&route("all")), None);
        }
        assert!(shard.books().ways.len() <= WAYS);
        assert_eq!(requests(&numbers.totals()), [("web all ".to_owned(), WAYS as u64 + 10)]);
    }

    #[test]
    fn workers_count_on_their_own_and_are_added_up() {
        let numbers = Numbers::new(Arc::default());
        let web: Arc<str> = "web".into();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let shard = numbers.of_this_worker();
                    shard.enter();
                    count(&shard, &web, None, None);
                    assert!(Arc::ptr_eq(&shard, &numbers.of_this_worker()));
                });
            }
        });
        assert_eq!(numbers.in_flight(), 3);
        assert_eq!(requests(&numbers.totals()), [("web  ".to_owned(), 3)]);
    }
}

//! Connections that are open, kept for the next request.
//!
//! Every worker has a pool of its own for every instance of a service. A request takes the connection that was used
//! last, so that those which are not needed grow old and are closed. Whether the other end closed one meanwhile is seen
//! before it is used again. [`Pools`] keeps them by service and address, across reloads; [`Pools::sweep`] closes what
//! nobody wants.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Connection, Connector, State};
use super::failure::Failure;
use crate::registry::Address;
use crate::tls;
use crate::worker::Sharded;

/// How long a connection may take to be ready again after its answer was read. Nearly always it is so at once.
const SETTLE: Duration = Duration::from_secs(1);

/// How often connections are looked at that nobody asked for.
const SWEEP: Duration = Duration::from_secs(5);

/// How many connections are looked at before somebody else may have the lock.
const PORTION: usize = 16;

/// With more services than this, the counts of those are let go that no plan and no request uses any more.
const COUNTED: usize = 1024;

/// How many connections are kept, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most that are kept idle per instance and worker.
    pub idle: usize,
    /// How long one is kept idle.
    pub idle_timeout: Duration,
    /// How old one may become and still begin another exchange.
    pub age: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { idle: 256, idle_timeout: Duration::from_secs(60), age: None }
    }
}

/// Every instance's pools.
///
/// Plans come and go; an instance's pools stay as long as a plan or a request holds them.
#[derive(Debug, Default)]
pub struct Pools {
    limits: Limits,
    state: Mutex<Known>,
    tending: OnceLock<AbortOnDropHandle<()>>,
}

#[derive(Debug, Default)]
struct Known {
    /// By service, address, and how hands are shaken there.
    endpoints: HashMap<(Arc<str>, Address, Option<Arc<tls::Upstream>>), Arc<Endpoint>>,
    counters: HashMap<Arc<str>, Arc<Sharded<Counters>>>,
}

impl Pools {
    /// Pools with these limits each.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// An instance of a service.
    pub(super) fn endpoint(
        &self,
        service: &Arc<str>,
        address: &Address,
        tls: Option<&Arc<tls::Upstream>>,
    ) -> Arc<Endpoint> {
        let Known { endpoints, counters } = &mut *self.known();
        let endpoint = endpoints.entry((service.clone(), address.clone(), tls.cloned())).or_insert_with(|| {
            Arc::new(Endpoint {
                connector: Arc::new(Connector::new(address.clone(), tls.cloned())),
                limits: self.limits,
                counters: counters.entry(service.clone()).or_default().clone(),
                pools: Sharded::new(),
            })
        });
        endpoint.clone()
    }

    /// [Sweeps](Pools::sweep) now and then for as long as the pools are there. Doing it again changes nothing.
    pub fn tend(self: &Arc<Self>, runtime: &Handle) {
        let pools = Arc::downgrade(self);
        self.tending.get_or_init(|| {
            let tend = async move {
                loop {
                    tokio::time::sleep(SWEEP).await;
                    let Some(pools) = pools.upgrade() else { return };
                    pools.sweep();
                }
            };
            AbortOnDropHandle::new(runtime.spawn(tend))
        });
    }

    /// Closes what is too old or was closed by the other end, and what belongs to instances that no plan knows any more.
    pub fn sweep(&self) {
        let (gone, endpoints) = {
            let Known { endpoints, counters } = &mut *self.known();
            let gone: Vec<_> = endpoints.extract_if(|_, endpoint| endpoint.is_unused()).collect();
            if counters.len() > COUNTED {
                counters.retain(|_, counters| Arc::strong_count(counters) > 1);
            }
            (gone, endpoints.values().cloned().collect::<Vec<_>>())
        };
        gone.iter().flat_map(|(_, endpoint)| endpoint.pools.iter()).for_each(|pool| pool.clear());
        let now = Instant::now();
        endpoints.iter().flat_map(|endpoint| endpoint.pools.iter()).for_each(|pool| pool.sweep(now));
    }

    /// What was counted for each service, ordered by name.
    pub fn counts(&self) -> Vec<(Arc<str>, Counts)> {
        let known = self.known();
        let mut counts: BTreeMap<Arc<str>, Counts> =
            known.counters.iter().map(|(service, counters)| (service.clone(), Counters::sum(counters))).collect();
        for ((service, ..), endpoint) in &known.endpoints {
            if let Some(counts) = counts.get_mut(service) {
                counts.idle += endpoint.pools.iter().map(|pool| pool.idle().len() as i64).sum::<i64>();
            }
        }
        counts.into_iter().collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One instance of a service, and every worker's connections to it.
#[derive(Debug)]
pub(super) struct Endpoint {
    connector: Arc<Connector>,
    limits: Limits,
    counters: Arc<Sharded<Counters>>,
    pools: Sharded<Arc<Pool>>,
}

impl Endpoint {
    /// This worker's connections.
    pub(super) fn pool(&self) -> Arc<Pool> {
        let pool = self.pools.mine_or(|| {
            Arc::new(Pool {
                connector: self.connector.clone(),
                limits: self.limits,
                counters: self.counters.clone(),
                idle: Mutex::default(),
            })
        });
        pool.clone()
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Whether no plan knows it and no request uses it. Asked while nobody can look it up.
    fn is_unused(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && self.pools.iter().all(|pool| Arc::strong_count(pool) == 1)
    }
}

/// One worker's connections to one instance.
///
/// A connection goes back to the pool it came from. So it stays with the runtime that hears of its socket, and what a
/// request writes to (the lock, the count of references) is written to by this worker alone: on cache lines that no
/// other one has. Only the sweep and a scrape come by, every few seconds.
#[repr(align(128))]
pub(super) struct Pool {
    connector: Arc<Connector>,
    limits: Limits,
    counters: Arc<Sharded<Counters>>,
    /// The one used last is on top. Never locked while anything waits.
    idle: Mutex<Vec<Kept>>,
}

/// A connection in a pool's books.
#[derive(Debug)]
struct Kept {
    connection: Connection,
    opened: Instant,
    since: Instant,
}

impl Pool {
    /// A connection that was open already, if there is a good one.
    pub(super) fn reuse(self: &Arc<Self>, now: Instant) -> Option<Lease> {
        loop {
            let mut kept = self.idle().pop()?;
            match self.reason_to_close(&mut kept, now) {
                None => {
                    self.count().reused.fetch_add(1, Relaxed);
                    return Some(self.lease(kept, true));
                }
                Some(reason) => self.count().close(reason),
            }
        }
    }

    /// A new connection.
    pub(super) async fn open(self: &Arc<Self>) -> Result<Lease, Failure> {
        let connection = self.connector.connect().await?;
        self.count().created.fetch_add(1, Relaxed);
        self.count().open.fetch_add(1, Relaxed);
        let now = Instant::now();
        Ok(self.lease(Kept { connection, opened: now, since: now }, false))
    }

    fn lease(self: &Arc<Self>, kept: Kept, reused: bool) -> Lease {
        Lease { kept: Some(kept), pool: self.clone(), reused }
    }

    /// Takes back a connection that is ready for another exchange.
    fn keep(&self, mut kept: Kept, now: Instant) {
        if self.is_old(&kept, now) {
            return self.count().close(Closed::Age);
        }
        kept.since = now;
        let surplus = {
            let mut idle = self.idle();
            if idle.len() < self.limits.idle {
                idle.push(kept);
                return;
            }
            kept
        };
        drop(surplus);
        self.count().close(Closed::Surplus);
    }

    fn is_old(&self, kept: &Kept, now: Instant) -> bool {
        self.limits.age.is_some_and(|age| now.duration_since(kept.opened) >= age)
    }

    /// Why an idle connection is of no use.
    fn reason_to_close(&self, kept: &mut Kept, now: Instant) -> Option<Closed> {
        match kept.connection.examine() {
            State::Over(reason) => Some(reason),
            State::Busy => Some(Closed::Broken),
            State::Ready if now.duration_since(kept.since) >= self.limits.idle_timeout => Some(Closed::Idle),
            State::Ready => self.is_old(kept, now).then_some(Closed::Age),
        }
    }

    /// Closes what is of no use. Goes from the bottom to the top, where the worker is busy, and lets go of the lock
    /// every few connections.
    fn sweep(&self, now: Instant) {
        let mut from = 0;
        loop {
            let mut reasons = Vec::new();
            let closing: Vec<Kept> = {
                let mut idle = self.idle();
                let to = idle.len().min(from + PORTION);
                if from >= to {
                    return;
                }
                let is_useless = |kept: &mut Kept| {
                    let reason = self.reason_to_close(kept, now);
                    reasons.extend(reason);
                    reason.is_some()
                };
                let closing: Vec<Kept> = idle.extract_if(from..to, is_useless).collect();
                from = to - closing.len();
                closing
            };
            drop(closing);
            reasons.into_iter().for_each(|reason| self.count().close(reason));
        }
    }

    fn clear(&self) {
        let all = std::mem::take(&mut *self.idle());
        for _ in all {
            self.count().close(Closed::Unused);
        }
    }

    fn count(&self) -> &Counters {
        self.counters.mine()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("connector", &self.connector).finish_non_exhaustive()
    }
}

/// A connection in use. It is closed when dropped: only [`Lease::release`] gives it back.
#[derive(Debug)]
pub(super) struct Lease {
    kept: Option<Kept>,
    pool: Arc<Pool>,
    reused: bool,
}

impl Lease {
    /// Whether the connection had been used before.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// The connection itself.
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.kept.as_mut().expect("only `release` takes it, and consumes the lease").connection
    }

    /// Gives the connection back for another exchange. Request and answer must have been read to their ends.
    pub(super) fn release(mut self, now: Instant) {
        match self.connection().rest() {
            // An answer may be complete before the last of the request has left.
            State::Busy => self.hand_over().complete(),
            state => self.end(state, now),
        }
    }

    fn end(mut self, state: State, now: Instant) {
        let Some(kept) = self.kept.take() else { return };
        match state {
            State::Ready => self.pool.keep(kept, now),
            State::Over(reason) => self.pool.count().close(reason),
            State::Busy => self.pool.count().close(Closed::Broken),
        }
    }

    /// Has a task of its own drive the connection for the rest of the exchange, and give it back.
    pub(super) fn hand_over(mut self) -> Errand {
        let (completed, completion) = oneshot::channel();
        tokio::spawn(async move {
            let connection = self.connection();
            {
                let mut settled = pin!(connection.settle());
                tokio::select! {
                    biased;
                    () = &mut settled => {}
                    completed = completion => match completed {
                        Ok(()) => _ = timeout(SETTLE, settled).await,
                        // Whoever waited for the answer is gone.
                        Err(_) => return,
                    },
                }
            }
            let state = connection.rest();
            self.end(state, Instant::now());
        });
        Errand(completed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.kept.take().is_some() {
            self.pool.count().close(Closed::Broken);
        }
    }
}

/// A connection that was [handed over](Lease::hand_over) to a task. Dropping it closes the connection, unless its
/// exchange is over already.
pub(super) struct Errand(oneshot::Sender<()>);

impl Errand {
    /// Request and answer were read to their ends.
    pub(super) fn complete(self) {
        // The task may have heard of it first, and be gone.
        let _ = self.0.send(());
    }
}

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The instance closed it.
    Peer,
    /// It was idle for too long.
    Idle,
    /// It was too old.
    Age,
    /// There were enough idle ones.
    Surplus,
    /// Its instance is not in use any more.
    Unused,
    /// The instance sent something that nobody had asked for.
    Unexpected,
    /// An exchange over it did not come to its end: it failed, or the client went away.
    Broken,
}

impl Closed {
    /// Every reason.
    pub const ALL: [Closed; 7] =
        [Closed::Peer, Closed::Idle, Closed::Age, Closed::Surplus, Closed::Unused, Closed::Unexpected, Closed::Broken];

    /// Its name as a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Closed::Peer => "peer",
            Closed::Idle => "idle",
            Closed::Age => "age",
            Closed::Surplus => "surplus",
            Closed::Unused => "unused",
            Closed::Unexpected => "unexpected",
            Closed::Broken => "broken",
        }
    }
}

/// What one worker counts about the connections of a service.
#[derive(Debug, Default)]
struct Counters {
    created: AtomicU64,
    reused: AtomicU64,
    /// What this worker opened less what it closed, which may have been another one's.
    open: AtomicI64,
    closed: [AtomicU64; Closed::ALL.len()],
}

/// What was counted about the connections of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// How many were opened.
    pub created: u64,
    /// How often one was used again.
    pub reused: u64,
    /// How many are open now.
    pub open: i64,
    /// How many of those are idle.
    pub idle: i64,
    /// How many were closed, for each of [`Closed::ALL`].
    pub closed: [u64; Closed::ALL.len()],
}

impl Counters {
    fn close(&self, reason: Closed) {
        self.open.fetch_sub(1, Relaxed);
        self.closed[reason as usize].fetch_add(1, Relaxed);
    }

    fn sum(all: &Sharded<Counters>) -> Counts {
        let mut sum = Counts::default();
        for counters in all.iter() {
            sum.created += counters.created.load(Relaxed);
            sum.reused += counters.reused.load(Relaxed);
            sum.open += counters.open.load(Relaxed);
            for (sum, closed) in sum.closed.iter_mut().zip(&counters.closed) {
                *sum += closed.load(Relaxed);
            }
        }
        sum
    }
}

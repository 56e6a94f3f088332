//! Connections that are open, kept for the next request.
//!
//! Every worker has a pool of its own for every instance of a service. A request takes the connection that was used
//! last, so that those which are not needed grow old and are closed. Whether the other end closed one meanwhile is seen
//! before it is used again. Connections that many requests share are [beside them](super::sharing). [`Pools`] keeps
//! pools by service and address, across reloads; [`Pools::sweep`] closes what nobody wants.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::num::NonZeroU64;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use portcullis_config::{Protocol, ServiceConnections};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

pub use super::counts::{Closed, Counts};

use super::connection::http2::Pings;
use super::connection::{Connection, Connector, Speak, State};
use super::counts::Counters;
use super::line::Line;
use super::policy::{NEVER, Policy};
use super::room::{Closing, Permit, Room};
use super::sharing::Sharing;
use crate::registry::Address;
use crate::tls;
use portcullis_middleware::worker::Sharded;

/// How long a connection may take to be ready again after its answer was read. Nearly always it is so at once.
const SETTLE: Duration = Duration::from_secs(1);

/// How often connections are looked at that nobody asked for.
const SWEEP: Duration = Duration::from_secs(5);

/// How many connections are looked at before somebody else may have the lock.
const PORTION: usize = 16;

/// With more services than this, the counts of those are let go that no plan and no request uses any more.
const COUNTED: usize = 1024;

/// How many connections to an instance there may be, how many are kept, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// The most that are open at once, of all workers.
    pub open: usize,
    /// How many requests may wait for one.
    pub waiting: usize,
    /// How long one may wait.
    pub wait: Duration,
    /// The most that are kept idle per instance and worker.
    pub idle: usize,
    /// How long one is kept idle.
    pub idle_timeout: Duration,
    /// How old one may become and still begin another exchange.
    pub age: Option<Duration>,
    /// How many exchanges one may have.
    pub requests: Option<u64>,
    /// When one that is shared is asked whether it is still there.
    pub pings: Pings,
}

impl Default for Limits {
    fn default() -> Self {
        Self::from(&ServiceConnections::default())
    }
}

impl From<&ServiceConnections> for Limits {
    fn from(said: &ServiceConnections) -> Self {
        Self {
            open: said.open.get(),
            waiting: said.waiting,
            wait: said.wait.limit().unwrap_or(NEVER),
            idle: said.idle,
            idle_timeout: said.keep.limit().unwrap_or(NEVER),
            age: said.age.limit(),
            requests: said.requests.map(NonZeroU64::get),
            pings: Pings::default(),
        }
    }
}

impl Limits {
    /// Whether a connection has had as many exchanges as it may.
    pub(super) fn is_spent(&self, exchanges: u64) -> bool {
        self.requests.is_some_and(|most| exchanges >= most)
    }

    /// Whether a connection that was opened then is too old for another exchange.
    pub(super) fn is_old(&self, opened: Instant, now: Instant) -> bool {
        self.age.is_some_and(|age| now.duration_since(opened) >= age)
    }
}

/// Every instance's pools.
///
/// Plans come and go; an instance's pools stay as long as a plan or a request holds them.
#[derive(Debug, Default)]
pub struct Pools {
    state: Mutex<Known>,
    tending: OnceLock<AbortOnDropHandle<()>>,
}

/// The service, the address, how hands are shaken there, what is spoken, and how many connections there may be.
type Key = (Arc<str>, Address, Option<Arc<tls::Upstream>>, Protocol, Limits);

#[derive(Debug, Default)]
struct Known {
    endpoints: HashMap<Key, Arc<Endpoint>>,
    counters: HashMap<Arc<str>, Arc<Sharded<Counters>>>,
}

impl Pools {
    /// An instance of a service that wants to be talked to like this.
    pub(super) fn endpoint(&self, service: &Arc<str>, address: &Address, policy: &Policy) -> Arc<Endpoint> {
        let Known { endpoints, counters } = &mut *self.known();
        let (tls, protocol, limits) = (policy.tls.clone(), policy.protocol, policy.limits);
        let key = (service.clone(), address.clone(), tls.clone(), protocol, limits);
        let endpoint = endpoints.entry(key).or_insert_with(|| {
            Arc::new(Endpoint {
                connector: Arc::new(Connector::new(address.clone(), tls, protocol)),
                limits,
                room: Arc::new(Room::new(&limits)),
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
                counts.idle += endpoint.pools.iter().map(|pool| pool.resting() as i64).sum::<i64>();
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
    room: Arc<Room>,
    counters: Arc<Sharded<Counters>>,
    pools: Sharded<Arc<Pool>>,
}

impl Endpoint {
    /// This worker's connections.
    pub(super) fn pool(self: &Arc<Self>) -> Arc<Pool> {
        let pool = self.pools.mine_or(|| {
            Arc::new(Pool {
                connector: self.connector.clone(),
                limits: self.limits,
                endpoint: Arc::downgrade(self),
                room: self.room.clone(),
                counters: self.counters.clone(),
                idle: Mutex::default(),
                sharing: Mutex::default(),
                keeps_to_http1: AtomicBool::new(false),
            })
        });
        pool.clone()
    }

    /// The connections of every worker that has had any.
    pub(super) fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.iter()
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
    pub(super) connector: Arc<Connector>,
    pub(super) limits: Limits,
    /// Whose connections to the same instance others have.
    pub(super) endpoint: Weak<Endpoint>,
    pub(super) room: Arc<Room>,
    counters: Arc<Sharded<Counters>>,
    /// Never locked while anything waits.
    idle: Mutex<Idle>,
    /// Those that many requests share, and who waits for one. Never locked while anything waits.
    pub(super) sharing: Mutex<Sharing>,
    /// Where TLS decides what is spoken: it was HTTP/1.1 last.
    pub(super) keeps_to_http1: AtomicBool,
}

/// Connections that nobody uses, and who waits for one.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// The one used last is on top.
    #[expect(clippy::vec_box, reason = "whoever uses one gets its box")]
    kept: Vec<Box<Kept>>,
    pub(super) waiting: Line<Lease>,
}

/// A connection in a pool's books.
#[derive(Debug)]
struct Kept {
    connection: Connection,
    opened: Instant,
    since: Instant,
    exchanges: u64,
    permit: Permit,
}

impl Pool {
    /// What is spoken for a request of this kind.
    pub(super) fn speak(&self, is_grpc: bool) -> Speak {
        self.connector.speak(is_grpc)
    }

    /// A connection that was open already, if there is a good one.
    pub(super) fn reuse(self: &Arc<Self>, now: Instant) -> Option<Lease> {
        loop {
            let mut kept = self.idle().kept.pop()?;
            match self.reason_to_close(&mut kept, now) {
                None => {
                    self.count().reuse();
                    return Some(self.lease(kept, true));
                }
                Some(reason) => self.count().close(reason),
            }
        }
    }

    /// Takes up a new connection.
    pub(super) fn begin(self: &Arc<Self>, connection: Connection, permit: Permit) -> Lease {
        self.count().create();
        let now = Instant::now();
        // Boxed once, because it is handed on several times with every exchange.
        self.lease(Box::new(Kept { connection, opened: now, since: now, exchanges: 0, permit }), false)
    }

    /// Takes up a new connection that is closed after one exchange.
    pub(super) fn begin_once(self: &Arc<Self>, connection: Connection, permit: Permit) -> Lease {
        let mut lease = self.begin(connection, permit);
        lease.use_once();
        lease
    }

    fn lease(self: &Arc<Self>, mut kept: Box<Kept>, reused: bool) -> Lease {
        kept.exchanges += 1;
        Lease { kept: Some(kept), pool: self.clone(), reused, once: false }
    }

    /// Takes back a connection that is ready for another exchange.
    fn keep(self: &Arc<Self>, mut kept: Box<Kept>, now: Instant) {
        if self.is_old(&kept, now) {
            return self.count().close(Closed::Age);
        }
        if self.limits.is_spent(kept.exchanges) {
            return self.count().close(Closed::Spent);
        }
        kept.since = now;
        let surplus = {
            let mut idle = self.idle();
            if idle.waiting.is_awaited() {
                match idle.waiting.serve(self.lease(kept, true)).and_then(Lease::unused) {
                    None => return self.count().reuse(),
                    Some(unwanted) => kept = unwanted,
                }
            }
            if idle.kept.len() < self.limits.idle && !self.room.is_wanted() {
                idle.kept.push(kept);
                return;
            }
            kept
        };
        drop(surplus);
        self.count().close(Closed::Surplus);
    }

    fn is_old(&self, kept: &Kept, now: Instant) -> bool {
        self.limits.is_old(kept.opened, now)
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

    /// Closes what is of no use.
    fn sweep(&self, now: Instant) {
        self.sweep_shared(now);
        self.sweep_idle(now);
    }

    /// How many connections nobody uses.
    fn resting(&self) -> usize {
        self.idle().kept.len() + self.resting_shared()
    }

    /// Goes from the bottom to the top, where the worker is busy, and lets go of the lock
    /// every few connections.
    fn sweep_idle(&self, now: Instant) {
        let mut from = 0;
        loop {
            let mut reasons = Vec::new();
            let closing: Vec<Box<Kept>> = {
                let idle = &mut self.idle().kept;
                let to = idle.len().min(from + PORTION);
                if from >= to {
                    return;
                }
                let is_useless = |kept: &mut Box<Kept>| {
                    let reason = self.reason_to_close(kept, now);
                    reasons.extend(reason);
                    reason.is_some()
                };
                let closing: Vec<Box<Kept>> = idle.extract_if(from..to, is_useless).collect();
                from = to - closing.len();
                closing
            };
            drop(closing);
            reasons.into_iter().for_each(|reason| self.count().close(reason));
        }
    }

    /// Closes the connection that nobody has used for longest, since another worker wants one.
    pub(super) fn close_one(&self) -> Closing {
        let mut idle = self.idle();
        if idle.kept.is_empty() {
            drop(idle);
            return self.close_one_shared();
        }
        let oldest = idle.kept.remove(0);
        drop(idle);
        drop(oldest);
        self.count().close(Closed::Surplus);
        Closing::Now
    }

    fn clear(&self) {
        self.clear_shared();
        let all = std::mem::take(&mut self.idle().kept);
        for _ in all {
            self.count().close(Closed::Unused);
        }
    }

    pub(super) fn count(&self) -> &Counters {
        self.counters.mine()
    }

    pub(super) fn counters(&self) -> &Arc<Sharded<Counters>> {
        &self.counters
    }

    pub(super) fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("connector", &self.connector).finish_non_exhaustive()
    }
}

/// Whoever takes the connection out of a lease consumes the lease.
const IN_USE: &str = "a lease has its connection until it is consumed";

/// A connection in use. It is closed when dropped: only [`Lease::release`] gives it back.
#[derive(Debug)]
pub(super) struct Lease {
    kept: Option<Box<Kept>>,
    pool: Arc<Pool>,
    reused: bool,
    /// Whether it is closed after this use.
    once: bool,
}

impl Lease {
    /// Whether the connection had been used before.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// The connection is closed after this use.
    pub(super) fn use_once(&mut self) {
        self.once = true;
    }

    /// The connection goes on as a tunnel, and is never given back.
    pub(super) fn into_tunnel(mut self) -> (Connection, Tunnelled) {
        let Kept { connection, permit, .. } = *self.kept.take().expect(IN_USE);
        self.pool.count().begin_tunnel();
        (connection, Tunnelled { pool: self.pool.clone(), _permit: permit })
    }

    /// The connection itself.
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.kept.as_mut().expect(IN_USE).connection
    }

    /// The connection, if nothing was done with it.
    fn unused(mut self) -> Option<Box<Kept>> {
        let mut kept = self.kept.take()?;
        kept.exchanges -= 1;
        Some(kept)
    }

    /// Closes the connection, so that there is room for another.
    pub(super) fn make_room(mut self) -> Option<Permit> {
        let kept = self.kept.take()?;
        self.pool.count().close(Closed::Surplus);
        Some(kept.permit)
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
            State::Ready if self.once => self.pool.count().close(Closed::Once),
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
        let Some(kept) = self.kept.take() else { return };
        drop(kept);
        self.pool.count().close(Closed::Broken);
    }
}

/// A connection that goes on as a tunnel, in the books of its pool. Dropped when the tunnel ends.
pub(super) struct Tunnelled {
    pool: Arc<Pool>,
    _permit: Permit,
}

impl Drop for Tunnelled {
    fn drop(&mut self) {
        self.pool.count().close_tunnel();
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

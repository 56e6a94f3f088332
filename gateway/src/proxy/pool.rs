//! Connections that are open, kept for the next request.
//!
//! Every instance of a service has a pool of its own. A request takes the connection that was used last, so that
//! those which are not needed grow old and are closed. Whether the other end closed one meanwhile is seen before it is
//! used again. [`Pools`] keeps them by service and address, across reloads; [`Pools::sweep`] closes what nobody wants.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Connection, Connector};
use super::failure::Failure;
use crate::registry::Address;

/// How long a connection may take to be ready again after its answer was read. It is a matter of microseconds.
const SETTLE: Duration = Duration::from_secs(1);

/// How often connections are looked at that nobody asked for.
const SWEEP: Duration = Duration::from_secs(5);

/// With more services than this, the counts of those are let go that no plan and no request uses any more.
const COUNTED: usize = 1024;

/// How many connections are kept, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most that are kept idle per instance.
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

/// Every instance's pool.
///
/// Plans come and go; a pool stays as long as a plan or a request holds it.
#[derive(Debug, Default)]
pub struct Pools {
    limits: Limits,
    state: Mutex<State>,
    tending: OnceLock<AbortOnDropHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    pools: HashMap<(Arc<str>, Address), Arc<Pool>>,
    counters: HashMap<Arc<str>, Arc<Counters>>,
}

impl Pools {
    /// Pools with these limits each.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The pool of an instance of a service.
    pub(super) fn get(&self, service: &Arc<str>, address: &Address) -> Arc<Pool> {
        let State { pools, counters } = &mut *self.state();
        let pool = pools.entry((service.clone(), address.clone())).or_insert_with(|| {
            let counters = counters.entry(service.clone()).or_default().clone();
            Arc::new(Pool {
                connector: Connector::new(address.clone()),
                limits: self.limits,
                counters,
                idle: Mutex::default(),
            })
        });
        pool.clone()
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

    /// Closes what is too old, and what belongs to instances that no plan knows any more.
    pub fn sweep(&self) {
        let (gone, pools) = {
            let State { pools, counters } = &mut *self.state();
            let gone: Vec<_> = pools.extract_if(|_, pool| Arc::strong_count(pool) == 1).collect();
            if counters.len() > COUNTED {
                counters.retain(|_, counters| Arc::strong_count(counters) > 1);
            }
            (gone, pools.values().cloned().collect::<Vec<_>>())
        };
        gone.iter().for_each(|(_, pool)| pool.clear());
        pools.iter().for_each(|pool| pool.sweep());
    }

    /// What was counted for each service, ordered by name.
    pub fn counts(&self) -> Vec<(Arc<str>, Counts)> {
        let mut counts: Vec<_> =
            self.state().counters.iter().map(|(service, counters)| (service.clone(), counters.read())).collect();
        counts.sort_by(|a, b| a.0.cmp(&b.0));
        counts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One instance's connections.
pub(super) struct Pool {
    connector: Connector,
    limits: Limits,
    counters: Arc<Counters>,
    /// The one used last is on top. Locked for a push or a pop, never while anything waits.
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
    pub(super) fn reuse(self: &Arc<Self>) -> Option<Lease> {
        loop {
            let kept = self.idle().pop()?;
            self.counters.idle.fetch_sub(1, Relaxed);
            if let Some(reason) = self.reason_to_close(&kept) {
                self.counters.close(reason);
                continue;
            }
            if kept.connection.is_ready() {
                self.counters.reused.fetch_add(1, Relaxed);
                return Some(self.lease(kept, true));
            }
            self.counters.close(Closed::Broken);
        }
    }

    /// A new connection.
    pub(super) async fn open(self: &Arc<Self>) -> Result<Lease, Failure> {
        let connection = self.connector.connect().await?;
        self.counters.created.fetch_add(1, Relaxed);
        self.counters.open.fetch_add(1, Relaxed);
        let now = Instant::now();
        Ok(self.lease(Kept { connection, opened: now, since: now }, false))
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    fn lease(self: &Arc<Self>, kept: Kept, reused: bool) -> Lease {
        Lease { kept: Some(kept), pool: self.clone(), reused }
    }

    fn keep(&self, mut kept: Kept) {
        kept.since = Instant::now();
        if let Some(reason) = self.reason_to_close(&kept) {
            return self.counters.close(reason);
        }
        let mut idle = self.idle();
        if idle.len() >= self.limits.idle {
            drop(idle);
            return self.counters.close(Closed::Surplus);
        }
        idle.push(kept);
        self.counters.idle.fetch_add(1, Relaxed);
    }

    fn reason_to_close(&self, kept: &Kept) -> Option<Closed> {
        if kept.connection.is_closed() {
            return Some(Closed::Peer);
        }
        if kept.since.elapsed() >= self.limits.idle_timeout {
            return Some(Closed::Idle);
        }
        self.limits.age.is_some_and(|age| kept.opened.elapsed() >= age).then_some(Closed::Age)
    }

    fn sweep(&self) {
        // The connections are closed after the lock is free again.
        let old: Vec<Kept> = self.idle().extract_if(.., |kept| self.reason_to_close(kept).is_some()).collect();
        for kept in old {
            self.counters.idle.fetch_sub(1, Relaxed);
            self.counters.close(self.reason_to_close(&kept).unwrap_or(Closed::Idle));
        }
    }

    fn clear(&self) {
        let all = std::mem::take(&mut *self.idle());
        for _ in all {
            self.counters.idle.fetch_sub(1, Relaxed);
            self.counters.close(Closed::Unused);
        }
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
    pub(super) fn release(mut self) {
        let Some(mut kept) = self.kept.take() else { return };
        let pool = self.pool.clone();
        if kept.connection.is_ready() || kept.connection.is_closed() {
            return pool.keep(kept);
        }
        // The task that drives the connection has handed over the answer's end and is about to say so.
        tokio::spawn(async move {
            match tokio::time::timeout(SETTLE, kept.connection.ready()).await {
                Ok(_) => pool.keep(kept),
                Err(_) => pool.counters.close(Closed::Broken),
            }
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.kept.take().is_some() {
            self.pool.counters.close(Closed::Broken);
        }
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
    /// An exchange over it did not come to its end: it failed, or the client went away.
    Broken,
}

impl Closed {
    /// Every reason.
    pub const ALL: [Closed; 6] =
        [Closed::Peer, Closed::Idle, Closed::Age, Closed::Surplus, Closed::Unused, Closed::Broken];

    /// Its name as a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Closed::Peer => "peer",
            Closed::Idle => "idle",
            Closed::Age => "age",
            Closed::Surplus => "surplus",
            Closed::Unused => "unused",
            Closed::Broken => "broken",
        }
    }
}

/// What is counted about the connections of a service.
#[derive(Debug, Default)]
struct Counters {
    created: AtomicU64,
    reused: AtomicU64,
    open: AtomicI64,
    idle: AtomicI64,
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

    fn read(&self) -> Counts {
        Counts {
            created: self.created.load(Relaxed),
            reused: self.reused.load(Relaxed),
            open: self.open.load(Relaxed),
            idle: self.idle.load(Relaxed),
            closed: std::array::from_fn(|reason| self.closed[reason].load(Relaxed)),
        }
    }
}

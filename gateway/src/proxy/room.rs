//! Room for connections to one instance, for all workers together, and the queue for it.
//!
//! A connection holds a permit from when it is opened until it is closed. Nobody asks for one to use a connection that is
//! open, so that workers meet here only when one of them opens a connection. When all permits are out, an idle connection
//! of another worker makes room; when there is none, the request waits: for a permit that becomes free, or for what its own
//! worker has to give instead, a connection or a [place](super::sharing) on one. The queue is bounded, and so is the wait.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use portcullis_middleware::Cause;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::failure::{Failure, Fault};
use super::pool::{Lease, Limits, Pool};

/// Room for connections to one instance.
#[derive(Debug)]
pub(super) struct Room {
    free: Arc<Semaphore>,
    /// How many requests wait, of whatever worker.
    waiting: AtomicUsize,
}

/// The right to have a connection open.
pub(super) type Permit = OwnedSemaphorePermit;

/// What lets a request go on.
pub(super) enum Claim<T> {
    /// Room for a new connection.
    Room(Permit),
    /// What the request's own worker had for it.
    Instead(T),
}

/// What becomes of a connection that should make room.
pub(super) enum Closing {
    /// It is closed.
    Now,
    /// It will be closed in a moment, by the task that drives it.
    Soon,
    /// There is none that nobody uses.
    Nothing,
}

impl Room {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { free: Arc::new(Semaphore::new(limits.open.min(Semaphore::MAX_PERMITS))), waiting: AtomicUsize::new(0) }
    }

    /// Room that nobody has.
    pub(super) fn take(&self) -> Option<Permit> {
        self.free.clone().try_acquire_owned().ok()
    }

    /// Whether a connection that nobody of its own worker wants should make room for another worker's.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }
}

impl Pool {
    /// Waits until a request may have a connection to itself.
    pub(super) async fn claim(self: &Arc<Self>) -> Result<Claim<Lease>, Failure> {
        if let Some(permit) = self.room.take() {
            return Ok(Claim::Room(permit));
        }
        let lease = self.idle().waiting.join();
        let lease = async {
            match lease.await {
                Ok(lease) => lease,
                // Nobody is told that there is none; there is only the end of the wait.
                Err(_) => std::future::pending().await,
            }
        };
        // Boxed: it is rare, and no other request has room for it.
        Box::pin(self.queue(lease, true)).await
    }

    /// Waits in the queue for room, if that `may_open` a connection, and for what may come instead.
    pub(super) async fn queue<T>(
        self: &Arc<Self>,
        instead: impl Future<Output = T>,
        may_open: bool,
    ) -> Result<Claim<T>, Failure> {
        // In the books first: whoever has a connection to spare from now on sees that somebody wants it.
        let waits = Waits::begin(self);
        let comes = match may_open {
            true => self.make_room(),
            false => Coming::Nothing,
        };
        match comes {
            Coming::Now(permit) => return Ok(Claim::Room(permit)),
            Coming::Nothing if waits.is_one_too_many() => return Err(self.refuse()),
            Coming::Soon | Coming::Nothing => {}
        }
        let claim = async {
            tokio::select! {
                biased;
                instead = instead => Claim::Instead(instead),
                Ok(permit) = self.room.free.clone().acquire_owned(), if may_open => Claim::Room(permit),
            }
        };
        timeout(self.limits.wait, claim).await.map_err(|_| self.refuse())
    }

    /// Room that nobody has, or that an idle connection had: of another worker, or else of this one, which does not want to
    /// use it. No more than one is closed for it.
    fn make_room(self: &Arc<Self>) -> Coming {
        if let Some(permit) = self.room.take() {
            return Coming::Now(permit);
        }
        let Some(everybody) = self.endpoint.upgrade() else { return Coming::Nothing };
        let others = everybody.pools().filter(|other| !Arc::ptr_eq(other, self));
        for pool in others.chain([self]) {
            match pool.close_one() {
                Closing::Nothing => {}
                Closing::Soon => return Coming::Soon,
                Closing::Now => return self.room.take().map_or(Coming::Soon, Coming::Now),
            }
        }
        Coming::Nothing
    }

    /// Counts a request for which there is no connection in time.
    fn refuse(&self) -> Failure {
        self.count().refuse();
        Failure::new(Fault::Full, Cause::QueueFull)
    }
}

/// Room that is there, or will be.
enum Coming {
    Now(Permit),
    Soon,
    Nothing,
}

/// One who waits, in the books.
struct Waits<'a> {
    pool: &'a Pool,
    /// How many waited already.
    before: usize,
}

impl<'a> Waits<'a> {
    fn begin(pool: &'a Pool) -> Self {
        pool.count().begin_to_wait();
        Self { pool, before: pool.room.waiting.fetch_add(1, Relaxed) }
    }

    fn is_one_too_many(&self) -> bool {
        self.before >= self.pool.limits.waiting
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.pool.room.waiting.fetch_sub(1, Relaxed);
        self.pool.count().end_to_wait();
    }
}

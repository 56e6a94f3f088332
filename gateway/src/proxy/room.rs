//! Room for connections to one instance, for all workers together, and the queue for it.
//!
//! A connection holds a permit from when it is opened until it is closed. Nobody asks for one to use a connection that is
//! open, so that workers meet here only when one of them opens a connection. When all permits are out, an idle connection
//! of another worker makes room; when there is none, the request waits: for a connection of its own worker that becomes
//! free, or for a permit that does. The queue is bounded, and so is the wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use portcullis_middleware::Cause;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
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

/// Who of one worker waits for a connection, the first in front.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<oneshot::Sender<Lease>>);

/// What lets a request go on.
pub(super) enum Claim {
    /// A connection that became free.
    Connection(Lease),
    /// Room for a new one.
    Room(Permit),
}

impl Room {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { free: Arc::new(Semaphore::new(limits.open.min(Semaphore::MAX_PERMITS))), waiting: AtomicUsize::new(0) }
    }

    fn take(&self) -> Option<Permit> {
        self.free.clone().try_acquire_owned().ok()
    }

    /// Whether a connection that nobody of its own worker wants should make room for another worker's.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }
}

impl Queue {
    /// Gives a connection to the first who still waits; back it comes if there is nobody.
    pub(super) fn serve(&mut self, mut lease: Lease) -> Option<Lease> {
        while let Some(first) = self.0.pop_front() {
            match first.send(lease) {
                Ok(()) => return None,
                Err(unwanted) => lease = unwanted,
            }
        }
        Some(lease)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Pool {
    /// Waits until a request may have a connection to itself.
    pub(super) async fn claim(self: &Arc<Self>) -> Result<Claim, Failure> {
        match self.permit() {
            Some(permit) => Ok(Claim::Room(permit)),
            // Boxed: it is rare, and no other request has room for it.
            None => Box::pin(self.queue()).await,
        }
    }

    /// A permit that is free, or one that an idle connection had: of another worker, or else of this one, which does not
    /// want to use it.
    fn permit(self: &Arc<Self>) -> Option<Permit> {
        self.room.take().or_else(|| {
            let everybody = self.endpoint.upgrade()?;
            let others = everybody.pools().filter(|other| !Arc::ptr_eq(other, self));
            others.chain([self]).find_map(|pool| {
                pool.close_one();
                self.room.take()
            })
        })
    }

    async fn queue(self: &Arc<Self>) -> Result<Claim, Failure> {
        let waits = Waits::new(self)?;
        let (ticket, lease) = oneshot::channel();
        self.idle().queue.0.push_back(ticket);
        let claim = async {
            tokio::select! {
                biased;
                Ok(lease) = lease => Claim::Connection(lease),
                Ok(permit) = self.room.free.clone().acquire_owned() => Claim::Room(permit),
            }
        };
        let claim = timeout(self.limits.wait, claim).await;
        drop(waits);
        claim.map_err(|_| self.refuse())
    }

    /// Counts a request for which there is no connection in time.
    fn refuse(&self) -> Failure {
        self.count().refuse();
        Failure::new(Fault::Full, Cause::QueueFull)
    }
}

/// One who waits, in the books.
struct Waits<'a>(&'a Pool);

impl<'a> Waits<'a> {
    fn new(pool: &'a Pool) -> Result<Self, Failure> {
        if pool.room.waiting.fetch_add(1, Relaxed) >= pool.limits.waiting {
            pool.room.waiting.fetch_sub(1, Relaxed);
            return Err(pool.refuse());
        }
        pool.count().begin_to_wait();
        Ok(Self(pool))
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.room.waiting.fetch_sub(1, Relaxed);
        self.0.count().end_to_wait();
        // Whoever gave up leaves a ticket that nobody reads.
        self.0.idle().queue.0.retain(|ticket| !ticket.is_closed());
    }
}

//! How many connections an address may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

/// The connections of an address, on all workers, and a bell for when a place becomes free.
///
/// All workers write to this one number, when a connection comes and when it goes. Numbers of their own would let more
/// in than there are places; a request touches none of it.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: AtomicUsize,
    free: Notify,
}

/// A place that is taken.
pub(super) struct Place(Arc<Places>);

impl Places {
    /// Takes a place, if there is one.
    pub(super) fn take(self: &Arc<Self>, limit: usize) -> Option<Place> {
        let one_more = |taken| (taken < limit).then_some(taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, one_more).ok().map(|_| Place(self.clone()))
    }

    /// Waits until a place may be free.
    pub(super) async fn free(&self) {
        self.free.notified().await;
    }

    /// There may be more places than before.
    pub(super) fn look_again(&self) {
        self.free.notify_one();
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Relaxed);
        self.0.free.notify_one();
    }
}

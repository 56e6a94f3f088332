//! Which worker a thread is, and things that every worker has one of its own of.
//!
//! A worker is a thread that serves. What all of them write to (a counter, a stack of idle connections) is [`Sharded`]: a
//! worker writes to a place of its own, on cache lines of its own, and whoever wants the whole reads all places.
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
//! use portcullis_middleware::worker::Sharded;
//!
//! let requests: Sharded<AtomicU64> = Sharded::new();
//! requests.mine().fetch_add(1, Relaxed);
//! let total: u64 = requests.iter().map(|count| count.load(Relaxed)).sum();
//! assert_eq!(total, 1);
//! ```

use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

/// How many places there are at least for threads that are no workers.
const GUESTS: usize = 4;

/// How many places a [`Sharded`] has: a power of two, one place per core and a few for threads that are no workers.
///
/// The same in the whole life of the process.
pub fn places() -> usize {
    static PLACES: OnceLock<usize> = OnceLock::new();
    *PLACES.get_or_init(|| (cores() + GUESTS).next_power_of_two())
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

thread_local! {
    static INDEX: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The place of the current thread, less than [`places`].
///
/// It never changes while the thread lives. Workers have the first ones: worker 0 has place 0, and as long as there are
/// no more workers than cores, no other thread has it. Any further thread (the control thread, somebody else's runtime
/// that an embedded gateway runs on, a test's) gets one of the rest in turn, when it asks first. So what is at a place is
/// *almost* always used by one thread only: rely on that for speed, and on a lock or an atomic for correctness.
#[inline]
pub fn index() -> usize {
    INDEX.get().unwrap_or_else(take_a_place)
}

/// Says that the current thread is the worker of this number. For whoever starts workers.
pub fn become_worker(number: usize) {
    INDEX.set(Some(number % places()));
}

#[cold]
fn take_a_place() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let guests = places() - cores();
    let index = cores() + NEXT.fetch_add(1, Relaxed) % guests;
    INDEX.set(Some(index));
    index
}

/// One `T` per place, made when a thread of that place asks for it first.
pub struct Sharded<T> {
    places: Box<[OnceLock<Box<Padded<T>>>]>,
}

/// A value on cache lines that it shares with nothing else. 128 bytes, since processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Padded<T>(pub T);

impl<T> Sharded<T> {
    /// Nothing at any place yet.
    pub fn new() -> Self {
        Self { places: (0..places()).map(|_| OnceLock::new()).collect() }
    }

    /// What belongs to this thread; made by `make` if there is nothing yet.
    #[inline]
    pub fn mine_or(&self, make: impl FnOnce() -> T) -> &T {
        self.at_or(index(), make)
    }

    /// What belongs to this thread.
    #[inline]
    pub fn mine(&self) -> &T
    where
        T: Default,
    {
        self.mine_or(T::default)
    }

    /// What is at a place; made by `make` if there is nothing yet. For what goes back to where it came from, whoever
    /// brings it there.
    #[inline]
    pub fn at_or(&self, index: usize, make: impl FnOnce() -> T) -> &T {
        &self.places[index].get_or_init(|| Box::new(Padded(make()))).deref().0
    }

    /// What there is at any place.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|place| Some(&place.get()?.deref().0))
    }
}

impl<T> Default for Sharded<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for Sharded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_place_and_others_have_other_ones() {
        let here = index();
        assert_eq!(here, index());
        // Other tests' threads take places at the same time, so two threads may well have the same one, but not all.
        let others: Vec<_> = (0..4 * places()).map(|_| thread::spawn(index).join().unwrap()).collect();
        assert!(others.iter().any(|there| *there != here));
        for index in others.into_iter().chain([here]) {
            assert!((cores()..places()).contains(&index), "{index} is no worker's");
        }
    }

    #[test]
    fn more_threads_than_places_share_them_and_nothing_is_lost() {
        let counts: Sharded<AtomicUsize> = Sharded::new();
        thread::scope(|scope| {
            for _ in 0..3 * places() {
                scope.spawn(|| counts.mine().fetch_add(1, Relaxed));
            }
        });
        assert_eq!(counts.iter().map(|count| count.load(Relaxed)).sum::<usize>(), 3 * places());
        assert!(counts.iter().count() <= places() - cores());
    }

    #[test]
    fn places_share_no_cache_line() {
        let shards: Sharded<u8> = Sharded::new();
        let [one, other] = [0, 1].map(|index| std::ptr::from_ref(shards.at_or(index, || 0)).addr());
        assert!(one.abs_diff(other) >= 128 && one % 128 == 0 && other % 128 == 0);
        assert_eq!(format!("{shards:?}"), "[0, 0]");
    }
}

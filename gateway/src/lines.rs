//! Keeps what others can provoke at will from filling the log.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

/// Lines of one kind. What is not logged must be counted somewhere, or go on for as long as it is not.
#[derive(Debug)]
pub(crate) struct Lines {
    /// How long a period is, in seconds.
    period: u64,
    /// How many lines may be logged in one.
    most: u64,
    /// The period in which a line was logged last, and how many were: `period * (most + 1) + lines`.
    logged: AtomicU64,
}

/// Ten in a second.
impl Default for Lines {
    fn default() -> Self {
        Self::every(1, 10)
    }
}

impl Lines {
    /// So many in so many seconds.
    pub(crate) const fn every(period: u64, most: u64) -> Self {
        Self { period, most, logged: AtomicU64::new(0) }
    }

    /// Whether there is room for one more.
    pub(crate) fn one_more(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.one_more_at(now.as_secs())
    }

    fn one_more_at(&self, second: u64) -> bool {
        let (now, full) = (second / self.period, self.most + 1);
        let one_more = |logged: u64| match logged % full {
            _ if logged / full != now => Some(now * full + 1),
            lines if lines == self.most => None,
            _ => Some(logged + 1),
        };
        self.logged.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_few_lines_a_second() {
        let lines = Lines::default();
        let logged = |second| (0..1000).filter(|_| lines.one_more_at(second)).count();
        assert_eq!((logged(7), logged(8), logged(8)), (10, 10, 0));
        assert_eq!(logged(3), 10, "a clock may be set back");
    }

    #[test]
    fn what_goes_on_is_said_once_in_a_while() {
        let lines = Lines::every(10, 1);
        let said: Vec<u64> = (20..50).filter(|&second| lines.one_more_at(second)).collect();
        assert_eq!(said, [20, 30, 40]);
    }
}

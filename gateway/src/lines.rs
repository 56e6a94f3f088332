//! Keeps what others can provoke at will from filling the log.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

/// How many lines may be logged in a second.
const MOST: u64 = 10;

/// Lines of one kind. What is not logged must be counted somewhere.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The second in which a line was logged last, and how many were: `second * (MOST + 1) + lines`.
    logged: AtomicU64,
}

impl Lines {
    /// Whether there is room for one more.
    pub(crate) fn one_more(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.one_more_in(now.as_secs())
    }

    fn one_more_in(&self, second: u64) -> bool {
        let one_more = |logged: u64| match logged % (MOST + 1) {
            _ if logged / (MOST + 1) != second => Some(second * (MOST + 1) + 1),
            MOST => None,
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
        let logged = |second| (0..1000).filter(|_| lines.one_more_in(second)).count() as u64;
        assert_eq!((logged(7), logged(8), logged(8)), (MOST, MOST, 0));
        assert_eq!(logged(3), MOST, "a clock may be set back");
    }
}

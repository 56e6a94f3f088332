//! How long to wait before trying again.

use std::time::Duration;

/// Doubling, with full jitter: the next wait is anywhere between nothing and the ceiling, so that a
/// thousand watches that fell together do not come back together.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    floor: Duration,
    cap: Duration,
    ceiling: Duration,
}

impl Backoff {
    pub(super) fn new(floor: Duration, cap: Duration) -> Self {
        Self { floor, cap, ceiling: floor }
    }

    pub(super) fn next(&mut self) -> Duration {
        let wait = jitter(self.ceiling);
        self.ceiling = (self.ceiling * 2).min(self.cap);
        wait
    }

    pub(super) fn reset(&mut self) {
        self.ceiling = self.floor;
    }

    /// The longest that the next wait can be.
    pub(super) fn ceiling(&self) -> Duration {
        self.ceiling
    }
}

/// Anything between nothing and `most`.
pub(super) fn jitter(most: Duration) -> Duration {
    most.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let ceilings: Vec<_> = (0..9)
            .map(|_| {
                let ceiling = backoff.ceiling();
                assert!(backoff.next() <= ceiling);
                ceiling.as_millis()
            })
            .collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        backoff.reset();
        assert_eq!(backoff.ceiling(), Duration::from_millis(100));
    }
}

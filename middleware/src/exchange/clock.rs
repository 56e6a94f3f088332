//! Now, by both clocks, for the price of one.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

/// How long a thread trusts what it once read. A calendar that is set right, or drifts, is followed as soon.
const TRUSTED: Duration = Duration::from_secs(1);

/// This moment by the clock that only goes forward, and by the calendar.
///
/// A thread reads the calendar once a second and counts on from there by the other clock.
pub(super) fn now() -> (Instant, SystemTime) {
    thread_local! {
        static READ: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    if let Some((then, calendar)) = READ.get() {
        let since = now.saturating_duration_since(then);
        if since < TRUSTED {
            return (now, calendar + since);
        }
    }
    let calendar = SystemTime::now();
    READ.set(Some((now, calendar)));
    (now, calendar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_go_together() {
        let (first, first_day) = now();
        let (last, last_day) = std::iter::repeat_with(now).take(1000).last().unwrap();
        assert_eq!(last_day.duration_since(first_day).unwrap(), last.duration_since(first));
        let real = SystemTime::now();
        let apart = real.duration_since(last_day).unwrap_or_else(|early| early.duration());
        assert!(apart < Duration::from_secs(2), "{apart:?}");
    }
}

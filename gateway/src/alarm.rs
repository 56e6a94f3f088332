//! A timer that is seldom set.
//!
//! Nearly every wait ends long before its deadline, and setting a timer takes a lock of the runtime's. So an alarm that
//! was set for an earlier wait stays as it is, as long as it does not ring too late for the next one. It finds out when
//! it rings: too early, and it is set anew. A connection keeps its alarm from one exchange to the next, so that a
//! busy one sets it once in the length of its shortest clock and not once per request.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is seldom set.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready at the deadline; never without one. The task is woken at that moment, or earlier for nothing.
    pub(crate) fn poll_until(&mut self, deadline: Option<Instant>, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = deadline else { return Poll::Pending };
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }

    /// Wakes nobody any more. It stays set.
    pub(crate) fn hush(&mut self) {
        if let Some(sleep) = &mut self.0 {
            let _ = sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    async fn ring(alarm: &mut Alarm, deadline: Instant) -> Instant {
        poll_fn(|context| alarm.poll_until(Some(deadline), context)).await;
        Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_the_deadline_whatever_it_was_set_to() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut alarm = Alarm::default();
        let mut unheard = Context::from_waker(Waker::noop());
        // Set for a wait that ended well; it rings while nobody waits, and then too early for the next one.
        assert!(alarm.poll_until(Some(after(30)), &mut unheard).is_pending());
        assert_eq!(ring(&mut alarm, after(45)).await, after(45));
        // Set too late for the next wait.
        assert!(alarm.poll_until(Some(after(100)), &mut unheard).is_pending());
        alarm.hush();
        assert_eq!(ring(&mut alarm, after(50)).await, after(50));
        // In the past.
        assert_eq!(ring(&mut alarm, after(1)).await, after(50));
        assert!(alarm.poll_until(None, &mut unheard).is_pending());
    }
}

//! Telling connections to finish.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;

/// Tells everything that serves an address to come to its end.
#[derive(Debug, Default)]
pub(super) struct Stop {
    told: AtomicBool,
    bell: Notify,
    cut: AtomicBool,
    last_bell: Notify,
}

impl Stop {
    pub(super) fn tell(&self) {
        self.told.store(true, Ordering::Release);
        self.bell.notify_waiters();
    }

    pub(super) fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// Time is up for whatever has not come to its end.
    pub(super) fn cut_all(&self) {
        self.cut.store(true, Ordering::Release);
        self.last_bell.notify_waiters();
    }

    /// Waits until time is up.
    pub(super) async fn cut(&self) {
        let mut bell = pin!(self.last_bell.notified());
        bell.as_mut().enable();
        if !self.cut.load(Ordering::Acquire) {
            bell.await;
        }
    }

    /// Waits until it is told.
    pub(super) async fn told(&self) {
        let mut bell = pin!(self.bell.notified());
        bell.as_mut().enable();
        if !self.is_told() {
            bell.await;
        }
    }

    /// What comes of something that no request waits for. It is dropped when this is told.
    pub(super) async fn unless_told<T>(&self, something: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            come = something => Some(come),
            () = self.told() => None,
        }
    }

    /// Drives a connection to its end; `finish` says to it, once, that it shall come to one soon, or is asked again later if it
    /// says no. `None` if time is up.
    ///
    /// `select!` would take the bell's lock, which all workers share, at every step of every request. Here the bell is
    /// touched once: it keeps the waker of the task, which is the same as long as the task lives.
    pub(super) async fn drive<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        mut finish: impl FnMut(Pin<&mut C>) -> bool,
    ) -> Option<C::Output> {
        let mut bell = pin!(self.bell.notified());
        let mut last = pin!(self.last_bell.notified());
        let (mut listening, mut finished) = (false, false);
        poll_fn(move |context: &mut Context<'_>| -> Poll<Option<C::Output>> {
            if !listening {
                listening = true;
                let _: Poll<()> = bell.as_mut().poll(context);
            }
            // What has come already is read before it is told: it may be a request, the first one even.
            let mut polled = connection.as_mut().poll(context);
            let told = polled.is_pending() && self.is_told();
            if told && !finished {
                finished = finish(connection.as_mut());
                if finished {
                    polled = connection.as_mut().poll(context);
                }
            }
            // A bell that rang before it was listened to is heard all the same.
            if polled.is_pending()
                && told
                && (last.as_mut().poll(context).is_ready() || self.cut.load(Ordering::Acquire))
            {
                return Poll::Ready(None);
            }
            polled.map(Some)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_is_told_and_who_comes_later_too() {
        let stop = Stop::default();
        tokio::join!(stop.told(), stop.told(), async { stop.tell() });
        stop.told().await;
    }

    #[tokio::test]
    async fn a_connection_that_rests_is_told_once() {
        let (stop, finished) = (Stop::default(), Cell::new(0));
        let done = Notify::new();
        let connection = pin!(done.notified());
        let driven = stop.drive(connection, |_| {
            finished.set(finished.get() + 1);
            done.notify_one();
            true
        });
        tokio::join!(driven, async { stop.tell() });
        assert_eq!(finished.get(), 1);
    }

    #[tokio::test]
    async fn a_connection_that_does_not_finish_is_cut() {
        let stop = Stop::default();
        let connection = pin!(std::future::pending::<()>());
        let driven = stop.drive(connection, |_| true);
        let (ended, ()) = tokio::join!(driven, async {
            stop.tell();
            tokio::task::yield_now().await;
            stop.cut_all();
        });
        assert_eq!(ended, None);
        stop.cut().await;
    }
}

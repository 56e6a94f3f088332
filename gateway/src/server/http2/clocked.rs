//! A connection and its clocks.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::course::Course;
use crate::server::Manners;
use crate::server::strict::{Fault, Refusal};

/// How long a client may take to go, once it is told to and has no request left.
const PATIENCE: Duration = Duration::from_secs(2);

pin_project! {
    /// A connection that ends when nothing comes of it for too long.
    pub(super) struct Clocked<C, R> {
        #[pin]
        connection: C,
        // Tells the connection to take no more requests.
        finish: fn(Pin<&mut C>),
        // What was refused without anybody's knowing goes here.
        remember: R,
        course: Arc<Course>,
        header: Option<Duration>,
        idle: Option<Duration>,
        // Since when it is to end.
        ending: Option<Instant>,
        #[pin]
        clock: Option<Sleep>,
    }
}

/// What is to happen when time is up.
enum Then {
    /// The client rests for too long, and is told to go.
    Finish,
    /// A header block takes too long.
    Condemn,
    /// The client was told to go, and does not.
    Close,
}

impl<C, R: FnMut(Refusal)> Clocked<C, R> {
    pub(super) fn new(
        connection: C,
        finish: fn(Pin<&mut C>),
        remember: R,
        course: Arc<Course>,
        manners: &Manners,
    ) -> Self {
        let &Manners { header, idle, .. } = manners;
        Self { connection, finish, remember, course, header, idle, ending: None, clock: None }
    }

    /// Tells the connection to take no more requests.
    pub(super) fn finish(self: Pin<&mut Self>) {
        let this = self.project();
        if this.ending.is_none() {
            *this.ending = Some(Instant::now());
            (this.finish)(this.connection);
        }
    }

    fn next(&self) -> Option<(Instant, Then)> {
        let rests = self.course.rests_since();
        let block = self.course.block_since().zip(self.header).map(|(since, header)| (since + header, Then::Condemn));
        let rest = match (rests, self.ending) {
            (Some(rests), Some(ending)) => Some((rests.max(ending) + PATIENCE, Then::Close)),
            (Some(rests), None) => self.idle.map(|idle| (rests + idle, Then::Finish)),
            (None, _) => None,
        };
        block.into_iter().chain(rest).min_by_key(|(at, _)| *at)
    }
}

impl<C, R> Future for Clocked<C, R>
where
    C: Future,
    R: FnMut(Refusal),
{
    /// `None`: the client did not go by itself.
    type Output = Option<C::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if self.course.is_to_end() {
                self.as_mut().finish();
            }
            let this = self.as_mut().project();
            let polled = this.connection.poll(context);
            this.course.news().into_iter().for_each(this.remember);
            if let Poll::Ready(end) = polled {
                return Poll::Ready(Some(end));
            }
            // Nobody polls when a request of another task is over, so the clock must be running by then.
            let next = self.next();
            let soon = self.idle.or(self.header);
            let Some(at) = next.as_ref().map(|(at, _)| *at).or(soon.map(|soon| Instant::now() + soon)) else {
                return Poll::Pending;
            };
            let mut this = self.as_mut().project();
            match this.clock.as_mut().as_pin_mut() {
                // It is left to ring, and then looks whether it was for nothing.
                Some(clock) if !clock.is_elapsed() && clock.deadline() <= at => {}
                Some(clock) => clock.reset(at),
                None => this.clock.set(Some(sleep_until(at))),
            }
            ready!(this.clock.as_pin_mut().expect("it was set just now").poll(context));
            match next {
                Some((at, then)) if at <= Instant::now() => match then {
                    Then::Finish => self.as_mut().finish(),
                    Then::Condemn if self.course.fault().is_none() => self.course.condemn(Fault::HeaderTimeout),
                    Then::Condemn | Then::Close => return Poll::Ready(None),
                },
                _ => {}
            }
        }
    }
}

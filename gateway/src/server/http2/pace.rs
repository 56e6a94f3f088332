//! Requests that run on their connection's worker, and clients that ask and do not listen.
//!
//! An answer that its client does not take lies in memory, and holds a connection to an instance. h2 tells nobody how
//! long that goes on, so an answer's body notes when it was last asked for more, and its request is given up when that was
//! too long ago.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, ready};
use std::time::Duration;

use portcullis_middleware::Cause;
use tokio::task_local;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;
use tracing::debug;

/// What a client does with the answer to its request.
#[derive(Clone, Copy)]
enum Answer {
    /// It has taken everything so far.
    Taken,
    /// Since then there is a part of it that it does not take.
    Offered(Instant),
    /// That went on for too long.
    GivenUp,
}

task_local! {
    /// The answer to the request that a task is for.
    static ANSWER: Cell<Answer>;
}

/// The client has taken everything so far.
pub(super) fn taken() {
    let _ = ANSWER.try_with(|answer| answer.set(Answer::Taken));
}

/// A part of the answer is there to be taken.
pub(super) fn offered() {
    let _ = ANSWER.try_with(|answer| answer.set(Answer::Offered(Instant::now())));
}

/// Why this task's request is given up, if it is.
pub(super) fn given_up() -> Option<Cause> {
    ANSWER.try_with(|answer| matches!(answer.get(), Answer::GivenUp).then_some(Cause::IdleTimeout)).ok()?
}

/// Runs requests on the worker that has their connection.
#[derive(Clone)]
pub(super) struct Worker {
    connections: TaskTracker,
    patience: Option<Duration>,
}

impl Worker {
    /// What it runs counts with these connections, and is given up when the client takes nothing for this long.
    pub(super) fn new(connections: TaskTracker, patience: Option<Duration>) -> Self {
        Self { connections, patience }
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Worker {
    fn execute(&self, stream: F) {
        let task = ANSWER.scope(Cell::new(Answer::Taken), until_given_up(stream, self.patience));
        // hyper calls this from within the connection's task, whose runtime is the worker's.
        drop(tokio::spawn(self.connections.track_future(task)));
    }
}

async fn until_given_up(stream: impl Future<Output = ()>, patience: Option<Duration>) {
    let mut stream = pin!(stream);
    let mut clock = pin!(None);
    poll_fn(|context| {
        loop {
            if stream.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            let (Answer::Offered(offered), Some(patience)) = (ANSWER.with(Cell::get), patience) else {
                return Poll::Pending;
            };
            let deadline = offered + patience;
            if clock.is_none() {
                clock.set(Some(sleep_until(deadline)));
            }
            let mut clock = clock.as_mut().as_pin_mut().expect("it was set just now");
            ready!(clock.as_mut().poll(context));
            if deadline <= Instant::now() {
                debug!("a client does not take its answer");
                // It is dropped right after this, still within the task, and asks why.
                ANSWER.with(|answer| answer.set(Answer::GivenUp));
                return Poll::Ready(());
            }
            clock.reset(deadline);
        }
    })
    .await;
}

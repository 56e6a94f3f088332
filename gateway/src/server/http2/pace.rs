//! Requests that run on their connection's worker, and clients that ask and do not listen, or say what may not be.
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

use crate::server::blame::Blame;
use crate::server::strict::Fault;

/// What a client does with the answer to its request.
#[derive(Clone, Copy)]
enum Answer {
    /// It has taken everything so far.
    Taken,
    /// Since then there is a part of it that it does not take.
    Offered(Instant),
}

/// What is known of the request that a task is for.
struct Stream {
    answer: Cell<Answer>,
    /// A piece of it was let go of that nobody has sent.
    lost: Cell<bool>,
    /// Why its answer goes nowhere, if it does, and what the client did wrong.
    over: Cell<Option<Blame>>,
}

task_local! {
    static STREAM: Stream;
}

/// The client has taken everything so far.
pub(super) fn taken() {
    let _ = STREAM.try_with(|stream| stream.answer.set(Answer::Taken));
}

/// A part of the answer is there to be taken.
pub(super) fn offered() {
    let _ = STREAM.try_with(|stream| stream.answer.set(Answer::Offered(Instant::now())));
}

/// A piece of an answer is gone that nobody has sent. That is of this task's answer, or of no task's.
pub(super) fn lost() {
    let _ = STREAM.try_with(|stream| stream.lost.set(true));
}

pub(super) fn has_lost() -> bool {
    STREAM.try_with(|stream| stream.lost.get()).unwrap_or(false)
}

/// The client broke a rule, and h2 has reset this task's stream.
pub(super) fn malformed(fault: Fault) {
    let _ = STREAM.try_with(|stream| stream.over.set(Some((fault.cause(), Some(fault.sentence())))));
}

/// Why the answer to this task's request goes nowhere, if that is known.
pub(in crate::server) fn over() -> Option<Blame> {
    STREAM.try_with(|stream| stream.over.get()).ok()?
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
        let known = Stream { answer: Cell::new(Answer::Taken), lost: Cell::new(false), over: Cell::new(None) };
        let task = STREAM.scope(known, until_given_up(stream, self.patience));
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
            let (Answer::Offered(offered), Some(patience)) = (STREAM.with(|stream| stream.answer.get()), patience)
            else {
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
                STREAM.with(|stream| stream.over.set(Some((Cause::IdleTimeout, None))));
                return Poll::Ready(());
            }
            clock.reset(deadline);
        }
    })
    .await;
}

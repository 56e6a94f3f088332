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

use tokio::task_local;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;
use tracing::debug;

task_local! {
    /// Since when a client has a part of an answer that it does not take.
    static OFFERED: Cell<Option<Instant>>;
}

/// The client has taken everything so far.
pub(super) fn taken() {
    let _ = OFFERED.try_with(Cell::take);
}

/// A part of the answer is there to be taken.
pub(super) fn offered() {
    let _ = OFFERED.try_with(|offered| offered.set(Some(Instant::now())));
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
        let task = OFFERED.scope(Cell::new(None), until_given_up(stream, self.patience));
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
            let (Some(offered), Some(patience)) = (OFFERED.with(Cell::get), patience) else { return Poll::Pending };
            let deadline = offered + patience;
            if clock.is_none() {
                clock.set(Some(sleep_until(deadline)));
            }
            let mut clock = clock.as_mut().as_pin_mut().expect("it was set just now");
            ready!(clock.as_mut().poll(context));
            if deadline <= Instant::now() {
                debug!("a client does not take its answer");
                return Poll::Ready(());
            }
            clock.reset(deadline);
        }
    })
    .await;
}

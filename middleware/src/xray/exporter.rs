//! Between the requests and the daemon: a bounded queue, and one task that empties it.
//!
//! A request never waits here. It puts its record into a lane and is gone; if the lane is full the record is counted
//! and dropped. Faults have a lane of their own, so that a flood of good news does not push them out.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::{consume_budget, spawn_blocking};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::address::DaemonAddress;
use super::counts::{DocumentCounts, Loss};
use super::daemon::Daemon;
use super::document::Datagrams;
use super::record::Record;
use super::segment::Recorded;

/// How many faults may wait.
const URGENT: usize = 256;
/// At most one complaint of a kind in this time.
pub(super) const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// Where documents go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Destination {
    /// X-Ray's daemon, or whatever speaks its protocol.
    Daemon(DaemonAddress),
    /// Standard output, a document a line.
    Stdout,
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Destination::Daemon(address) => address.fmt(f),
            Destination::Stdout => f.write_str("stdout"),
        }
    }
}

/// How much may wait, and how long.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Limits {
    /// How many documents; faults have room for 256 besides.
    pub(super) documents: usize,
    /// How much memory, about.
    pub(super) bytes: usize,
    /// How long a document waits for company.
    pub(super) flush: Duration,
    /// How long a stopping gateway goes on sending.
    pub(super) shutdown_flush: Duration,
}

/// The queue to one destination, and the task that empties it.
pub(super) struct Exporter {
    normal: mpsc::Sender<Recorded>,
    urgent: mpsc::Sender<Recorded>,
    /// How many bytes wait.
    bytes: AtomicUsize,
    /// Enough has come together that waiting for more would be risky.
    crowded: Notify,
    limits: Limits,
    counts: DocumentCounts,
    /// How many tasks are there to empty the queue. One does, the others wait to take over.
    drivers: AtomicUsize,
    outlet: Mutex<Outlet>,
}

impl Exporter {
    /// An empty queue. Nothing leaves it until somebody [runs](Exporter::run) it.
    pub(super) fn new(destination: &Destination, limits: Limits) -> Self {
        let (normal, normal_lane) = mpsc::channel(limits.documents);
        let (urgent, urgent_lane) = mpsc::channel(URGENT);
        Self {
            normal,
            urgent,
            bytes: AtomicUsize::new(0),
            crowded: Notify::new(),
            limits,
            counts: DocumentCounts::of(&destination.to_string()),
            drivers: AtomicUsize::new(0),
            outlet: Mutex::new(Outlet {
                normal: normal_lane,
                urgent: urgent_lane,
                sink: match destination {
                    Destination::Daemon(address) => Sink::Daemon(Box::new(Daemon::new(address.udp.clone()))),
                    Destination::Stdout => Sink::Stdout(Datagrams::default()),
                },
                complaints: [Complaint::default(); Loss::ALL.len()],
            }),
        }
    }

    /// Puts a record into the queue, if there is room.
    pub(super) fn submit(&self, record: Recorded) {
        let weight = record.weight();
        if self.bytes.fetch_add(weight, Ordering::Relaxed) + weight > self.limits.bytes {
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
            return self.counts.lose(Loss::QueueFull, 1);
        }
        // Counted before it is sent: the other side may take it out at once.
        self.counts.waiting.add(1);
        self.counts.bytes.add(weight as i64);
        // What is urgent may use the common lane as well, but not the other way round.
        let urgent = if record.is_urgent() { self.urgent.try_send(record) } else { Err(TrySendError::Full(record)) };
        let sent = urgent.or_else(|refused| self.normal.try_send(refused.into_inner()));
        if sent.is_err() {
            self.forget(weight);
            return self.counts.lose(Loss::QueueFull, 1);
        }
        let crowded = |lane: &mpsc::Sender<_>| lane.capacity() <= lane.max_capacity() / 4 * 3;
        if crowded(&self.normal) || crowded(&self.urgent) {
            self.crowded.notify_one();
        }
    }

    /// Empties the queue until `stop`, then sends what is left for as long as the settings allow.
    ///
    /// Every middleware with this destination brings such a task, and every new plan does. One at a time works; when
    /// its plan goes, the next takes over.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let driver = Driver::enlist(&self.drivers);
        let mut outlet = tokio::select! {
            biased;
            outlet = self.outlet.lock() => outlet,
            () = stop.cancelled() => return,
        };
        while !stop.is_cancelled() {
            let Some(first) = outlet.first(&stop).await else { break };
            // Company: one wake-up for many documents, instead of one for each request.
            tokio::select! {
                () = sleep(self.limits.flush) => {}
                () = self.crowded.notified() => {}
                () = stop.cancelled() => {}
            }
            self.send(&mut outlet, first).await;
            while !stop.is_cancelled()
                && let Some(record) = outlet.next()
            {
                self.send(&mut outlet, record).await;
            }
            self.settle(&mut outlet);
        }

        let deadline = Instant::now() + self.limits.shutdown_flush;
        while Instant::now() < deadline
            && let Some(record) = outlet.next()
        {
            self.send(&mut outlet, record).await;
        }
        self.settle(&mut outlet);
        if driver.is_the_last() {
            self.bytes.fetch_sub(outlet.abandon(&self.counts), Ordering::Relaxed);
        }
    }

    async fn send(&self, outlet: &mut Outlet, record: Recorded) {
        outlet.sink.send(&record.record(), &self.counts).await;
        self.forget(record.weight());
        // Sending to a socket hardly ever waits; the runtime has other work as well.
        consume_budget().await;
    }

    fn settle(&self, outlet: &mut Outlet) {
        outlet.sink.settle(&self.counts);
        outlet.complain(&self.counts);
    }

    fn forget(&self, weight: usize) {
        self.bytes.fetch_sub(weight, Ordering::Relaxed);
        self.counts.waiting.add(-1);
        self.counts.bytes.add(-(weight as i64));
    }
}

impl Drop for Exporter {
    /// Requests that outlived their plan's task may have left something.
    fn drop(&mut self) {
        self.outlet.get_mut().abandon(&self.counts);
    }
}

/// One of the tasks that are there to empty a queue.
struct Driver<'a>(&'a AtomicUsize);

impl<'a> Driver<'a> {
    fn enlist(drivers: &'a AtomicUsize) -> Self {
        drivers.fetch_add(1, Ordering::Relaxed);
        Self(drivers)
    }

    fn is_the_last(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 1
    }
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The queue's far end, and the way out.
struct Outlet {
    normal: mpsc::Receiver<Recorded>,
    urgent: mpsc::Receiver<Recorded>,
    sink: Sink,
    complaints: [Complaint; Loss::ALL.len()],
}

/// What was said about losses of one kind.
#[derive(Clone, Copy, Default)]
struct Complaint {
    at: Option<Instant>,
    lost: u64,
}

impl Outlet {
    /// Waits for a record; `None` when it is time to stop.
    async fn first(&mut self, stop: &CancellationToken) -> Option<Recorded> {
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            record = self.urgent.recv() => record,
            record = self.normal.recv() => record,
        }
    }

    /// The next record that is there already.
    fn next(&mut self) -> Option<Recorded> {
        self.urgent.try_recv().or_else(|_| self.normal.try_recv()).ok()
    }

    /// Drops everything that waits, because nobody is left to send it; returns how many bytes that were.
    fn abandon(&mut self, counts: &DocumentCounts) -> usize {
        let (mut lost, mut bytes) = (0, 0);
        while let Some(record) = self.next() {
            bytes += record.weight();
            lost += 1;
        }
        counts.waiting.add(-(lost as i64));
        counts.bytes.add(-(bytes as i64));
        if lost > 0 {
            counts.lose(Loss::Shutdown, lost);
            tracing::warn!(lost, "stopped before these X-Ray segments were sent");
        }
        bytes
    }

    /// Says what was lost and why, now and then. A refusing daemon has been spoken of already.
    fn complain(&mut self, counts: &DocumentCounts) {
        for loss in [Loss::QueueFull, Loss::TooLarge, Loss::SendError] {
            let (complaint, lost) = (&mut self.complaints[loss as usize], counts.lost(loss));
            if lost > complaint.lost && complaint.at.is_none_or(|then| then.elapsed() >= COMPLAIN_EVERY) {
                tracing::warn!(reason = loss.name(), lost = lost - complaint.lost, "lost X-Ray segments");
                *complaint = Complaint { at: Some(Instant::now()), lost };
            }
        }
    }
}

enum Sink {
    Daemon(Box<Daemon>),
    Stdout(Datagrams),
}

impl Sink {
    async fn send(&mut self, record: &Record, counts: &DocumentCounts) {
        match self {
            Sink::Daemon(daemon) => daemon.send(record, counts).await,
            Sink::Stdout(documents) => {
                documents.fill(record, usize::MAX);
                let lines = documents.to_string();
                // Whoever reads may be slow, and then writing blocks.
                let written = spawn_blocking(move || io::stdout().lock().write_all(lines.as_bytes())).await;
                match written {
                    Ok(Ok(())) => counts.exported.increment(),
                    _ => counts.lose(Loss::SendError, 1),
                }
            }
        }
    }

    fn settle(&mut self, counts: &DocumentCounts) {
        match self {
            Sink::Daemon(daemon) => daemon.settle(counts),
            Sink::Stdout(_) => {}
        }
    }
}

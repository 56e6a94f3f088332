//! What is counted about connections to instances.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use portcullis_middleware::worker::Sharded;

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The instance closed it, or wants it closed.
    Peer,
    /// It was idle for too long.
    Idle,
    /// It was too old.
    Age,
    /// There were enough idle ones, or it made room for another worker's.
    Surplus,
    /// Its instance is not in use any more.
    Unused,
    /// The instance sent something that nobody had asked for.
    Unexpected,
    /// An exchange over it did not come to its end: it failed, or the client went away.
    Broken,
    /// The instance did not say that it is still there.
    Silent,
    /// It was one client's alone: it began with the PROXY protocol.
    Once,
    /// It ended as a tunnel for another protocol.
    Tunnel,
    /// It has had as many exchanges as it may.
    Spent,
}

impl Closed {
    /// Every reason.
    pub const ALL: [Closed; 11] = [
        Closed::Peer,
        Closed::Idle,
        Closed::Age,
        Closed::Surplus,
        Closed::Unused,
        Closed::Unexpected,
        Closed::Broken,
        Closed::Silent,
        Closed::Once,
        Closed::Tunnel,
        Closed::Spent,
    ];

    /// Its name as a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Closed::Peer => "peer",
            Closed::Idle => "idle",
            Closed::Age => "age",
            Closed::Surplus => "surplus",
            Closed::Unused => "unused",
            Closed::Unexpected => "unexpected",
            Closed::Broken => "broken",
            Closed::Silent => "silent",
            Closed::Once => "once",
            Closed::Tunnel => "tunnel",
            Closed::Spent => "requests",
        }
    }
}

/// What one worker counts about the connections of a service.
#[derive(Debug, Default)]
pub(super) struct Counters {
    created: AtomicU64,
    reused: AtomicU64,
    /// What this worker opened less what it closed, which may have been another one's.
    open: AtomicI64,
    /// What this worker began less what it ended.
    streams: AtomicI64,
    /// Tunnels that this worker opened less those that it closed.
    tunnels: AtomicI64,
    waiting: AtomicI64,
    refused: AtomicU64,
    closed: [AtomicU64; Closed::ALL.len()],
}

/// What was counted about the connections of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// How many were opened.
    pub created: u64,
    /// How often one was used again.
    pub reused: u64,
    /// How many are open now.
    pub open: i64,
    /// How many of those are idle.
    pub idle: i64,
    /// How many streams are open on those that are shared.
    pub streams: i64,
    /// How many of the open ones are tunnels.
    pub tunnels: i64,
    /// How many requests wait for a connection.
    pub waiting: i64,
    /// How many attempts were given up because there was none in time, or too many waited.
    pub refused: u64,
    /// How many were closed, for each of [`Closed::ALL`].
    pub closed: [u64; Closed::ALL.len()],
}

impl Counters {
    /// A connection was opened.
    pub(super) fn create(&self) {
        self.created.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    /// One that was open is used again.
    pub(super) fn reuse(&self) {
        self.reused.fetch_add(1, Relaxed);
    }

    /// One goes on as a tunnel.
    pub(super) fn begin_tunnel(&self) {
        self.tunnels.fetch_add(1, Relaxed);
    }

    /// A connection that had become a tunnel was closed.
    pub(super) fn close_tunnel(&self) {
        self.tunnels.fetch_sub(1, Relaxed);
        self.close(Closed::Tunnel);
    }

    /// A stream was begun.
    pub(super) fn enter(&self) {
        self.streams.fetch_add(1, Relaxed);
    }

    /// A stream is over.
    pub(super) fn leave(&self) {
        self.streams.fetch_sub(1, Relaxed);
    }

    /// A request waits for a connection.
    pub(super) fn begin_to_wait(&self) {
        self.waiting.fetch_add(1, Relaxed);
    }

    /// It waits no more.
    pub(super) fn end_to_wait(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// It gets none.
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// A connection was closed.
    pub(super) fn close(&self, reason: Closed) {
        self.open.fetch_sub(1, Relaxed);
        self.closed[reason as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn sum(all: &Sharded<Counters>) -> Counts {
        let mut sum = Counts::default();
        for counters in all.iter() {
            sum.created += counters.created.load(Relaxed);
            sum.reused += counters.reused.load(Relaxed);
            sum.open += counters.open.load(Relaxed);
            sum.streams += counters.streams.load(Relaxed);
            sum.tunnels += counters.tunnels.load(Relaxed);
            sum.waiting += counters.waiting.load(Relaxed);
            sum.refused += counters.refused.load(Relaxed);
            for (sum, closed) in sum.closed.iter_mut().zip(&counters.closed) {
                *sum += closed.load(Relaxed);
            }
        }
        sum
    }
}

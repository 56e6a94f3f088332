//! How far a connection is: what its bytes, its requests and its clocks know of each other.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use h2::Reason;
use portcullis_middleware::Cause;
use tokio::time::Instant;

use super::pace;
use crate::server::Manners;
use crate::server::strict::frames::{Calm, Seen, Traffic};
use crate::server::strict::{Fault, Refusal};

/// How far a connection is. All who share it run on the worker that has the connection.
pub(super) struct Course {
    began: Instant,
    /// Requests that were handed over.
    requests: AtomicU64,
    /// Requests that are not over yet.
    open: AtomicUsize,
    /// When something of a request moved last, in nanoseconds after the connection began.
    moved: AtomicU64,
    /// Whether an answer said that the connection is not to be used again.
    last: AtomicBool,
    /// Whether h2 has closed it, or the client is gone.
    closed: AtomicBool,
    /// Why the connection is closed before the last answer was over, if it is not the client's doing.
    broken: OnceLock<Cause>,
    // Never waited for: only the connection's own task looks at it.
    bytes: Mutex<Bytes>,
}

struct Bytes {
    traffic: Traffic,
    /// Since when a header block is on its way.
    block_since: Option<Instant>,
    /// Why nothing more is read.
    fault: Option<Fault>,
    told: Seen,
}

impl Course {
    pub(super) fn new(manners: &Manners) -> Self {
        let calm = Calm { control_frames: manners.http2.control_frames, resets: manners.http2.resets };
        let bytes = Bytes { traffic: Traffic::new(calm), block_since: None, fault: None, told: Seen::default() };
        Self {
            began: Instant::now(),
            requests: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
            last: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            broken: OnceLock::new(),
            bytes: Mutex::new(bytes),
        }
    }

    /// A request begins. It is over when what this returns is dropped.
    pub(super) fn begin(course: &Arc<Self>) -> Open {
        course.requests.fetch_add(1, Relaxed);
        course.open.fetch_add(1, Relaxed);
        Open(course.clone())
    }

    /// The connection is not to be used again.
    pub(super) fn end(&self) {
        self.last.store(true, Relaxed);
    }

    pub(super) fn is_to_end(&self) -> bool {
        self.last.load(Relaxed)
    }

    /// h2 closes the connection, or the client is gone.
    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// hyper is done with the connection, and nothing went wrong.
    ///
    /// It gives up a connection without a word, and without h2's closing it, when a client sends a `CONNECT` with a length.
    pub(super) fn is_over(&self) {
        if !self.closed.load(Relaxed) {
            self.condemn(Fault::UpgradeWithBody);
        }
    }

    /// The connection is closed for this reason. A request whose answer is not over by then hears of it.
    pub(super) fn break_off(&self, cause: Cause) {
        // The first reason is the true one.
        let _ = self.broken.set(cause);
    }

    /// Since when there is no request; `None` while there is one.
    pub(super) fn rests_since(&self) -> Option<Instant> {
        let moved = self.began + Duration::from_nanos(self.moved.load(Relaxed));
        (self.open.load(Relaxed) == 0).then_some(moved)
    }

    fn moves(&self) {
        // 64 bits of nanoseconds are 584 years.
        self.moved.store(self.began.elapsed().as_nanos() as u64, Relaxed);
    }

    fn bytes(&self) -> MutexGuard<'_, Bytes> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client has sent this. An error is the end of the connection.
    pub(super) fn arrived(&self, bytes: &[u8]) -> Result<(), Fault> {
        let mut this = self.bytes();
        let judged = this.traffic.arrived(bytes);
        if !this.traffic.is_in_a_block() {
            this.block_since = None;
        } else if this.block_since.is_none() {
            this.block_since = Some(Instant::now());
        }
        this.fault = this.fault.or(judged.err());
        judged
    }

    /// This was sent to the client.
    pub(super) fn sent(&self, bytes: &[u8]) {
        let mut this = self.bytes();
        let before = this.traffic.seen().data;
        let judged = this.traffic.sent(bytes);
        this.fault = this.fault.or(judged.err());
        let moved = this.traffic.seen().data > before;
        drop(this);
        if moved {
            // An answer may be on its way long after its last byte was handed over.
            self.moves();
        }
    }

    /// Since when a header block is on its way.
    pub(super) fn block_since(&self) -> Option<Instant> {
        self.bytes().block_since
    }

    /// Nothing more is read, for this reason.
    pub(super) fn condemn(&self, fault: Fault) {
        self.bytes().fault.get_or_insert(fault);
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.bytes().fault
    }

    /// The last frame, if one is to be sent that says so.
    pub(super) fn goodbye(&self) -> Vec<u8> {
        let this = self.bytes();
        match this.fault {
            None => Vec::new(),
            Some(Fault::UpgradeWithBody | Fault::Protocol) => this.traffic.goodbye(Reason::PROTOCOL_ERROR),
            Some(_) => this.traffic.goodbye(Reason::ENHANCE_YOUR_CALM),
        }
    }

    /// What was refused since the last time, without anybody else's knowing of it.
    ///
    /// A stream that h2 has reset although it was handed over is no news: whoever reads its body has heard of it.
    pub(super) fn news(&self) -> Vec<Refusal> {
        let mut this = self.bytes();
        let (seen, told) = (this.traffic.seen(), this.told);
        if seen == told {
            return Vec::new();
        }
        let (oversize, refused) = (seen.oversize - told.oversize, seen.refused - told.refused);
        let missing = seen.opened.saturating_sub(self.requests.load(Relaxed) + seen.oversize + seen.refused);
        let malformed = missing.min(seen.malformed).saturating_sub(told.malformed);
        this.told = Seen { malformed: told.malformed + malformed, ..seen };
        let counts = [(Fault::HeaderList, oversize), (Fault::Streams, refused), (Fault::Block, malformed)];
        counts.into_iter().flat_map(|(fault, count)| (0..count).map(move |_| Refusal::from(fault))).collect()
    }

    /// Why the connection ended, if it is the client's fault.
    pub(super) fn verdict(&self) -> Option<Refusal> {
        let this = self.bytes();
        let goodbye = this.traffic.seen().goodbye;
        let by_h2 = || goodbye.map(|code| Refusal::at(Fault::Protocol, format!("{:?}", Reason::from(code)).as_bytes()));
        this.fault.map(Refusal::from).or_else(by_h2)
    }
}

/// A request that is not over yet.
pub(super) struct Open(Arc<Course>);

impl Open {
    /// Why the request is cut short, if the gateway does it.
    pub(super) fn broken(&self) -> Option<Cause> {
        pace::over().map(|(cause, _)| cause).or_else(|| self.0.broken.get().copied())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.moves();
        self.0.open.fetch_sub(1, Relaxed);
    }
}

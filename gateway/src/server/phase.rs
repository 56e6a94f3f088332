//! What the bytes of a connection and its requests know of each other.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use portcullis_middleware::Cause;
use tokio::time::Instant;

use super::AnswerBody;
use super::late::Late;

/// How much of a body that nobody wants is read all the same, in bytes, so that its connection can be used again.
const READ_FOR_NOTHING: u64 = 64 * 1024;

/// How far the answers on a connection are. All of it is written and read by the connection's own task.
#[derive(Clone)]
pub(super) struct Phase(Arc<Answers>);

struct Answers {
    opened: Instant,
    /// How many are over.
    over: AtomicU64,
    /// When the last one was, in nanoseconds after the connection was opened.
    last: AtomicU64,
    /// How much of the last request's body nobody has read, in bytes, as far as is known.
    unread: AtomicU64,
    /// Whether the last one begins another protocol.
    switched: AtomicBool,
    /// Whether nothing more is read of what the client sends.
    shut: AtomicBool,
    /// Whether the last one ends where the connection does, and has not come to that.
    endless: AtomicBool,
    /// Whether a part of a head has come, and no answer is owed.
    in_a_head: AtomicBool,
    /// Why the connection is closed before the last one was over, if it is not the client's doing.
    broken: OnceLock<Cause>,
    /// Whether somebody waits for an answer to end.
    awaited: AtomicBool,
    waker: AtomicWaker,
}

impl Phase {
    /// Of a connection that nobody has asked for anything since then.
    pub(super) fn since(opened: Instant) -> Self {
        Self(Arc::new(Answers {
            opened,
            over: AtomicU64::new(0),
            last: AtomicU64::new(0),
            unread: AtomicU64::new(0),
            switched: AtomicBool::new(false),
            shut: AtomicBool::new(false),
            endless: AtomicBool::new(false),
            in_a_head: AtomicBool::new(false),
            broken: OnceLock::new(),
            awaited: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }))
    }

    /// So much of a request's body is to be read, in bytes. Who does not know says the most.
    pub(super) fn unread(&self, left: u64) {
        self.0.unread.store(left, Relaxed);
    }

    /// Whether the connection ends if nobody reads what is to come of a request's body.
    pub(super) fn ends_unread(&self) -> bool {
        self.0.unread.load(Relaxed) > READ_FOR_NOTHING
    }

    /// From the answer's end on, another protocol is spoken.
    pub(super) fn switch(&self) {
        self.0.switched.store(true, Relaxed);
    }

    pub(super) fn has_switched(&self) -> bool {
        self.0.switched.load(Relaxed)
    }

    /// Nothing more is read of what the client sends.
    pub(super) fn shut(&self) {
        self.0.shut.store(true, Relaxed);
    }

    pub(super) fn is_shut(&self) -> bool {
        self.0.shut.load(Relaxed)
    }

    /// A part of a head has come, or what was missing of it.
    pub(super) fn head(&self, begun: bool) {
        self.0.in_a_head.store(begun, Relaxed);
    }

    pub(super) fn is_in_a_head(&self) -> bool {
        self.0.in_a_head.load(Relaxed)
    }

    /// That the connection ends is all that will say that this answer does.
    pub(super) fn ends_with_the_answer(&self) {
        self.0.endless.store(true, Relaxed);
    }

    fn came_to_its_end(&self) {
        self.0.endless.store(false, Relaxed);
    }

    /// Whether an orderly end of the connection would make half an answer look whole.
    pub(super) fn would_look_whole(&self) -> bool {
        self.0.endless.load(Relaxed)
    }

    /// The connection is closed for this reason. A request whose answer is not over by then hears of it.
    pub(super) fn break_off(&self, cause: Cause) {
        // The first reason is the true one.
        let _ = self.0.broken.set(cause);
    }

    /// Why the connection is closed, if the gateway does it.
    pub(super) fn broken(&self) -> Option<Cause> {
        self.0.broken.get().copied()
    }

    /// An answer is over once this body has ended or was dropped; one without a body, at once.
    pub(super) fn until_the_answer_ends<B: AnswerBody>(&self, body: Option<B>) -> UntilEnd<B> {
        UntilEnd { body, late: Late::default(), rest: Rest(self.clone()) }
    }

    /// How many answers are over.
    pub(super) fn answered(&self) -> u64 {
        self.0.over.load(Relaxed)
    }

    /// When the last answer was over, or the connection was opened.
    pub(super) fn rests_since(&self) -> Instant {
        self.0.opened + Duration::from_nanos(self.0.last.load(Relaxed))
    }

    /// Wakes a task when the next answer is over.
    ///
    /// hyper asks for no more bytes then if it was told before that there are none: it waits for the socket.
    pub(super) fn wake_after_the_answer(&self, waker: &Waker) {
        self.0.waker.register(waker);
        self.0.awaited.store(true, Relaxed);
    }
}

struct Rest(Phase);

impl Drop for Rest {
    fn drop(&mut self) {
        let answers = &*self.0.0;
        // 64 bits of nanoseconds are 584 years.
        answers.last.store(answers.opened.elapsed().as_nanos() as u64, Relaxed);
        answers.over.fetch_add(1, Relaxed);
        if answers.awaited.swap(false, Relaxed) {
            answers.waker.wake();
        }
    }
}

pin_project! {
    /// The body of an answer.
    pub(super) struct UntilEnd<B: AnswerBody> {
        #[pin]
        body: Option<B>,
        late: Late<B::Error>,
        rest: Rest,
    }

    impl<B: AnswerBody> PinnedDrop for UntilEnd<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let Some(body) = this.body.as_pin_mut() else { return };
            if body.is_end_stream() {
                this.rest.0.came_to_its_end();
            }
            if let Some(cause) = this.rest.0.broken() {
                body.break_off(cause, 0);
            }
        }
    }
}

impl<B: AnswerBody> HttpBody for UntilEnd<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = match this.body.as_pin_mut() {
            Some(body) => this.late.pass(context, |context| body.poll_frame(context)),
            None => Poll::Ready(None),
        };
        if let Poll::Ready(None) = frame {
            this.rest.0.came_to_its_end();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

//! The clocks of a connection: idle, head, and a body that stands still.
//!
//! hyper has one clock that runs from the end of one request to the end of the next head, so it cannot tell a client
//! that rests from one that sends its head a byte a minute. [`Deadlines`] can: it watches the bytes go by.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const REQUEST: u8 = 2;

/// What a connection is doing, shared between its bytes and its requests.
#[derive(Clone, Default)]
pub(super) struct Phase(Arc<AtomicU8>);

impl Phase {
    /// A head was read to its end.
    pub(super) fn request_begins(&self) {
        self.0.store(REQUEST, Ordering::Relaxed);
    }

    /// The connection rests once this body has ended or was dropped.
    pub(super) fn until_the_answer_ends<B>(&self, body: B) -> UntilEnd<B> {
        UntilEnd { body, _phase: Rest(self.clone()) }
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Rest(Phase);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.0.store(IDLE, Ordering::Relaxed);
    }
}

pin_project! {
    /// The body of an answer.
    pub(super) struct UntilEnd<B> {
        #[pin]
        body: B,
        _phase: Rest,
    }
}

impl<B: HttpBody> HttpBody for UntilEnd<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pin_project! {
    /// A connection that ends when its client rests for too long, or sends a head too slowly.
    pub(super) struct Deadlines<I> {
        #[pin]
        io: I,
        phase: Phase,
        header: Option<Duration>,
        idle: Option<Duration>,
        // Boxed once per connection: hyper wants connections that can be moved.
        clock: Option<Pin<Box<Sleep>>>,
        // The phase the clock was set for; the clock is only set again when it changes.
        clocked: u8,
    }
}

impl<I> Deadlines<I> {
    pub(super) fn new(io: I, phase: Phase, header: Option<Duration>, idle: Option<Duration>) -> Self {
        Self { io, phase, header, idle, clock: None, clocked: REQUEST }
    }
}

impl<I: AsyncRead> AsyncRead for Deadlines<I> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buffer.filled().len();
        if this.io.poll_read(context, buffer)?.is_ready() {
            if buffer.filled().len() > before && this.phase.get() == IDLE {
                this.phase.0.store(HEAD, Ordering::Relaxed);
                // A whole request may pass before the next wait; the rest after it is a new one.
                *this.clocked = REQUEST;
            }
            return Poll::Ready(Ok(()));
        }
        let phase = this.phase.get();
        if phase != *this.clocked {
            let allowed = match phase {
                IDLE => *this.idle,
                HEAD => *this.header,
                _ => None,
            };
            match (allowed, this.clock.as_mut()) {
                (Some(allowed), Some(clock)) => clock.as_mut().reset(Instant::now() + allowed),
                (Some(allowed), None) => *this.clock = Some(Box::pin(tokio::time::sleep(allowed))),
                (None, _) => *this.clock = None,
            }
            *this.clocked = phase;
        }
        if let Some(clock) = this.clock {
            ready!(clock.as_mut().poll(context));
            let what =
                if phase == HEAD { "the request's head took too long" } else { "the connection was idle for too long" };
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)));
        }
        Poll::Pending
    }
}

impl<I: AsyncWrite> AsyncWrite for Deadlines<I> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.project().io.poll_write(context, data)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().io.poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// A request's body that fails when it stands still for longer than `idle`.
pub(super) fn body(body: Incoming, idle: Option<Duration>) -> Body {
    match idle {
        // Most requests have none, and nothing needs to be allocated for it.
        _ if body.is_end_stream() => Body::empty(),
        Some(idle) => Body::new(IdleBody { body, idle, clock: None }),
        None => Body::new(body),
    }
}

pin_project! {
    struct IdleBody {
        #[pin]
        body: Incoming,
        idle: Duration,
        #[pin]
        clock: Option<Sleep>,
    }
}

impl HttpBody for IdleBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut this = self.project();
        if let Poll::Ready(frame) = this.body.poll_frame(context) {
            this.clock.set(None);
            return Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new)));
        }
        if this.clock.is_none() {
            this.clock.set(Some(tokio::time::sleep(*this.idle)));
        }
        ready!(this.clock.as_mut().as_pin_mut().expect("it was set just now").poll(context));
        let error = io::Error::new(io::ErrorKind::TimedOut, "the request's body stood still for too long");
        Poll::Ready(Some(Err(axum::Error::new(error))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! An answer's body on its way to the client.
//!
//! It streams: a frame is read when the client has room for it. What came, and how it ended, is noted in the
//! exchange; the connection is given back when both bodies were read to their ends, and closed otherwise. A body that
//! ends early ends in an error, so that the client's connection breaks as well instead of ending well.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use portcullis_middleware::body::CutShort;
use portcullis_middleware::{Cause, Exchange};
use tokio::time::{Instant, Sleep, sleep_until};

use super::pool::Lease;
use super::upload::Upload;

/// What is known about an attempt, noted in its exchange as it becomes known. One that is dropped before it ended was
/// given up because the client went away.
pub(super) struct Note {
    exchange: Exchange,
    number: u32,
    started: Instant,
    ended: bool,
}

impl Note {
    pub(super) fn new(exchange: &Exchange, number: u32) -> Self {
        Self { exchange: exchange.clone(), number, started: Instant::now(), ended: false }
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn connected(&self, reused: bool) {
        let took = self.started.elapsed();
        self.exchange.note_attempt(self.number, |attempt| (attempt.reused, attempt.connect) = (reused, Some(took)));
    }

    pub(super) fn answered(&self, status: StatusCode, length: Option<u64>) {
        let took = self.started.elapsed();
        self.exchange.note_attempt(self.number, |attempt| {
            (attempt.first_byte, attempt.status, attempt.bytes) = (Some(took), Some(status), length);
        });
    }

    pub(super) fn failed(self, cause: Cause) {
        self.end(None, Some(cause));
    }

    /// The answer was not wanted; another attempt follows.
    pub(super) fn discarded(self) {
        self.end(None, None);
    }

    fn end(mut self, bytes: Option<u64>, cause: Option<Cause>) {
        self.write_end(bytes, cause);
    }

    fn write_end(&mut self, bytes: Option<u64>, cause: Option<Cause>) {
        self.ended = true;
        let took = self.started.elapsed();
        self.exchange.note_attempt(self.number, |attempt| {
            (attempt.end, attempt.cause) = (Some(took), cause);
            attempt.bytes = bytes.or(attempt.bytes);
        });
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if !self.ended {
            self.write_end(None, Some(Cause::ClientClosed));
        }
    }
}

/// What an answer's body still holds on to.
struct Rest {
    note: Note,
    lease: Lease,
    upload: Upload,
}

impl Rest {
    /// The answer was read to its end.
    fn complete(self, bytes: Option<u64>) {
        self.note.end(bytes, None);
        // An answer may be complete before the request is. Nobody will read the rest of that.
        if self.upload.is_over() {
            self.lease.release();
        }
    }

    fn fail(self, bytes: u64, cause: Cause) {
        self.note.end(Some(bytes), Some(cause));
    }
}

/// Makes the answer that goes to the client out of what an instance answered.
pub(super) fn stream(
    response: Response<Incoming>,
    lease: Lease,
    note: Note,
    upload: Upload,
    idle: Option<Duration>,
) -> Response<Body> {
    let (head, body) = response.into_parts();
    let rest = Rest { note, lease, upload };
    if body.is_end_stream() {
        rest.complete(None);
        return Response::from_parts(head, Body::empty());
    }
    let body = Answer { body, rest: Some(rest), bytes: 0, idle, waiting: None, timer: None };
    Response::from_parts(head, Body::new(body))
}

pin_project! {
    struct Answer {
        body: Incoming,
        rest: Option<Rest>,
        bytes: u64,
        idle: Option<Duration>,
        // Since when we wait for the instance. A client that does not read is no fault of the instance's.
        waiting: Option<Instant>,
        #[pin]
        timer: Option<Sleep>,
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let this = self.project();
        let Poll::Ready(frame) = Pin::new(&mut *this.body).poll_frame(context) else {
            let Some(idle) = *this.idle else { return Poll::Pending };
            let deadline = *this.waiting.get_or_insert_with(Instant::now) + idle;
            ready!(poll_until(this.timer, deadline, context));
            return Poll::Ready(this.rest.take().map(|rest| {
                rest.fail(*this.bytes, Cause::IdleTimeout);
                Err(CutShort(Cause::IdleTimeout))
            }));
        };
        *this.waiting = None;
        match frame {
            None => {
                if let Some(rest) = this.rest.take() {
                    rest.complete(Some(*this.bytes));
                }
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                let cause = blame(&error);
                if let Some(rest) = this.rest.take() {
                    rest.fail(*this.bytes, cause);
                }
                Poll::Ready(Some(Err(CutShort(cause))))
            }
            Some(Ok(frame)) => {
                *this.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                // Whoever sees the end coming does not ask again, and nothing comes after trailers.
                if (frame.is_trailers() || this.body.is_end_stream())
                    && let Some(rest) = this.rest.take()
                {
                    rest.complete(Some(*this.bytes));
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Ready at the deadline. Frames that come do not touch the timer; it finds out when it fires.
fn poll_until(mut timer: Pin<&mut Option<Sleep>>, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
    loop {
        match timer.as_mut().as_pin_mut() {
            None => timer.set(Some(sleep_until(deadline))),
            Some(mut sleep) => {
                ready!(sleep.as_mut().poll(context));
                if sleep.deadline() >= deadline {
                    return Poll::Ready(());
                }
                sleep.reset(deadline);
            }
        }
    }
}

fn blame(error: &hyper::Error) -> Cause {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match io.map(io::Error::kind) {
        Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => Cause::BadUpstreamResponse,
        _ => Cause::ResetAfterHeaders,
    }
}

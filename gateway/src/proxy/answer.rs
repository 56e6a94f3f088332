//! An answer's body on its way to the client.
//!
//! It streams: a frame is read when the client has room for it, and reading it is what drives the connection it comes
//! over. What came, and how it ended, is noted in the exchange; the connection is given back when both bodies were read to
//! their ends, and closed otherwise. A body that ends early ends in an error, so that the client's connection breaks as
//! well instead of ending well.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use portcullis_middleware::body::CutShort;
use portcullis_middleware::{Cause, Exchange};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::connection::stream::Pipe;
use super::connection::{Reply, ReplyBody};
use super::pool::{Errand, Lease};
use super::sharing::Visit;
use super::trailers::{self, Listed};
use super::upload::Upload;
use crate::alarm::Alarm;
use crate::server::blame;

/// What is known about an attempt, noted in its exchange as it becomes known. One that is dropped before it ended was
/// given up, mostly because the client went away.
pub(super) struct Note {
    exchange: Exchange,
    number: u32,
    started: Instant,
    ended: bool,
}

impl Note {
    pub(super) fn new(exchange: &Exchange, number: u32, started: Instant) -> Self {
        Self { exchange: exchange.clone(), number, started, ended: false }
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// There is a connection. Returns since when.
    pub(super) fn connected(&self, reused: bool) -> Instant {
        // One that was open already takes no time worth a look at the clock.
        let now = if reused { self.started } else { Instant::now() };
        let took = now - self.started;
        self.exchange.note_attempt(self.number, |attempt| (attempt.reused, attempt.connect) = (reused, Some(took)));
        now
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
    pub(super) fn discarded(self) -> Instant {
        self.end(None, None)
    }

    /// A tunnel that brought so many bytes is closed.
    pub(super) fn tunnelled(self, bytes: u64, cause: Option<Cause>) {
        self.end(Some(bytes), cause);
    }

    fn end(mut self, bytes: Option<u64>, cause: Option<Cause>) -> Instant {
        self.write_end(bytes, cause)
    }

    fn write_end(&mut self, bytes: Option<u64>, cause: Option<Cause>) -> Instant {
        self.ended = true;
        let now = Instant::now();
        let took = now - self.started;
        self.exchange.note_attempt(self.number, |attempt| {
            (attempt.end, attempt.cause) = (Some(took), cause);
            attempt.bytes = bytes.or(attempt.bytes);
        });
        now
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if !self.ended {
            self.write_end(None, Some(blame::why().0));
        }
    }
}

/// What an answer's body still holds on to.
struct Rest {
    note: Note,
    carrier: Carrier,
    upload: Upload,
}

/// Who drives the connection, and sends what is left of the request.
///
/// A client may not read any of an answer before it has sent all of its request: an answer that nobody reads must not
/// keep the request from going on. So where the request is not over when the answer begins, a task sees to it.
pub(super) enum Carrier {
    /// Whoever reads the answer.
    Reader(Lease),
    /// A task of its own.
    Task(Errand, Alarm),
    /// The shared connection's own task drives it.
    Stream(Stream),
}

/// A stream whose answer has begun. Dropping it resets what is not over.
pub(super) struct Stream {
    /// The rest of the request, until a task sends it.
    pipe: Option<Pipe>,
    _sending: Option<AbortOnDropHandle<()>>,
    alarm: Alarm,
    _visit: Visit,
}

impl Stream {
    pub(super) fn new((pipe, alarm): (Option<Pipe>, Alarm), visit: Visit) -> Self {
        Self { pipe, _sending: None, alarm, _visit: visit }
    }

    fn see_to_the_rest(mut self) -> Self {
        self._sending = self.pipe.take().map(|mut pipe| {
            AbortOnDropHandle::new(tokio::spawn(async move {
                // Whatever stops it ends the answer too, or is of no concern to it.
                let _ = poll_fn(|context| pipe.poll(context)).await;
            }))
        });
        self
    }
}

impl Carrier {
    /// Has a task do what the reader of the answer cannot be relied upon to do.
    fn see_to_the_rest(self, upload: &Upload) -> Self {
        match self {
            Carrier::Reader(lease) if !upload.is_over() => Carrier::Task(lease.hand_over(), Alarm::default()),
            Carrier::Stream(stream) => Carrier::Stream(stream.see_to_the_rest()),
            as_it_is => as_it_is,
        }
    }

    fn poll_frame(
        &mut self,
        body: &mut ReplyBody,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        match self {
            Carrier::Reader(lease) => lease.connection().poll_frame(body, context),
            _ => body.poll_frame(context),
        }
    }

    fn poll_alarm(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Carrier::Reader(lease) => lease.connection().poll_alarm(Some(deadline), context),
            Carrier::Task(_, alarm) => alarm.poll_until(Some(deadline), context),
            Carrier::Stream(stream) => stream.alarm.poll_until(Some(deadline), context),
        }
    }
}

impl Rest {
    /// The answer was read to its end.
    fn complete(self, bytes: Option<u64>) {
        let now = self.note.end(bytes, None);
        // An answer may be complete before the request is. Nobody will read the rest of that.
        if self.upload.is_over() {
            match self.carrier {
                Carrier::Reader(lease) => lease.release(now),
                Carrier::Task(errand, _) => errand.complete(),
                // The connection goes on as it is. What was not sent is reset.
                Carrier::Stream(_) => {}
            }
        }
    }

    fn fail(self, bytes: u64, cause: Cause) {
        self.note.end(Some(bytes), Some(cause));
    }
}

/// Makes the answer that goes to the client out of what an instance answered.
pub(super) fn stream(
    response: Reply,
    carrier: Carrier,
    note: Note,
    upload: Upload,
    idle: Option<Duration>,
) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if body.is_end_stream() {
        Rest { note, carrier, upload }.complete(None);
        return Response::from_parts(head, Body::empty());
    }
    let rest = Some(Rest { note, carrier: carrier.see_to_the_rest(&upload), upload });
    let listed = head.extensions.remove::<Listed>();
    Response::from_parts(head, Body::new(Answer { body, rest, bytes: 0, idle, waiting: None, listed }))
}

struct Answer {
    body: ReplyBody,
    /// Until the end was seen.
    rest: Option<Rest>,
    bytes: u64,
    idle: Option<Duration>,
    /// Since when we wait for the instance. A client that does not read is no fault of the instance's.
    waiting: Option<Instant>,
    /// What of its trailers ends here.
    listed: Option<Listed>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let this = self.get_mut();
        let Some(rest) = &mut this.rest else { return Poll::Ready(None) };
        let Poll::Ready(frame) = rest.carrier.poll_frame(&mut this.body, context) else {
            let Some(idle) = this.idle else { return Poll::Pending };
            let mut since = *this.waiting.get_or_insert_with(Instant::now);
            loop {
                ready!(rest.carrier.poll_alarm(since + idle, context));
                // An answer may be silent for as long as the request goes on.
                match rest.upload.progress() {
                    Some(upload) if upload.moved > since => since = upload.moved,
                    _ => return Poll::Ready(Some(Err(this.fail(Cause::IdleTimeout)))),
                }
            }
        };
        this.waiting = None;
        match frame {
            None => {
                this.complete();
                Poll::Ready(None)
            }
            Some(Err(cause)) => {
                let cause = rest.upload.fault().map_or(cause, |(cause, _)| cause);
                Poll::Ready(Some(Err(this.fail(cause))))
            }
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    trailers::clean(trailers, this.listed.as_ref());
                }
                this.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                // Whoever sees the end coming does not ask again, and nothing comes after trailers.
                if frame.is_trailers() || this.body.is_end_stream() {
                    this.complete();
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

impl Answer {
    fn complete(&mut self) {
        if let Some(rest) = self.rest.take() {
            rest.complete(Some(self.bytes));
        }
    }

    fn fail(&mut self, cause: Cause) -> CutShort {
        if let Some(rest) = self.rest.take() {
            rest.fail(self.bytes, cause);
        }
        CutShort(cause)
    }
}

//! One request, watched to the end of its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode, Version};
use http_body::{Frame, SizeHint};
use portcullis_middleware::body::{CutShort, is_bodiless};
use portcullis_middleware::rejection::grpc_trailers;
use portcullis_middleware::{Cause, Exchange, Rejection, Request, Response};

use super::line;
use super::numbers::Shard;
use crate::server::{AnswerBody, blame};

/// A request being watched.
///
/// [`until_the_end`](Watch::until_the_end) takes its answer. A watch that is dropped before that saw the client leave
/// while it still waited, which is a 499, or something else end it (`server/blame.rs`).
#[must_use = "dropping it says that the client went away"]
pub struct Watch {
    shard: Arc<Shard>,
    exchange: Exchange,
    protocol: Version,
    over: bool,
}

/// How a request ended.
pub(super) struct End<'a> {
    pub(super) protocol: Version,
    pub(super) status: StatusCode,
    /// What a call of gRPC ended with.
    pub(super) grpc_status: Option<u32>,
    pub(super) cause: Option<Cause>,
    pub(super) note: Option<&'a str>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) took: Duration,
}

impl Watch {
    pub(super) fn begin(shard: Arc<Shard>, exchange: &Exchange, request: &mut Request) -> Self {
        shard.enter();
        if !request.body().is_end_stream() {
            let body = std::mem::take(request.body_mut());
            *request.body_mut() = Body::new(Counted { body, exchange: exchange.clone() });
        }
        Self { shard, exchange: exchange.clone(), protocol: request.version(), over: false }
    }

    /// Watches the answer until it is over.
    ///
    /// The body it gives back is not boxed, so that remembering an answer allocates nothing.
    pub fn until_the_end(self, response: Response) -> http::Response<Watched> {
        if self.protocol == Version::HTTP_2 && blame::is_over() {
            // What was still on its way ends first, so that its end is remembered too.
            let response = response.map(|_| Watched { body: Body::empty(), answer: None });
            drop(self);
            return response;
        }
        let (head, body) = response.into_parts();
        let rejection = head.extensions.get::<Rejection>();
        let answer = Answer {
            status: head.status,
            grpc_status: if self.exchange.is_grpc() { grpc_status(&head.headers) } else { None },
            cause: rejection.map(Rejection::cause),
            note: rejection.and_then(Rejection::noted).map(Box::from),
            length: head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()),
            bytes: 0,
            whole: false,
            watch: Some(self),
        };
        // Nobody reads these bodies, so nobody would come to their end.
        if answer.is_bodiless() || body.is_end_stream() || answer.is_for_nobody() {
            answer.end(None);
            return http::Response::from_parts(head, Watched { body, answer: None });
        }
        http::Response::from_parts(head, Watched { body, answer: Some(answer) })
    }

    fn end(&mut self, answer: Ended<'_>) {
        self.over = true;
        let Ended { status, grpc_status, cause, note, bytes_out } = answer;
        let end = End {
            protocol: self.protocol,
            status,
            grpc_status,
            cause,
            note,
            bytes_in: self.exchange.received(),
            bytes_out,
            took: self.exchange.started().elapsed(),
        };
        self.exchange.with_attempts(|attempts| {
            self.shard.leave(&self.exchange, attempts, &end);
            if let Some(log) = &*self.shard.sink().log.load() {
                log.push(|out| line::write(out, &self.exchange, attempts, &end));
            }
        });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.over {
            let (cause, note) = blame::why();
            self.end(Ended { status: cause.status(), grpc_status: None, cause: Some(cause), note, bytes_out: 0 });
        }
    }
}

/// How an answer ended.
struct Ended<'a> {
    status: StatusCode,
    grpc_status: Option<u32>,
    cause: Option<Cause>,
    note: Option<&'a str>,
    bytes_out: u64,
}

/// What a call ended with, as its headers or trailers say.
fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// An answer on its way to the client.
struct Answer {
    status: StatusCode,
    grpc_status: Option<u32>,
    cause: Option<Cause>,
    note: Option<Box<str>>,
    length: Option<u64>,
    bytes: u64,
    /// All of it was handed over.
    whole: bool,
    watch: Option<Watch>,
}

impl Answer {
    fn is_bodiless(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| is_bodiless(watch.exchange.method(), self.status))
    }

    /// Whether the client is gone whom it is for. Its status is for the log.
    fn is_for_nobody(&self) -> bool {
        self.cause == Some(Cause::ClientClosed) && self.status == Cause::ClientClosed.status()
    }

    fn end(mut self, broken: Option<Cause>) {
        self.write_end(broken);
    }

    fn write_end(&mut self, broken: Option<Cause>) {
        if let Some(mut watch) = self.watch.take() {
            let bytes_out = match self.status {
                StatusCode::SWITCHING_PROTOCOLS => watch.exchange.sent(),
                _ => self.bytes,
            };
            watch.end(Ended {
                status: self.status,
                grpc_status: self.grpc_status,
                cause: self.cause.or(broken),
                note: self.note.as_deref(),
                bytes_out,
            });
        }
    }
}

impl Answer {
    /// Counts what goes to the client.
    fn pass(&mut self, frame: &Frame<Bytes>) {
        match frame.data_ref() {
            Some(data) => self.bytes += data.len() as u64,
            None => self.pass_trailers(frame),
        }
    }

    #[cold]
    fn pass_trailers(&mut self, frame: &Frame<Bytes>) {
        if let (Some(trailers), Some(watch)) = (frame.trailers_ref(), &self.watch)
            && watch.exchange.is_grpc()
        {
            self.grpc_status = grpc_status(trailers);
        }
    }

    /// All of it was handed over. Whether it is over then is another matter: over HTTP/2 the last piece is kept, and the
    /// body with it, until the client has room for it.
    fn is_over(&mut self) -> bool {
        self.whole = true;
        self.watch.as_ref().is_none_or(|watch| watch.protocol != Version::HTTP_2)
    }

    /// It is cut short. A call of gRPC ends in words all the same: its client would take a broken stream for a fault of
    /// its own, or for one that nobody should try again.
    fn break_off(mut self, cause: Cause) -> Option<Frame<Bytes>> {
        let watch = self.watch.as_ref()?;
        // Over HTTP/1.1 trailers may not reach the client, and then it would be told nothing.
        let trailers = (watch.exchange.is_grpc() && watch.protocol == Version::HTTP_2).then(|| grpc_trailers(cause));
        self.grpc_status = trailers.as_ref().and_then(grpc_status);
        self.end(Some(cause));
        trailers.map(Frame::trailers)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // A connection that has written as much as was announced does not ask for more.
        let complete = self.whole || self.length.is_some_and(|length| self.bytes >= length);
        self.write_end(if complete { None } else { Some(Cause::ClientClosed) });
    }
}

/// The body of an answer, watched to its end.
pub struct Watched {
    body: Body,
    answer: Option<Answer>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let (Some(Ok(frame)), Some(answer)) = (&frame, &mut self.answer) {
            answer.pass(frame);
        }
        let over = match &frame {
            None => true,
            // Who sees the end coming does not ask again, and nothing comes after trailers.
            Some(Ok(frame)) => frame.is_trailers() || self.body.is_end_stream(),
            Some(Err(error)) => {
                let cause = CutShort::cause_of(error).unwrap_or(Cause::Internal);
                let trailers = self.answer.take().and_then(|answer| answer.break_off(cause));
                return Poll::Ready(trailers.map(Ok).or(frame));
            }
        };
        if over && let Some(answer) = self.answer.take_if(Answer::is_over) {
            answer.end(None);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl AnswerBody for Watched {
    fn break_off(mut self: Pin<&mut Self>, cause: Cause, unsent: u64) {
        if let Some(mut answer) = self.answer.take() {
            answer.bytes = answer.bytes.saturating_sub(unsent);
            let whole = answer.whole && unsent == 0;
            answer.end((!whole).then_some(cause));
        }
    }
}

/// A request's body, counted.
struct Counted {
    body: Body,
    exchange: Exchange,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            self.exchange.note_received(data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! A request's body on its way to whoever reads it: its clock, and what becomes of a rest that nobody reads.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::EXPECT;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use portcullis_middleware::Request;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tower::BoxError;

use super::phase::Phase;
use crate::alarm::Alarm;

/// A body that fails when it stands still for longer than `idle`.
pub(super) fn timed<B>(body: B, idle: Option<Duration>) -> Body
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    // Most requests have none, and nothing needs to be allocated for it.
    if body.is_end_stream() { Body::empty() } else { Body::new(Timed::new(body, idle)) }
}

/// The same over HTTP/1.1, where the next request stands behind it: what nobody reads of it must be got out of the way.
pub(super) fn before_the_next(request: http::Request<Incoming>, idle: Option<Duration>, phase: &Phase) -> Request {
    let (head, body) = request.into_parts();
    if body.is_end_stream() {
        phase.unread(0);
        return Request::from_parts(head, Body::empty());
    }
    // A client that asks whether to send it may never do so.
    phase.unread(if head.headers.contains_key(EXPECT) { u64::MAX } else { left(&body) });
    let body = Heard { body: Some(Timed::new(body, idle)), phase: phase.clone() };
    Request::from_parts(head, Body::new(body))
}

/// How much of a body is to come, in bytes.
fn left(body: &impl HttpBody) -> u64 {
    body.size_hint().exact().unwrap_or(u64::MAX)
}

struct Timed<B> {
    body: B,
    idle: Option<Duration>,
    still_since: Option<Instant>,
    alarm: Alarm,
}

impl<B> Timed<B> {
    fn new(body: B, idle: Option<Duration>) -> Self {
        Self { body, idle, still_since: None, alarm: Alarm::default() }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Timed<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.still_since = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new)));
        }
        let Some(idle) = this.idle else { return Poll::Pending };
        let since = *this.still_since.get_or_insert_with(Instant::now);
        ready!(this.alarm.poll_until(since.checked_add(idle), context));
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

/// A body that its connection knows the rest of.
struct Heard {
    /// Gone after its end, and after a fault.
    body: Option<Timed<Incoming>>,
    phase: Phase,
}

impl HttpBody for Heard {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        let is_last = !matches!(&frame, Some(Ok(frame)) if frame.is_data());
        this.phase.unread(match &frame {
            Some(Err(_)) => u64::MAX,
            Some(Ok(_)) if !is_last => left(body),
            _ => 0,
        });
        if is_last {
            this.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Heard {
    /// Nobody reads on. A short rest is read for nothing, since a new connection would cost both sides more.
    fn drop(&mut self) {
        let Some(mut body) = self.body.take() else { return };
        if left(&body) == 0 || self.phase.ends_unread() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
        }
    }
}

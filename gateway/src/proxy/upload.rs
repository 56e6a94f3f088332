//! The body of a request on its way to an instance, and if need be to the next one.
//!
//! The body streams: a frame is read from the client when the connection has room for it. While another attempt may
//! still need them, the first 64 KiB are kept; a body that outgrows that can be sent only once. A body whose client
//! waits to be told to go on (`Expect: 100-continue`) is held until an instance says so.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::LengthLimitError;
use portcullis_middleware::Cause;
use portcullis_middleware::body::Kept;
use tokio::time::Instant;
use tower::BoxError;

use super::trailers::{self, Listed};
use crate::server::strict::Refusal;

/// How much of a body is kept for another attempt.
const KEEP: usize = 64 * 1024;

/// A request's body, for all attempts. Clones share it.
#[derive(Clone)]
pub(super) struct Upload(Option<Arc<Shared>>);

struct Shared {
    source: Mutex<Source>,
    size: SizeHint,
}

/// How far a body has come.
pub(super) struct Progress {
    /// All of it was read.
    pub(super) over: bool,
    /// It waits for [`Upload::go_on`].
    pub(super) held: bool,
    /// It is the client that everybody waits for.
    pub(super) starved: bool,
    /// When a part of it last moved.
    pub(super) moved: Instant,
}

impl Progress {
    /// That of a request without a body.
    pub(super) fn bodiless(sent: Instant) -> Self {
        Self { over: true, held: false, starved: false, moved: sent }
    }
}

struct Source {
    body: Body,
    /// Which sending reads the body; an older one that still lives must not take frames away from it.
    sending: u32,
    /// What was read, for the next sending.
    kept: Kept,
    /// How much of that the current sending had, in bytes.
    replayed: usize,
    /// Whether more is to be kept.
    keeping: bool,
    /// Whether what is kept is everything that was read.
    whole: bool,
    trailers: Option<HeaderMap>,
    /// What of them ends here.
    listed: Option<Listed>,
    /// Nothing is sent before somebody says so; then whoever waits is woken.
    held: bool,
    waiting: Option<Waker>,
    /// The connection has room, and the client sends nothing.
    starved: bool,
    ended: bool,
    fault: Option<(Cause, Option<&'static str>)>,
    moved: Instant,
}

impl Upload {
    /// Takes a request's body. With `keep`, its first part is kept for another attempt; if `held`, nothing is sent
    /// before [`Upload::go_on`].
    pub(super) fn new(body: Body, keep: bool, held: bool) -> Self {
        if body.is_end_stream() {
            return Self(None);
        }
        let size = body.size_hint();
        let source = Source {
            body,
            sending: 0,
            kept: Kept::default(),
            replayed: 0,
            keeping: keep,
            whole: true,
            trailers: None,
            listed: None,
            held,
            waiting: None,
            starved: false,
            ended: false,
            fault: None,
            moved: Instant::now(),
        };
        Self(Some(Arc::new(Shared { source: Mutex::new(source), size })))
    }

    /// Leaves these out of the trailers.
    pub(super) fn leave_out(&self, listed: Listed) {
        if let Some(shared) = &self.0 {
            shared.source().listed = Some(listed);
        }
    }

    /// Whether there is no body at all.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The body from its begin, for one attempt. Earlier sendings get nothing more.
    pub(super) fn send(&self) -> Sending {
        let Some(shared) = &self.0 else { return Sending(None) };
        let mut source = shared.source();
        source.sending += 1;
        source.replayed = 0;
        source.moved = Instant::now();
        Sending(Some(Part { shared: shared.clone(), number: source.sending, trailed: false }))
    }

    /// Whether the body can be sent from its begin.
    pub(super) fn can_be_sent(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| {
            let source = shared.source();
            source.fault.is_none() && source.whole
        })
    }

    /// Says that no other attempt will follow.
    pub(super) fn settle(&self) {
        if let Some(shared) = &self.0 {
            let mut source = shared.source();
            source.keeping = false;
            source.forget();
        }
    }

    /// Lets a body go that was held.
    pub(super) fn go_on(&self) {
        let Some(shared) = &self.0 else { return };
        let waiting = {
            let mut source = shared.source();
            source.held = false;
            source.moved = Instant::now();
            source.waiting.take()
        };
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Whether all of it was read.
    pub(super) fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| shared.source().ended)
    }

    /// How far it has come; `None` if there is no body at all.
    pub(super) fn progress(&self) -> Option<Progress> {
        let source = self.0.as_ref()?.source();
        Some(Progress { over: source.ended, held: source.held, starved: source.starved, moved: source.moved })
    }

    /// What the client did wrong with it, if anything, and more about that, if there is more to say.
    pub(super) fn fault(&self) -> Option<(Cause, Option<&'static str>)> {
        self.0.as_ref().and_then(|shared| shared.source().fault)
    }
}

/// A body being sent by one attempt.
pub(super) struct Sending(Option<Part>);

struct Part {
    shared: Arc<Shared>,
    number: u32,
    trailed: bool,
}

impl Sending {
    /// Whether there is no body at all.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The body that this is a sending of.
    pub(super) fn upload(&self) -> Upload {
        Upload(self.0.as_ref().map(|part| part.shared.clone()))
    }
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(part) = &mut self.get_mut().0 else { return Poll::Ready(None) };
        let mut source = part.shared.source();
        if source.sending != part.number {
            return Poll::Ready(Some(Err("another attempt took over".into())));
        }
        if source.held {
            source.waiting = Some(context.waker().clone());
            return Poll::Pending;
        }
        if let Some(data) = source.replay() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if source.ended {
            let trailers = if part.trailed { None } else { source.trailers.clone() };
            part.trailed = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = source.read(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            part.trailed |= frame.is_trailers();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let Some(part) = &self.0 else { return true };
        let source = part.shared.source();
        source.replayed >= source.kept.len() && source.ended && (part.trailed || source.trailers.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |part| part.shared.size)
    }
}

impl Source {
    /// What an earlier sending read already and this one has not had.
    fn replay(&mut self) -> Option<Bytes> {
        if self.replayed == self.kept.len() {
            return None;
        }
        let data = self.kept.share().slice(self.replayed..);
        self.replayed = self.kept.len();
        self.forget();
        Some(data)
    }

    fn read(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.starved = polled.is_pending();
        let frame = ready!(polled);
        self.moved = Instant::now();
        match frame {
            None => {
                self.end();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.fault = Some(blame(&error));
                self.end();
                Poll::Ready(Some(Err(error.into())))
            }
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                    if self.body.is_end_stream() {
                        self.end();
                    }
                } else if let Some(trailers) = frame.trailers_mut() {
                    trailers::clean(trailers, self.listed.as_ref());
                    if self.keeping {
                        self.trailers = Some(trailers.clone());
                    }
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn keep(&mut self, data: &Bytes) {
        if self.keeping && data.len() <= KEEP - self.kept.len() {
            self.kept.push(data);
            self.replayed = self.kept.len();
            return;
        }
        (self.keeping, self.whole) = (false, false);
        self.forget();
    }

    /// Lets go of what was kept, once nobody needs it.
    fn forget(&mut self) {
        if !self.keeping && self.replayed == self.kept.len() && self.replayed > 0 {
            self.kept = Kept::default();
            self.replayed = 0;
            self.whole = false;
        }
    }

    fn end(&mut self) {
        self.ended = true;
        // What reads the client's connection is let go of at once.
        self.body = Body::empty();
    }
}

/// Whose fault it is that a request's body could not be read: never the instance's.
fn blame(error: &(dyn Error + 'static)) -> (Cause, Option<&'static str>) {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<LengthLimitError>() {
            return (Cause::BodyTooLarge, None);
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            use io::ErrorKind::{InvalidData, InvalidInput, TimedOut, UnexpectedEof};
            let refusal = error.get_ref().and_then(|error| error.downcast_ref::<Refusal>());
            let told = refusal.map(|refusal| refusal.fault.sentence());
            return match error.kind() {
                InvalidData | InvalidInput => (Cause::BadRequest, told),
                TimedOut => (Cause::IdleTimeout, told),
                UnexpectedEof => (Cause::ClientClosed, Some("the connection ended in the middle of the body")),
                _ => (Cause::ClientClosed, told),
            };
        }
        next = error.source();
    }
    (Cause::ClientClosed, None)
}

impl Shared {
    fn source(&self) -> MutexGuard<'_, Source> {
        // A body that panics is gone with its connection; what is left of it is still true.
        self.source.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::Waker;

    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn body(parts: &[&'static str]) -> Body {
        let frames: Vec<_> =
            parts.iter().map(|part| Ok::<_, Infallible>(Frame::data(Bytes::from_static(part.as_bytes())))).collect();
        Body::new(StreamBody::new(futures_util::stream::iter(frames)))
    }

    async fn next(sending: &mut Sending) -> Bytes {
        sending.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test]
    async fn the_next_sending_begins_at_the_begin_and_the_last_one_gets_nothing_more() {
        let upload = Upload::new(body(&["one", "two", "three"]), true, false);
        let mut first = upload.send();
        assert_eq!((next(&mut first).await, next(&mut first).await), ("one".into(), "two".into()));
        assert!(upload.can_be_sent());
        let second = upload.send();
        assert!(first.frame().await.unwrap().is_err());
        assert_eq!(second.collect().await.unwrap().to_bytes(), "onetwothree");
        assert!(upload.is_over() && upload.can_be_sent());
        assert_eq!(upload.send().collect().await.unwrap().to_bytes(), "onetwothree");
    }

    #[tokio::test]
    async fn what_is_being_sent_again_is_sent_whole_even_if_no_other_sending_will_follow() {
        let upload = Upload::new(body(&["one", "two", "three"]), true, false);
        let mut first = upload.send();
        assert_eq!((next(&mut first).await, next(&mut first).await), ("one".into(), "two".into()));
        let mut second = upload.send();
        // The answer began; the request goes on.
        upload.settle();
        assert_eq!(next(&mut second).await, "onetwo");
        assert_eq!(second.collect().await.unwrap().to_bytes(), "three");
        assert!(!upload.can_be_sent());
    }

    // A client that sends its body by single bytes made the gateway hold some forty times as much.
    #[tokio::test]
    async fn frames_of_one_byte_do_not_keep_the_buffers_alive_that_they_were_read_into() {
        let buffer = Bytes::from(vec![b'x'; 1000]);
        let frames: Vec<_> = (0..1000).map(|at| Ok::<_, Infallible>(Frame::data(buffer.slice(at..at + 1)))).collect();
        let upload = Upload::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))), true, false);
        let mut first = upload.send();
        for _ in 0..1000 {
            next(&mut first).await;
        }
        assert!(buffer.is_unique());
        assert_eq!(upload.send().collect().await.unwrap().to_bytes(), buffer);
    }

    #[tokio::test]
    async fn a_body_that_is_not_kept_can_be_sent_again_until_it_was_read() {
        let upload = Upload::new(body(&["one", "two"]), false, false);
        drop(upload.send());
        assert!(upload.can_be_sent());
        assert_eq!(next(&mut upload.send()).await, "one");
        assert!(!upload.can_be_sent());
    }

    #[tokio::test]
    async fn a_held_body_waits() {
        let upload = Upload::new(body(&["one"]), false, true);
        let mut sending = upload.send();
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut sending).poll_frame(&mut context).is_pending());
        upload.go_on();
        assert_eq!(next(&mut sending).await, "one");
    }
}

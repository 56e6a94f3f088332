//! The body of a request on its way to an instance, and if need be to the next one.
//!
//! The body streams: a frame is read from the client when the connection has room for it. While another attempt may
//! still need them, the first 64 KiB are kept; a body that outgrows that can be sent only once.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::LengthLimitError;
use portcullis_middleware::Cause;
use tokio::sync::Notify;
use tokio::time::Instant;
use tower::BoxError;

/// How much of a body is kept for another attempt.
const KEEP: usize = 64 * 1024;

/// A request's body, for all attempts. Clones share it.
#[derive(Clone)]
pub(super) struct Upload(Option<Arc<Shared>>);

struct Shared {
    source: Mutex<Source>,
    size: SizeHint,
    ended: Notify,
}

struct Source {
    body: Body,
    /// Which sending reads the body; an older one that still lives must not take frames away from it.
    sending: u32,
    kept: Kept,
    trailers: Option<HeaderMap>,
    touched: bool,
    ended: bool,
    fault: Option<Cause>,
    moved: Instant,
}

enum Kept {
    /// Everything that was read.
    All(Vec<Bytes>, usize),
    /// Too much was read, or nobody will ask.
    Nothing,
}

impl Upload {
    /// Takes a request's body. With `keep`, its first part is kept for another attempt.
    pub(super) fn new(body: Body, keep: bool) -> Self {
        if body.is_end_stream() {
            return Self(None);
        }
        let size = body.size_hint();
        let source = Source {
            body,
            sending: 0,
            kept: if keep { Kept::All(Vec::new(), 0) } else { Kept::Nothing },
            trailers: None,
            touched: false,
            ended: false,
            fault: None,
            moved: Instant::now(),
        };
        Self(Some(Arc::new(Shared { source: Mutex::new(source), size, ended: Notify::new() })))
    }

    /// The body from its begin, for one attempt. Earlier sendings get nothing more.
    pub(super) fn send(&self) -> Sending {
        let Some(shared) = &self.0 else { return Sending(None) };
        let mut source = shared.source();
        source.sending += 1;
        source.moved = Instant::now();
        Sending(Some(Part { shared: shared.clone(), number: source.sending, replayed: 0, trailed: false }))
    }

    /// Whether the body can be sent from its begin.
    pub(super) fn can_be_sent(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| {
            let source = shared.source();
            source.fault.is_none() && (!source.touched || matches!(source.kept, Kept::All(..)))
        })
    }

    /// Says that no other attempt will follow.
    pub(super) fn settle(&self) {
        if let Some(shared) = &self.0 {
            shared.source().kept = Kept::Nothing;
        }
    }

    /// Whether all of it was read.
    pub(super) fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| shared.source().ended)
    }

    /// Waits until all of it was read.
    pub(super) async fn over(&self) {
        if let Some(shared) = &self.0 {
            let ended = shared.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !self.is_over() {
                ended.await;
            }
        }
    }

    /// When a part of it last moved.
    pub(super) fn moved(&self) -> Option<Instant> {
        self.0.as_ref().map(|shared| shared.source().moved)
    }

    /// What the client did wrong with it, if anything.
    pub(super) fn fault(&self) -> Option<Cause> {
        self.0.as_ref().and_then(|shared| shared.source().fault)
    }
}

/// A body being sent by one attempt.
pub(super) struct Sending(Option<Part>);

struct Part {
    shared: Arc<Shared>,
    number: u32,
    replayed: usize,
    trailed: bool,
}

impl Sending {
    /// Whether there is no body at all.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
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
        if let Kept::All(frames, _) = &source.kept
            && let Some(frame) = frames.get(part.replayed)
        {
            part.replayed += 1;
            return Poll::Ready(Some(Ok(Frame::data(frame.clone()))));
        }
        if source.ended {
            let trailers = if part.trailed { None } else { source.trailers.clone() };
            part.trailed = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = source.read(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            part.replayed += usize::from(frame.is_data());
            part.trailed |= frame.is_trailers();
        }
        if source.ended {
            part.shared.ended.notify_waiters();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let Some(part) = &self.0 else { return true };
        let source = part.shared.source();
        let replayed = match &source.kept {
            Kept::All(frames, _) => part.replayed >= frames.len(),
            Kept::Nothing => true,
        };
        replayed && source.ended && (part.trailed || source.trailers.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |part| part.shared.size)
    }
}

impl Source {
    fn read(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.touched = true;
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame,
        };
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
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                    if self.body.is_end_stream() {
                        self.end();
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    if matches!(self.kept, Kept::All(..)) {
                        self.trailers = Some(trailers.clone());
                    }
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn keep(&mut self, data: &Bytes) {
        if let Kept::All(frames, size) = &mut self.kept {
            *size += data.len();
            if *size <= KEEP { frames.push(data.clone()) } else { self.kept = Kept::Nothing }
        }
    }

    fn end(&mut self) {
        self.ended = true;
        // What reads the client's connection is let go of at once.
        self.body = Body::empty();
    }
}

/// Whose fault it is that a request's body could not be read: never the instance's.
fn blame(error: &(dyn Error + 'static)) -> Cause {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<LengthLimitError>() {
            return Cause::BodyTooLarge;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            use io::ErrorKind::{InvalidData, InvalidInput, TimedOut};
            return match error.kind() {
                InvalidData | InvalidInput => Cause::BadRequest,
                TimedOut => Cause::IdleTimeout,
                _ => Cause::ClientClosed,
            };
        }
        next = error.source();
    }
    Cause::ClientClosed
}

impl Shared {
    fn source(&self) -> MutexGuard<'_, Source> {
        // A body that panics is gone with its connection; what is left of it is still true.
        self.source.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

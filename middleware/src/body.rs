//! Bodies that are watched while they flow.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Sleep;

use crate::{Cause, blame};

/// Why a body ended before its end. Whoever remembers the exchange finds it in the body's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutShort(pub Cause);

impl CutShort {
    /// The cause in a body's error, however deep it was wrapped.
    pub fn cause_of(error: &(dyn std::error::Error + 'static)) -> Option<Cause> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(CutShort(cause)) = error.downcast_ref() {
                return Some(*cause);
            }
            next = error.source();
        }
        None
    }
}

impl fmt::Display for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the body was cut short: {}", self.0)
    }
}

impl std::error::Error for CutShort {}

/// Whether a final answer ends with its head: one to `HEAD`, or one whose status says so (RFC 9110 §6.4.1).
pub fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The same body, cut short with this cause when the time is over.
///
/// The error reaches the client as a broken connection or stream: a body that ends early is never taken for whole.
pub fn cut_at(body: Body, time: Pin<Box<Sleep>>, cause: Cause) -> Body {
    if body.is_end_stream() { body } else { Body::new(CutAt { body, time, cause }) }
}

pin_project! {
    struct CutAt {
        #[pin]
        body: Body,
        time: Pin<Box<Sleep>>,
        cause: Cause,
    }
}

impl HttpBody for CutAt {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut this = self.project();
        // The time first: a body that always has more to give must end as well.
        if this.time.as_mut().poll(context).is_ready() {
            blame::because(*this.cause, || this.body.set(Body::empty()));
            return Poll::Ready(Some(Err(axum::Error::new(CutShort(*this.cause)))));
        }
        this.body.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The first part of a body, kept for later in one piece.
///
/// It is copied: shared frames of one byte would take many times their size, and each keeps the buffer alive that it was
/// read into.
#[derive(Debug, Default)]
pub struct Kept {
    whole: Bytes,
    /// What came since it was last shared.
    more: BytesMut,
}

impl Kept {
    /// How many bytes are kept.
    pub fn len(&self) -> usize {
        self.whole.len() + self.more.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps these as well.
    pub fn push(&mut self, data: &[u8]) {
        self.more.extend_from_slice(data);
    }

    /// All that is kept.
    pub fn share(&mut self) -> Bytes {
        let more = mem::take(&mut self.more);
        if self.whole.is_empty() {
            self.whole = more.freeze();
        } else if !more.is_empty() {
            self.whole = [&self.whole[..], &more].concat().into();
        }
        self.whole.clone()
    }
}

/// How the copying of a body went.
#[derive(Debug, PartialEq, Eq)]
pub enum Copied {
    /// To its end. Trailers are not copied.
    Whole(Bytes),
    /// It is larger than the copy may be.
    TooLarge,
    /// It broke off, or nobody wanted the rest of it.
    Incomplete,
}

/// The same body; what flows through is kept, up to `most` bytes, and given to `done` when it is over.
///
/// Nothing waits for `done`.
pub fn copy(body: Body, most: usize, done: impl FnOnce(Copied) + Send + 'static) -> Body {
    if body.is_end_stream() {
        done(Copied::Whole(Bytes::new()));
        return body;
    }
    let done: Done = Box::new(done);
    Body::new(Copying { body, most, kept: Kept::default(), done: Some(done) })
}

type Done = Box<dyn FnOnce(Copied) + Send>;

struct Copying {
    body: Body,
    most: usize,
    kept: Kept,
    done: Option<Done>,
}

impl Copying {
    fn keep(&mut self, data: &Bytes) {
        if self.done.is_none() {
            return;
        }
        if data.len() > self.most - self.kept.len() {
            self.finish(Copied::TooLarge);
        } else {
            self.kept.push(data);
        }
    }

    fn end(&mut self) {
        let whole = self.kept.share();
        self.finish(Copied::Whole(whole));
    }

    fn finish(&mut self, copied: Copied) {
        self.kept = Kept::default();
        if let Some(done) = self.done.take() {
            done(copied);
        }
    }
}

impl HttpBody for Copying {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                }
                // Who sees the end coming does not ask again.
                if self.body.is_end_stream() {
                    self.end();
                }
            }
            Some(Err(_)) => self.finish(Copied::Incomplete),
            None => self.end(),
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

impl Drop for Copying {
    fn drop(&mut self) {
        self.finish(Copied::Incomplete);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use futures_util::stream;
    use http_body_util::BodyExt;
    use tokio::time::sleep;

    use super::*;

    fn chunks(chunks: &[&'static str]) -> Body {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok::<_, std::io::Error>(*chunk)).collect();
        Body::from_stream(stream::iter(chunks))
    }

    type Result = Arc<Mutex<Option<Copied>>>;

    fn copied(body: Body, most: usize) -> (Body, Result) {
        let result = Result::default();
        let given = result.clone();
        (copy(body, most, move |copied| *given.lock().unwrap() = Some(copied)), result)
    }

    #[tokio::test]
    async fn a_copy_is_whole_or_none() {
        for (parts, most, wanted) in [
            (&["ab", "cd"][..], 4, Copied::Whole("abcd".into())),
            (&["abcd"], 4, Copied::Whole("abcd".into())),
            (&[], 0, Copied::Whole(Bytes::new())),
            (&["ab", "cde"], 4, Copied::TooLarge),
        ] {
            let (body, result) = copied(chunks(parts), most);
            assert_eq!(body.collect().await.unwrap().to_bytes(), parts.concat(), "the original is untouched");
            assert_eq!(result.lock().unwrap().take(), Some(wanted), "{parts:?}");
        }
        let (body, result) = copied(Body::from("known to end"), 100);
        body.collect().await.unwrap();
        assert_eq!(result.lock().unwrap().take(), Some(Copied::Whole("known to end".into())));
        let (_, result) = copied(Body::empty(), 0);
        assert_eq!(result.lock().unwrap().take(), Some(Copied::Whole(Bytes::new())));
    }

    // A client that sends its body by single bytes made the gateway hold some forty times as much.
    #[tokio::test]
    async fn frames_of_one_byte_do_not_keep_the_buffers_alive_that_they_were_read_into() {
        let buffer = Bytes::from(vec![b'x'; 1000]);
        let frames: Vec<_> = (0..1000).map(|at| Ok::<_, std::io::Error>(buffer.slice(at..at + 1))).collect();
        let (mut body, result) = copied(Body::from_stream(stream::iter(frames)), 1000);
        for _ in 0..1000 {
            body.frame().await.expect("a frame").unwrap();
        }
        assert!(buffer.is_unique());
        assert!(body.frame().await.is_none());
        assert_eq!(result.lock().unwrap().take(), Some(Copied::Whole(buffer)));
    }

    #[test]
    fn what_is_kept_can_grow_after_it_was_shared() {
        let mut kept = Kept::default();
        assert_eq!((kept.share(), kept.is_empty()), (Bytes::new(), true));
        for (part, whole) in [("ab", "ab"), ("", "ab"), ("c", "abc"), ("de", "abcde")] {
            kept.push(part.as_bytes());
            assert_eq!((kept.share(), kept.len()), (Bytes::from(whole), whole.len()));
        }
    }

    #[tokio::test]
    async fn what_nobody_reads_to_its_end_is_not_copied() {
        let (mut body, result) = copied(chunks(&["ab", "cd"]), 100);
        body.frame().await.expect("a chunk").unwrap();
        assert_eq!(*result.lock().unwrap(), None);
        drop(body);
        assert_eq!(result.lock().unwrap().take(), Some(Copied::Incomplete));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_cut_with_its_cause_even_if_it_never_waits() {
        let endless = Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>("x")));
        let mut body = cut_at(endless, Box::pin(sleep(Duration::from_secs(1))), Cause::RouteTimeout);
        body.frame().await.expect("a chunk").unwrap();
        tokio::time::advance(Duration::from_secs(2)).await;
        let error = body.frame().await.expect("an end").expect_err("cut");
        assert_eq!(CutShort::cause_of(&error), Some(Cause::RouteTimeout));
    }
}

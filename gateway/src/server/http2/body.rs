//! Bodies over HTTP/2, both ways.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use portcullis_middleware::Cause;
use tower::BoxError;

use super::course::Open;
use super::pace;
use crate::server::AnswerBody;
use crate::server::late::Late;
use crate::server::strict::Fault;
use crate::server::strict::Refusal;
use crate::server::strict::http2::check_trailers;

/// A request's body whose end is an end, and whose faults have a name.
///
/// h2 resets a stream whose body is longer or shorter than it says, and whoever answers it without reading that far hears
/// nothing of it. So what was not read is looked at when it is let go of.
pub(super) struct Checked {
    body: Incoming,
    over: bool,
}

impl Checked {
    pub(super) fn new(body: Incoming) -> Self {
        Self { over: body.is_end_stream(), body }
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        let mut unheard = Context::from_waker(Waker::noop());
        // There is no more of it than the client's window has room for.
        while !self.over && Pin::new(&mut *self).poll_frame(&mut unheard).is_ready() {}
    }
}

impl HttpBody for Checked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { body, over } = self.get_mut();
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        *over = !matches!(frame, Some(Ok(_)));
        Poll::Ready(match frame {
            Some(Ok(frame)) => match frame.trailers_ref().map(check_trailers) {
                Some(Err(refusal)) => Some(Err(refused(refusal))),
                _ => Some(Ok(frame)),
            },
            Some(Err(error)) => Some(Err(explain(error))),
            // RFC 9113 §8.1: a client that resets its stream has not ended it. hyper takes a reset with NO_ERROR for the
            // end of the body, and an instance would take half a request for a whole one.
            None if !body.is_end_stream() => {
                Some(Err(io::Error::new(io::ErrorKind::ConnectionReset, "the client gave its request up").into()))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn refused(refusal: Refusal) -> BoxError {
    io::Error::new(io::ErrorKind::InvalidData, refusal).into()
}

/// What the protocol's own rules have against a body, and what else can go wrong with it.
fn explain(error: hyper::Error) -> BoxError {
    let found = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
    match found {
        Some(error) if error.is_library() && error.reason() == Some(h2::Reason::PROTOCOL_ERROR) => {
            pace::malformed(Fault::BodyLength);
            refused(Fault::BodyLength.into())
        }
        _ => error.into(),
    }
}

/// How much of an answer is handed over at once. A client that takes this much within the time that a body may stand
/// still is slow, and no more than that; and nobody has more than this ahead of others who share the connection.
const PIECE: usize = 16 * 1024;

/// A piece of an answer. hyper keeps it until the client has room for it, or lets go of it when the client resets the stream.
#[derive(Debug)]
pub(super) struct Piece(Bytes);

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.0.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.0.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.0.advance(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            pace::lost();
        }
    }
}

pin_project! {
    /// The body of an answer.
    pub(super) struct Outgoing<B: AnswerBody> {
        #[pin]
        body: B,
        // How much was handed over that the client has no room for yet.
        offered: usize,
        rest: Bytes,
        late: Late<B::Error>,
        bodiless: bool,
        open: Open,
    }

    impl<B: AnswerBody> PinnedDrop for Outgoing<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let unsent = *this.offered + this.rest.len();
            // hyper does not ask for more once it has sent the last piece.
            let is_sent = this.rest.is_empty() && this.body.is_end_stream() && !pace::has_lost();
            let left = (unsent > 0 && !is_sent).then_some(Cause::ClientClosed);
            if let Some(cause) = this.open.broken().or(left) {
                this.body.break_off(cause, unsent as u64);
            }
        }
    }
}

impl<B: AnswerBody> Outgoing<B> {
    /// `bodiless`: the answer has none, whatever this says. Over HTTP/1.1 hyper sees to that by itself.
    pub(super) fn new(body: B, bodiless: bool, open: Open) -> Self {
        Self { body, offered: 0, rest: Bytes::new(), late: Late::default(), bodiless, open }
    }
}

impl<B: AnswerBody> HttpBody for Outgoing<B> {
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        let this = self.project();
        if *this.bodiless {
            return Poll::Ready(None);
        }
        // hyper asks for more once the client has room for what it had before.
        pace::taken();
        *this.offered = 0;
        let mut data = std::mem::take(this.rest);
        if data.is_empty() {
            data = match ready!(this.late.pass(context, |context| this.body.poll_frame(context))) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(other) => return Poll::Ready(Some(Ok(other.map_data(Piece)))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
        }
        if data.len() > PIECE {
            *this.rest = data.split_off(PIECE);
        }
        pace::offered();
        *this.offered = data.len();
        Poll::Ready(Some(Ok(Frame::data(Piece(data)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bodiless || self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt;

    use super::*;
    use crate::server::Manners;
    use crate::server::http2::course::Course;

    #[tokio::test]
    async fn a_long_answer_is_handed_over_in_pieces_and_ends_with_its_last() {
        let open = || Course::begin(&Course::new(&Manners::default()).into());
        let sent: Vec<u8> = (0..PIECE * 2 + 5).map(|at| at as u8).collect();
        let mut body = Outgoing::new(Body::from(sent.clone()), false, open());
        let mut came = Vec::new();
        while !body.is_end_stream() {
            assert_eq!(body.size_hint().exact(), Some((sent.len() - came.len()) as u64));
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(piece.remaining() <= PIECE);
            came.extend_from_slice(piece.chunk());
        }
        assert!(came == sent && body.frame().await.is_none());
        assert!(Outgoing::new(Body::from(sent), true, open()).is_end_stream());
    }
}

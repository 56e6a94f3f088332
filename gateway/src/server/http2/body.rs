//! Bodies over HTTP/2, both ways.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower::BoxError;

use super::course::Open;
use super::pace;
use crate::server::strict::Fault;
use crate::server::strict::Refusal;
use crate::server::strict::http2::check_trailers;

/// A request's body whose end is an end, and whose faults have a name.
pub(super) struct Checked(pub(super) Incoming);

impl HttpBody for Checked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let body = &mut self.get_mut().0;
        Poll::Ready(match ready!(Pin::new(&mut *body).poll_frame(context)) {
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
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
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
            refused(Fault::BodyLength.into())
        }
        _ => error.into(),
    }
}

pin_project! {
    /// The body of an answer.
    pub(super) struct Outgoing<B> {
        #[pin]
        body: B,
        bodiless: bool,
        _open: Open,
    }
}

impl<B> Outgoing<B> {
    /// `bodiless`: the answer has none, whatever this says. Over HTTP/1.1 hyper sees to that by itself.
    pub(super) fn new(body: B, bodiless: bool, open: Open) -> Self {
        Self { body, bodiless, _open: open }
    }
}

impl<B: HttpBody> HttpBody for Outgoing<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        if *this.bodiless {
            return Poll::Ready(None);
        }
        // hyper asks for more once the client has room for what it had before.
        pace::taken();
        let frame = this.body.poll_frame(context);
        if let Poll::Ready(Some(Ok(_))) = &frame {
            pace::offered();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.bodiless || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

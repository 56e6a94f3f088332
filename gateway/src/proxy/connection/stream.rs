//! One exchange over a connection of HTTP/2.
//!
//! An [`InFlight`] is its stream until the head of the answer is there. What comes after that is read from a
//! [`Receiving`], and what is left of the request is sent by a [`Pipe`]. Dropping them at any moment resets the stream
//! (`CANCEL`), and the connection goes on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use portcullis_middleware::Cause;
use portcullis_middleware::body::is_bodiless;
use tokio::time::Instant;

use super::http2::Pulse;
use super::strict::{INTERIM, is_clear};
use super::{Outgoing, Reply, ReplyBody, Unanswered, settle_length};
use crate::alarm::Alarm;
use crate::proxy::failure::{Failure, Fault};
use crate::proxy::headers::end_hop;
use crate::proxy::upload::{Sending, Upload};
use crate::server::strict::http2::is_spaced;

/// The head of a request as HTTP/2 has it, and its body.
pub(super) fn translate(mut request: Outgoing, scheme: Scheme) -> Result<(Request<()>, Sending), Failure> {
    settle_length(&mut request);
    if let Some(length) = request.body().size_hint().exact().filter(|length| *length > 0) {
        request.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    let (mut head, body) = request.into_parts();
    // What a middleware put on it that is of no meaning here, or worse.
    end_hop(&mut head.headers);
    let host = head.headers.remove(HOST);
    let mut target = head.uri.into_parts();
    target.scheme = Some(scheme);
    target.authority = host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    target.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    // A scheme without an authority makes none.
    head.uri = Uri::from_parts(target)
        .map_err(|_| Failure::of_client((Cause::BadRequest, Some("the host cannot be asked for by HTTP/2"))))?;
    head.version = Version::HTTP_2;
    Ok((Request::from_parts(head, ()), body))
}

/// A stream whose answer has not begun.
pub(in crate::proxy) struct InFlight {
    reply: ResponseFuture,
    /// What is left to be sent.
    pipe: Option<Pipe>,
    /// The body, which may wait for a word of the instance.
    upload: Upload,
    method: Method,
    reused: bool,
    interim: u32,
    pulse: Arc<Pulse>,
    alarm: Alarm,
}

impl InFlight {
    pub(super) fn new(
        reply: ResponseFuture,
        stream: SendStream<Bytes>,
        body: Sending,
        method: Method,
        reused: bool,
        pulse: Arc<Pulse>,
    ) -> Self {
        let upload = body.upload();
        let pipe = (!body.is_empty()).then(|| Pipe { stream, body, chunk: None });
        Self { reply, pipe, upload, method, reused, interim: 0, pulse, alarm: Alarm::default() }
    }

    /// Sends what can be sent; ready when the answer begins.
    pub(in crate::proxy) fn poll_reply(&mut self, context: &mut Context<'_>) -> Poll<Result<Reply, Unanswered>> {
        if let Some(pipe) = &mut self.pipe
            && let Poll::Ready(sent) = pipe.poll(context)
        {
            self.pipe = None;
            // Whatever else ended it, the answer says why.
            if let Err(Stopped::Unreadable) = sent {
                return Poll::Ready(Err(Failure::new(Fault::Client, Cause::ClientClosed).into()));
            }
        }
        while let Poll::Ready(Some(interim)) = self.reply.poll_informational(context) {
            match interim {
                Ok(interim) => self.hear(&interim)?,
                Err(error) => return Poll::Ready(Err(self.broken(&error).into())),
            }
        }
        let reply = ready!(Pin::new(&mut self.reply).poll(context));
        self.pulse.beat();
        Poll::Ready(match reply {
            Ok(reply) => self.begin(reply).map_err(Unanswered::from),
            Err(error) => Err(self.broken(&error).into()),
        })
    }

    /// Ready at a deadline.
    pub(in crate::proxy) fn poll_alarm(&mut self, deadline: Option<Instant>, context: &mut Context<'_>) -> Poll<()> {
        self.alarm.poll_until(deadline, context)
    }

    /// What is left to be sent once the answer has begun.
    pub(in crate::proxy) fn rest(self) -> (Option<Pipe>, Alarm) {
        (self.pipe, self.alarm)
    }

    /// An answer before the answer.
    fn hear(&mut self, interim: &Response<()>) -> Result<(), Failure> {
        self.interim += 1;
        // RFC 9113 §8.6: there are no other protocols to switch to.
        if interim.status() == StatusCode::SWITCHING_PROTOCOLS || self.interim > INTERIM {
            return Err(Failure::new(Fault::BadAnswer, Cause::BadUpstreamResponse));
        }
        if interim.status() == StatusCode::CONTINUE {
            self.upload.go_on();
        }
        Ok(())
    }

    fn begin(&self, reply: Response<RecvStream>) -> Result<Reply, Failure> {
        let (mut head, stream) = reply.into_parts();
        head.version = Version::HTTP_11;
        if head.headers.values().any(is_spaced) || !is_clear(head.status, &mut head.headers) {
            return Err(Failure::new(Fault::BadAnswer, Cause::BadUpstreamResponse));
        }
        let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let left = if is_bodiless(&self.method, head.status) { None } else { length };
        let body = Receiving { stream, left, data_over: false, pulse: self.pulse.clone() };
        Ok(Response::from_parts(head, ReplyBody::Http2(body)))
    }

    fn broken(&self, error: &h2::Error) -> Failure {
        tracing::debug!(%error, "an attempt failed");
        let reset = |fault| Failure::new(fault, Cause::ResetBeforeHeaders);
        match error.reason() {
            // RFC 9113 §8.7 and §6.8: the instance did nothing with it.
            Some(Reason::REFUSED_STREAM) if error.is_remote() && error.is_reset() => reset(Fault::Unsent),
            Some(_) if error.is_remote() && error.is_go_away() => reset(Fault::Unsent),
            // It had its say; that is no race with a connection that was about to be closed.
            Some(_) if error.is_remote() => reset(Fault::Reset),
            _ if error.is_io() && self.reused => reset(Fault::Stale),
            _ if error.is_io() => reset(Fault::Reset),
            _ => Failure::new(Fault::BadAnswer, Cause::BadUpstreamResponse),
        }
    }
}

/// The body of a request on its way. It takes a frame from the client when the instance has room for it.
pub(in crate::proxy) struct Pipe {
    stream: SendStream<Bytes>,
    body: Sending,
    /// A chunk that waits for room, and whether it is the last one.
    chunk: Option<(Bytes, bool)>,
}

/// Why a body is not sent to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Stopped {
    /// The client did not deliver it.
    Unreadable,
    /// The instance does not want the rest of it, or the connection is gone.
    Unwanted,
}

impl Pipe {
    /// Ready when all was sent, or nothing more can be.
    pub(in crate::proxy) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        loop {
            if self.stream.poll_reset(context).is_ready() {
                return Poll::Ready(Err(Stopped::Unwanted));
            }
            if let Some((chunk, is_last)) = self.chunk.take() {
                while self.stream.capacity() == 0 {
                    match self.stream.poll_capacity(context) {
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(_) => return Poll::Ready(Err(Stopped::Unwanted)),
                        Poll::Pending => {
                            self.chunk = Some((chunk, is_last));
                            return Poll::Pending;
                        }
                    }
                }
                if self.put(chunk, is_last)? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(self.put(Bytes::new(), true).map(drop)),
                Some(Err(_)) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(Stopped::Unreadable));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        // The least there is: what it waits for is room, and a body that has more of it than it needs
                        // would take it from the other streams.
                        self.stream.reserve_capacity(1);
                        self.chunk = Some((data, self.body.is_end_stream()));
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            let sent = self.stream.send_trailers(trailers);
                            return Poll::Ready(sent.map_err(|_| Stopped::Unwanted));
                        }
                    }
                },
            }
        }
    }

    /// Hands over a chunk; whether it was the last.
    fn put(&mut self, chunk: Bytes, is_last: bool) -> Result<bool, Stopped> {
        self.stream.send_data(chunk, is_last).map(|()| is_last).map_err(|_| Stopped::Unwanted)
    }
}

/// The body of an answer. The instance may send more of it as it is read.
pub(in crate::proxy) struct Receiving {
    stream: RecvStream,
    /// What is to come, if the answer said so.
    left: Option<u64>,
    data_over: bool,
    pulse: Arc<Pulse>,
}

impl Receiving {
    pub(super) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        while !self.data_over {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(data)) => {
                    self.pulse.beat();
                    // Cannot fail: it was received.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    if !data.is_empty() {
                        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                // An end that does not say it is the end is none, whatever reason a reset gives.
                Some(Err(error)) => return Poll::Ready(Some(Err(blame(&error)))),
                None => self.data_over = true,
            }
        }
        match ready!(self.stream.poll_trailers(context)) {
            Ok(trailers) => {
                self.pulse.beat();
                Poll::Ready(trailers.map(|trailers| match trailers.values().any(is_spaced) {
                    false => Ok(Frame::trailers(trailers)),
                    true => Err(Cause::BadUpstreamResponse),
                }))
            }
            Err(error) => Poll::Ready(Some(Err(blame(&error)))),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.left.map_or(SizeHint::default(), SizeHint::with_exact)
    }
}

/// Whose fault it is that an answer breaks off.
fn blame(error: &h2::Error) -> Cause {
    tracing::debug!(%error, "an answer broke off");
    if error.is_remote() || error.is_io() { Cause::ResetAfterHeaders } else { Cause::BadUpstreamResponse }
}

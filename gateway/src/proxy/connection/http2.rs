//! HTTP/2: one connection for many exchanges, driven by a task of its own.
//!
//! A [`Session`] is an instance's connection as requests see it: each [opens](Session::open) a stream on it, and an
//! [`InFlight`] is the stream until the head of its answer is there. What comes after that is read from a [`Receiving`].
//! The request's own task polls its stream, and sends its body; only the frames go through the [`Driver`], which is the
//! task that reads and writes.
//!
//! Dropping a stream at any moment resets it (`CANCEL`), and the connection goes on.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, EXPECT, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use portcullis_middleware::Cause;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::{HEAD, Outgoing, Reply, ReplyBody, Unanswered, settle_length};
use crate::alarm::Alarm;
use crate::proxy::failure::{Failure, Fault};
use crate::proxy::headers::end_hop;
use crate::proxy::pool::Closed;
use crate::proxy::upload::{Sending, Upload};

/// How many streams a connection has before another connection is opened.
pub(in crate::proxy) const STREAMS: usize = 64;

/// How much of one answer may be on its way, or wait here for a client that does not read.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same for all answers of a connection together. So much that streams nobody reads do not hold up the others, as
/// long as there are no more of them than a connection should have.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS as u32;

/// How much of one request waits here for an instance that does not read.
const SEND_BUFFER: usize = 64 * 1024;

/// How many streams that were given up are remembered for a second, so that what still comes for them is overlooked.
const FORGOTTEN: usize = 1024;

/// How many interim answers an instance may give to one request.
const INTERIM: u8 = 32;

/// A socket, or TLS over one.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// How a connection that says nothing is treated while it has streams.
///
/// Servers of gRPC take it amiss to be asked more than once in five minutes while they send nothing, and close the
/// connection. So a silent one is asked soon, and then again seldom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pings {
    /// After how long without a part of an answer it is asked whether it is there.
    pub quiet: Duration,
    /// How long it may take to say so.
    pub patience: Duration,
    /// How long it is not asked again if it goes on saying nothing else.
    pub again: Duration,
}

impl Default for Pings {
    fn default() -> Self {
        Self { quiet: Duration::from_secs(10), patience: Duration::from_secs(10), again: Duration::from_secs(310) }
    }
}

/// A connection that takes streams.
pub(in crate::proxy) struct Session {
    sender: SendRequest<Bytes>,
    pulse: Arc<Pulse>,
    scheme: Scheme,
}

/// What is known about a connection from outside.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Pulse {
    streams: AtomicUsize,
    /// Whether a part of an answer came since somebody looked.
    heard: AtomicBool,
    retired: OnceLock<Closed>,
}

impl Pulse {
    /// How many streams are open.
    pub(in crate::proxy) fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    /// A stream is over. Returns how many are left.
    pub(in crate::proxy) fn leave(&self) -> usize {
        self.streams.fetch_sub(1, Relaxed) - 1
    }

    /// Says why the connection takes no further streams. The first reason stays.
    pub(in crate::proxy) fn retire(&self, reason: Closed) {
        let _ = self.retired.set(reason);
    }
}

impl Session {
    /// Begins to speak HTTP/2. There is a connection as soon as the instance has said what it takes: nothing is sent to
    /// somebody who speaks another protocol, and no more streams than it wants.
    pub(super) async fn begin(stream: Box<dyn Duplex>, scheme: Scheme) -> Result<(Self, Driver), h2::Error> {
        let (sender, mut connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(HEAD as u32)
            .enable_push(false)
            // Clients go away all the time. What an instance had on its way to one is no fault of the instance's, and
            // no reason to close the connection that others use.
            .max_concurrent_reset_streams(FORGOTTEN)
            .max_local_error_reset_streams(None)
            // Until its settings are there it takes none.
            .initial_max_send_streams(0)
            .handshake::<_, Bytes>(stream)
            .await?;
        poll_fn(|context| {
            let ended = Pin::new(&mut connection).poll(context);
            match ended {
                _ if sender.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => Poll::Ready(Err(Reason::NO_ERROR.into())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await?;
        let pulse = Arc::<Pulse>::default();
        Ok((Self { sender, pulse: pulse.clone(), scheme }, Driver { connection: Box::new(connection), pulse }))
    }

    /// What is known about it from outside.
    pub(in crate::proxy) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// How many streams the instance takes at a time.
    pub(in crate::proxy) fn room(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    /// A place for one more stream; `None` if the connection takes none any more.
    pub(in crate::proxy) fn open(&self) -> Option<Opening> {
        let mut sender = self.sender.clone();
        let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Ok(())) = ready else { return None };
        self.pulse.streams.fetch_add(1, Relaxed);
        Some(Opening { sender, pulse: self.pulse.clone(), scheme: self.scheme.clone() })
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("pulse", &self.pulse).finish_non_exhaustive()
    }
}

/// Reads and writes for all streams of a connection.
pub(in crate::proxy) struct Driver {
    connection: Box<h2::client::Connection<Box<dyn Duplex>, Bytes>>,
    pulse: Arc<Pulse>,
}

impl Driver {
    /// What is known about the connection from outside.
    pub(in crate::proxy) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Drives the connection until it is over, and says why that is. It is over when the other end closes it, when
    /// nobody has a [`Session`] or a stream of it any more, or when the instance is silent for too long.
    pub(in crate::proxy) async fn run(mut self, pings: Pings) -> Closed {
        let Some(mut pong) = self.connection.ping_pong() else { return Closed::Broken };
        let mut ticks = interval_at(Instant::now() + pings.quiet, pings.quiet);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                ended = &mut self.connection => return self.reason(ended),
                _ = ticks.tick() => {}
            }
            if self.pulse.heard.swap(false, Relaxed) || self.pulse.streams() == 0 {
                asked = None;
                continue;
            }
            if asked.is_some_and(|asked| asked.elapsed() < pings.again) {
                continue;
            }
            // A late answer to the last one must not be taken for one to this.
            let _ = pong.poll_pong(&mut Context::from_waker(Waker::noop()));
            if pong.send_ping(Ping::opaque()).is_err() {
                continue;
            }
            asked = Some(Instant::now());
            let answer = timeout(pings.patience, poll_fn(|context| pong.poll_pong(context)));
            tokio::select! {
                biased;
                ended = &mut self.connection => return self.reason(ended),
                // One that has much to say may say this last.
                answer = answer => if answer.is_err() && !self.pulse.heard.load(Relaxed) {
                    return Closed::Silent;
                },
            }
        }
    }

    fn reason(&self, ended: Result<(), h2::Error>) -> Closed {
        let retired = self.pulse.retired.get().copied();
        retired.unwrap_or_else(|| match ended {
            Err(error) if error.is_library() => Closed::Unexpected,
            _ => Closed::Peer,
        })
    }
}

/// A place for one stream.
pub(in crate::proxy) struct Opening {
    sender: SendRequest<Bytes>,
    pulse: Arc<Pulse>,
    scheme: Scheme,
}

impl Opening {
    /// What is known about the connection from outside.
    pub(in crate::proxy) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Sends the head of a request. `reused` says whether the connection had been used before.
    pub(in crate::proxy) fn send(mut self, request: Outgoing, reused: bool) -> Result<InFlight, Failure> {
        let method = request.method().clone();
        let (head, body) = translate(request, self.scheme)?;
        let upload = head.headers().contains_key(EXPECT).then(|| body.upload());
        let unsent = Failure::new(Fault::Unsent, Cause::ResetBeforeHeaders);
        let (reply, stream) =
            self.sender.send_request(head, body.is_empty()).map_err(|error| match error.is_library() {
                _ if error.is_go_away() || error.is_io() || error.is_reset() => unsent,
                _ => {
                    tracing::debug!(%error, "a request could not be written as HTTP/2");
                    Failure::new(Fault::Client, Cause::BadRequest)
                }
            })?;
        let pipe = (!body.is_empty()).then(|| Pipe { stream, body, chunk: None });
        Ok(InFlight { reply, pipe, upload, method, reused, interim: 0, pulse: self.pulse, alarm: Alarm::default() })
    }
}

/// The head of a request as HTTP/2 has it, and its body.
fn translate(mut request: Outgoing, scheme: Scheme) -> Result<(Request<()>, Sending), Failure> {
    settle_length(&mut request);
    if let Some(length) = request.body().size_hint().exact().filter(|length| *length > 0) {
        request.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    let (mut head, body) = request.into_parts();
    // What a middleware put on it that is of no meaning here, or worse.
    end_hop(&mut head.headers);
    let host = head.headers.remove(HOST);
    let authority = host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let Some(authority) = authority else {
        return Err(Failure::of_client((Cause::BadRequest, Some("the host cannot be asked for by HTTP/2"))));
    };
    let mut target = head.uri.into_parts();
    (target.scheme, target.authority) = (Some(scheme), Some(authority));
    target.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from_parts(target).unwrap_or_default();
    head.version = Version::HTTP_2;
    Ok((Request::from_parts(head, ()), body))
}

/// A stream whose answer has not begun.
pub(in crate::proxy) struct InFlight {
    reply: ResponseFuture,
    /// What is left to be sent.
    pipe: Option<Pipe>,
    /// The body that waits for a word of the instance.
    upload: Option<Upload>,
    method: Method,
    reused: bool,
    interim: u8,
    pulse: Arc<Pulse>,
    alarm: Alarm,
}

impl InFlight {
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
        self.pulse.heard.store(true, Relaxed);
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
        if let Some(upload) = self.upload.take_if(|_| interim.status() == StatusCode::CONTINUE) {
            upload.go_on();
        }
        Ok(())
    }

    fn begin(&self, reply: Response<RecvStream>) -> Result<Reply, Failure> {
        let (mut head, stream) = reply.into_parts();
        head.version = Version::HTTP_11;
        let length = one_length(&mut head.headers)?;
        let bodiless =
            self.method == Method::HEAD || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let left = if bodiless { None } else { length };
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

/// The length that an answer says it has. Said twice it is kept once, if both agree.
fn one_length(headers: &mut HeaderMap) -> Result<Option<u64>, Failure> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(None) };
    let (same, more) = lengths.fold((true, false), |(same, _), next| (same && next == first, true));
    let digits = first.to_str().ok().filter(|length| length.bytes().all(|byte| byte.is_ascii_digit()));
    let length = digits.and_then(|length| length.parse().ok());
    let (Some(length), true) = (length, same) else {
        return Err(Failure::new(Fault::BadAnswer, Cause::BadUpstreamResponse));
    };
    if more {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(Some(length))
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
                    self.pulse.heard.store(true, Relaxed);
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
                self.pulse.heard.store(true, Relaxed);
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
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

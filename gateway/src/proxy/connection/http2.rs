//! HTTP/2: one connection for many exchanges, driven by a task of its own.
//!
//! A [`Session`] is an instance's connection as requests see it: each [opens](Session::open) a [stream](super::stream) on
//! it. The request's own task polls its stream, and sends its body; only the frames go through the [`Driver`], which is
//! the task that reads and writes.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, Reason};
use http::uri::Scheme;
use portcullis_middleware::Cause;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::stream::{InFlight, translate};
use super::{HEAD, Outgoing};
use crate::proxy::failure::{Failure, Fault};
use crate::proxy::pool::Closed;

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

/// How long what an instance said before it went may wait to be read. h2 reads at once, or no more.
pub(super) const GOODBYE: Duration = Duration::from_secs(1);

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

    /// A part of an answer came.
    pub(super) fn beat(&self) {
        self.heard.store(true, Relaxed);
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
        let (reply, stream) = self.sender.send_request(head, body.is_empty()).map_err(|error| {
            if error.is_go_away() || error.is_io() || error.is_reset() {
                return Failure::new(Fault::Unsent, Cause::ResetBeforeHeaders);
            }
            tracing::debug!(%error, "a request could not be written as HTTP/2");
            Failure::new(Fault::Client, Cause::BadRequest)
        })?;
        Ok(InFlight::new(reply, stream, body, method, reused, self.pulse))
    }
}

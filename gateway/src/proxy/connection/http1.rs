//! HTTP/1.1: one exchange after the other, driven by whoever waits for it.

use std::error::Error as _;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Response, StatusCode, Version};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portcullis_middleware::Cause;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use super::framing::{Awaited, Framing};
use super::{HEAD, Outgoing, Reply, ReplyBody, Unanswered, settle_length, strict};
use crate::alarm::Alarm;
use crate::proxy::failure::{Failure, Fault};
use crate::proxy::pool::Closed;
use crate::proxy::upload::Sending;
use crate::tls;

/// How much is read at a time, and how much of a request is kept for an instance that does not take it. A client that does
/// not take its answer has a few times this lying here. The largest head must fit.
const BUFFER: usize = HEAD + 4 * 1024;

/// hyper's side of a connection: reads and writes when it is polled.
type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// An open connection. Dropping it closes it at once, whatever it is doing.
///
/// No task drives it: whoever waits for something that comes over it polls it, and while it is idle nobody does. These
/// are the properties of hyper (1.12) that this relies on; `docs/decisions` tells the rest.
///
/// - Everything happens inside of the driver's poll: it takes a request that was sent, completes its answer, and fills
///   and ends the answer's body. So right after it, what can be ready is; and [poll it](Connection::poll_reply) with a
///   waker that wakes nobody, since a real one would only have this very task polled once more.
/// - The driver does not return with work left that nobody wakes it for. It waits for the socket (with our waker), or
///   for the body's reader to take what is there, and the reader polls it next time it finds nothing there.
/// - A poll replaces the wakers of earlier polls. Polled [without one](Connection::look) it wakes nobody later.
/// - The sender is ready from the moment that request and answer are over, and never before.
pub(in crate::proxy) struct Connection {
    sender: http1::SendRequest<Sending>,
    /// Gone once it has ended: it is never polled again.
    driver: Option<Driver>,
    /// Why it ended.
    over: Option<Closed>,
    /// Whether what happens to it would wake the task that polled it last.
    watched: bool,
    alarm: Alarm,
    awaited: Awaited,
}

/// What a connection can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum State {
    /// Another exchange.
    Ready,
    /// The rest of an exchange.
    Busy,
    /// Nothing any more.
    Over(Closed),
}

impl Connection {
    pub(in crate::proxy) async fn begin(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> hyper::Result<Self> {
        let (stream, awaited) = Framing::new(stream);
        let (sender, driver) =
            http1::Builder::new().max_header_size(HEAD).max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await?;
        let driver: Driver = Box::pin(driver.with_upgrades());
        Ok(Self { sender, driver: Some(driver), over: None, watched: false, alarm: Alarm::default(), awaited })
    }

    /// Takes a request. It goes out, and the head of its answer comes in, as [`Connection::poll_reply`] is called.
    pub(in crate::proxy) fn send(
        &mut self,
        mut request: Outgoing,
    ) -> impl Future<Output = Result<Reply, Unanswered>> + use<> {
        *request.version_mut() = Version::HTTP_11;
        frame(&mut request);
        if request.headers().contains_key(EXPECT) {
            let upload = request.body().upload();
            hyper::ext::on_informational(&mut request, move |interim| {
                if interim.status() == StatusCode::CONTINUE {
                    upload.go_on();
                }
            });
        }
        self.awaited.begin(*request.method() == Method::HEAD);
        let reply = self.sender.try_send_request(request);
        // Unconstrained: a task that used up its turn would be told to come back by a waker that wakes nobody.
        unconstrained(async move {
            match reply.await {
                Ok(mut reply) => {
                    check(&mut reply)?;
                    Ok(reply.map(ReplyBody::Http1))
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => Err(Unanswered::unsent(unsent)),
                    None => Err(broken(&error.into_error()).into()),
                },
            }
        })
    }

    /// The reply to what was sent. With `quiet`, nothing is left to be sent.
    pub(in crate::proxy) fn poll_reply<T>(
        &mut self,
        mut reply: Pin<&mut impl Future<Output = T>>,
        quiet: bool,
        context: &mut Context<'_>,
    ) -> Poll<T> {
        let mut unheard = Context::from_waker(Waker::noop());
        // Most answers are there as a whole when the task is woken. Then nobody waits for the connection afterwards, and
        // it was not for nothing to poll it in a way that makes it ready to rest.
        if quiet && self.watched {
            self.look();
            if let Poll::Ready(reply) = reply.as_mut().poll(&mut unheard) {
                return Poll::Ready(reply);
            }
        }
        self.watch(context);
        reply.poll(&mut unheard)
    }

    /// The next frame of a reply's body.
    pub(in crate::proxy) fn poll_frame(
        &mut self,
        body: &mut ReplyBody,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        let mut unheard = Context::from_waker(Waker::noop());
        if let Poll::Ready(frame) = body.poll_frame(&mut unheard) {
            return Poll::Ready(frame);
        }
        self.watch(context);
        body.poll_frame(&mut unheard)
    }

    /// Ready at a deadline.
    pub(in crate::proxy) fn poll_alarm(&mut self, deadline: Option<Instant>, context: &mut Context<'_>) -> Poll<()> {
        self.alarm.poll_until(deadline, context)
    }

    /// Drives the connection until another exchange can begin or none ever can.
    pub(in crate::proxy) async fn settle(&mut self) {
        poll_fn(|context| {
            self.watch(context);
            if self.state() == State::Busy { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Lets go of the task that used the connection; nothing that happens to it wakes that task any more.
    pub(in crate::proxy) fn rest(&mut self) -> State {
        if self.watched || self.state() == State::Busy {
            self.look();
        }
        self.alarm.hush();
        self.state()
    }

    /// Looks whether something happened to an idle connection. What its runtime has not heard of yet is not seen.
    pub(in crate::proxy) fn examine(&mut self) -> State {
        self.look();
        self.state()
    }

    fn state(&self) -> State {
        match self.over {
            Some(reason) => State::Over(reason),
            None if self.sender.is_ready() => State::Ready,
            None => State::Busy,
        }
    }

    /// Polls the connection; the task is woken when there is a reason to do so again.
    fn watch(&mut self, context: &mut Context<'_>) {
        self.watched = true;
        let Some(driver) = &mut self.driver else { return };
        if let Poll::Ready(ended) = driver.as_mut().poll(context) {
            self.driver = None;
            self.over = Some(match ended {
                Err(error) if io_kind(&error).is_none() => Closed::Unexpected,
                _ => Closed::Peer,
            });
        }
    }

    /// Polls the connection; nobody is woken by it later.
    fn look(&mut self) {
        // Unconstrained: to a task that used up its turn, every connection would look as if nothing had happened to it.
        let looking = pin!(unconstrained(poll_fn(|context| {
            self.watch(context);
            Poll::Ready(())
        })));
        let _ = looking.poll(&mut Context::from_waker(Waker::noop()));
        self.watched = false;
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("state", &self.state()).finish_non_exhaustive()
    }
}

/// What kind of fault of the socket's it was, if it was one.
fn io_kind(error: &hyper::Error) -> Option<io::ErrorKind> {
    error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind)
}

/// Says what concerns this connection, and how the body is framed where hyper would guess otherwise.
fn frame(request: &mut Outgoing) {
    settle_length(request);
    let unsized_body = request.body().size_hint().exact().is_none() && !request.body().is_empty();
    let headers = request.headers_mut();
    // hyper believes that a GET has no body unless a header says so.
    if unsized_body && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // RFC 9110 §10.1.4: `TE` concerns this connection, and says so.
    if headers.contains_key(TE) {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Refuses answers that two readers could understand in two ways.
fn check(response: &mut Response<Incoming>) -> Result<(), Failure> {
    let bad = Failure::new(Fault::BadAnswer, Cause::BadUpstreamResponse);
    let status = response.status();
    if strict::is_clear(status, response.headers_mut()) { Ok(()) } else { Err(bad) }
}

fn broken(error: &hyper::Error) -> Failure {
    tracing::debug!(error = error as &dyn std::error::Error, "an attempt failed");
    if tls::is_to_blame(error) {
        return Failure::new(Fault::Reset, Cause::TlsUpstream);
    }
    if error.is_parse() || io_kind(error) == Some(io::ErrorKind::InvalidData) {
        return Failure::new(Fault::BadAnswer, Cause::BadUpstreamResponse);
    }
    if error.is_user() {
        return Failure::new(Fault::Client, Cause::ClientClosed);
    }
    Failure::new(Fault::Reset, Cause::ResetBeforeHeaders)
}

/// The next frame of a body that is there, or why there is none.
pub(super) fn poll_frame(body: &mut Incoming, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
    Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(|error| blame(&error))))
}

/// Whose fault it is that an answer breaks off.
fn blame(error: &hyper::Error) -> Cause {
    match io_kind(error) {
        Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => Cause::BadUpstreamResponse,
        _ => Cause::ResetAfterHeaders,
    }
}

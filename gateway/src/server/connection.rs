//! One connection: which protocol it speaks, and with HTTP/1.1, requests one after the other, each handed to the
//! application.
//!
//! What all requests of a connection need is borrowed from the connection's task, so that a request copies nothing.
//!
//! Over TLS the handshake says whether [HTTP/2](super::http2) is spoken. Without it, nobody looks ahead: the gatekeeper
//! sees the first line of HTTP/2's preface as it sees any, and hyper's HTTP/1.1 is told that there is nothing for it. So
//! a connection that speaks HTTP/1.1 pays nothing for the other's being possible.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_middleware::Cause;
use portcullis_middleware::body::is_bodiless;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::blame::Blamed;
use super::exit::Exit;
use super::farewell::{part, written};
use super::gatekeeper::{Ending, Gatekeeper, Left};
use super::http2;
use super::incoming;
use super::phase::{Phase, UntilEnd};
use super::reset::Reset;
use super::rest::rest;
use super::stop::Stop;
use super::stream::Stream;
use super::upgraded;
use super::{Application, Handle, Manners, Peer};
use crate::tls::Accepted;
use crate::wire::Wire;

/// How much larger a head hyper takes than the gatekeeper, so that it is never the one who refuses.
const SLACK: usize = 64;

/// How many headers hyper takes unless it is told otherwise.
const DEFAULT_HEADERS: usize = 100;

/// How much hyper may read at a time beyond a head, and keep of an answer that its client does not take. Six times as much
/// is no faster; docs/performance.md has the figures.
const AHEAD: usize = 64 * 1024;

/// Serves a connection to its end. A PROXY protocol header comes first, then with TLS its handshake.
pub(super) async fn serve<A: Application>(mut stream: Stream, mut peer: Peer, application: &Arc<A>, server: &Handle) {
    let manners = application.manners();
    if let Some(receiver) = application.proxy_protocol() {
        let taken = server.preambles.take(&receiver, &mut stream, &mut peer, &manners);
        if Box::pin(server.stop.unless_told(taken)).await != Some(true) {
            return;
        }
    }
    let stream = Wire::new(stream);
    let Some(tls) = application.tls() else {
        return exchange(stream, peer, application, &manners, server).await;
    };
    // Both are boxed: a connection without TLS has no room for them, and one with TLS none for its handshake.
    let shaken = Box::pin(server.stop.unless_told(server.handshakes.shake(&tls, stream, &peer, &manners))).await;
    drop(tls);
    if let Some(Accepted { stream, secured, http2 }) = shaken.flatten() {
        peer.tls = Some(Arc::new(secured));
        if http2 {
            return Box::pin(http2::serve(stream, Vec::new(), peer, application, &manners, server)).await;
        }
        Box::pin(exchange(stream, peer, application, &manners, server)).await;
    }
}

/// Reads requests and writes answers until one of the two has no more.
async fn exchange<S, A>(mut stream: S, peer: Peer, application: &Arc<A>, manners: &Manners, server: &Handle)
where
    S: AsyncRead + AsyncWrite + Reset + Send + Unpin + 'static,
    A: Application,
{
    let (mut come, mut since, mut is_new) = (Vec::new(), Instant::now(), true);
    loop {
        // Boxed, and gone while the connection rests: most connections do nothing else for most of their time.
        let left = Box::pin(converse(stream, come, since, &peer, &**application, manners, &server.stop)).await;
        let Some(Left { io, ending }) = left else { return };
        match ending {
            Ending::Rest { since: resting, asked, held } => {
                let Some((io, next)) = rest(io, resting, manners.idle, &server.stop).await else { return };
                come = if held.is_empty() { next } else { [held, next].concat() };
                (stream, since, is_new) = (io, resting, is_new && !asked);
            }
            // Over TLS the version is agreed on in the handshake (RFC 9113 §3.2).
            Ending::Http2(read, _) if is_new && peer.tls.is_none() => {
                return Box::pin(http2::serve(io, read, peer, application, manners, server)).await;
            }
            Ending::Broken => return io.reset(),
            Ending::Http2(_, refusal) | Ending::Undone(refusal) => {
                let words = match &refusal {
                    Some(refusal) => written(application.refuse(refusal, &peer)).await,
                    None => Vec::new(),
                };
                return Box::pin(part(io, &words)).await;
            }
        }
    }
}

/// Reads requests and writes answers until the connection ends or rests. Of what it reads, `come` has come already;
/// it rested since `since`.
async fn converse<S, A>(
    stream: S,
    come: Vec<u8>,
    since: Instant,
    peer: &Peer,
    application: &A,
    manners: &Manners,
    stop: &Stop,
) -> Option<Left<S>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: Application,
{
    let (phase, exit) = (Phase::since(since), Exit::new());
    let io = Gatekeeper::new(stream, come, manners, phase.clone(), exit.clone());
    let requests =
        Requests { application, peer, phase, stop, body_idle: manners.body_idle, upgraded: Mutex::default() };
    let mut http1 = http1::Builder::new();
    // Told a number, hyper makes room for that many headers anew at every request.
    if manners.headers > DEFAULT_HEADERS {
        http1.max_headers(manners.headers);
    }
    let connection = http1
        .timer(TokioTimer::new())
        // The gatekeeper knows an idle connection from a slow head; hyper's single clock does not.
        .header_read_timeout(None)
        // Limits are the gatekeeper's as well, who says what was wrong. hyper's are only a little wider.
        .max_header_size(manners.header_size + SLACK)
        .max_buf_size(manners.header_size + AHEAD)
        // A client that closes its side has left: what it asked for is cancelled.
        .half_close(false)
        .serve_connection(TokioIo::new(io), service_fn(|request| requests.answer(request)))
        .with_upgrades();
    let ended = {
        let mut connection = pin!(connection);
        // A request whose head has begun is served: hyper has not seen it yet, and would close the connection.
        let finish = |connection: Pin<&mut _>| {
            let is_whole = !requests.phase.is_in_a_head();
            if is_whole {
                http1::UpgradeableConnection::graceful_shutdown(connection);
            }
            is_whole
        };
        let ended = stop.drive(connection.as_mut(), finish).await;
        if ended.is_none() {
            requests.phase.break_off(Cause::Draining);
        }
        ended
    };
    match ended.unwrap_or(Ok(())) {
        Err(error) if error.is_parse() => {
            warn!(peer = %peer, %error, "the parser refused what was let through to it");
        }
        Err(error) => debug!(peer = %peer, %error, "a connection ended early"),
        Ok(()) => {}
    }
    if let Some(body) = requests.upgraded() {
        Box::pin(upgraded::serve(body, stop)).await;
    }
    exit.take()
}

/// What the requests of a connection have in common.
struct Requests<'a, A: Application> {
    application: &'a A,
    peer: &'a Peer,
    phase: Phase,
    stop: &'a Stop,
    body_idle: Option<Duration>,
    /// The body of a `101`.
    upgraded: Mutex<Option<Pin<Box<A::Body>>>>,
}

impl<A: Application> Requests<'_, A> {
    async fn answer(&self, request: http::Request<Incoming>) -> Result<http::Response<UntilEnd<A::Body>>, Infallible> {
        let (is_old, method) = (request.version() == Version::HTTP_10, request.method().clone());
        let request = incoming::before_the_next(request, self.body_idle, &self.phase);
        let answering = self.application.serve(request, self.peer);
        let mut response = Blamed::new(answering, || self.phase.broken()).await;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(self.switch(response));
        }
        let ends_with_it =
            is_old && response.body().size_hint().exact().is_none() && !is_bodiless(&method, response.status());
        let ends = self.stop.is_told() || self.phase.is_shut() || self.phase.ends_unread();
        if ends_with_it {
            self.phase.ends_with_the_answer();
        }
        // In HTTP/1.0 a body without a length ends with its connection, and hyper would promise to keep that one unless the
        // answer is of that version too.
        if ends_with_it || is_old && ends {
            *response.version_mut() = Version::HTTP_10;
        } else if ends {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| self.phase.until_the_answer_ends(Some(body))))
    }

    /// From this answer's head on, another protocol is spoken.
    #[cold]
    fn switch(&self, response: http::Response<A::Body>) -> http::Response<UntilEnd<A::Body>> {
        self.phase.switch();
        let (head, body) = response.into_parts();
        *self.upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(body));
        http::Response::from_parts(head, self.phase.until_the_answer_ends(None))
    }

    /// The body of the `101` that was the last answer. A client that did not get it has left, and so does the body.
    fn upgraded(&self) -> Option<Pin<Box<A::Body>>> {
        self.upgraded.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

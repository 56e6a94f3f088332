//! Connections to an instance: how one comes about, and what an exchange over it looks like.
//!
//! Everything that knows a protocol's types is in this folder, a file for each protocol.

mod framing;
pub(super) mod http1;
pub(super) mod http2;
mod last_words;
pub(super) mod stream;
mod strict;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use portcullis_config::Protocol;
use portcullis_middleware::Cause;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::failure::{Failure, Fault};
use super::upload::Sending;
use crate::lines::Lines;
use crate::proxy_protocol::Introduction;
use crate::registry::Address;
use crate::tls;
use crate::wire::Wire;

pub(super) use http1::{Connection, State};
use last_words::LastWords;

/// The largest head of an answer.
const HEAD: usize = 64 * 1024;

/// What is spoken with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speak {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, or nothing.
    Http2,
    /// What TLS agrees on.
    Negotiated,
}

/// A connection that has just come about.
pub(super) enum Fresh {
    /// For one exchange after the other.
    Http1(Connection),
    /// For many at once, once somebody runs its driver.
    Http2(http2::Session, http2::Driver),
}

/// Makes connections to one instance.
#[derive(Debug)]
pub(super) struct Connector {
    address: Address,
    tls: Option<Arc<tls::Upstream>>,
    protocol: Protocol,
    /// What is told of handshakes that fail; attempts are counted by their cause.
    lines: Lines,
}

impl Connector {
    /// A connector to this address, that shakes hands with whoever is there.
    pub(super) fn new(address: Address, tls: Option<Arc<tls::Upstream>>, protocol: Protocol) -> Self {
        Self { address, tls, protocol, lines: Lines::default() }
    }

    /// What is spoken for a request of this kind. Without TLS nobody can be asked what they speak: a call of gRPC, which
    /// there is over HTTP/2 only, is as good as a word for it, and everybody understands HTTP/1.1.
    pub(super) fn speak(&self, is_grpc: bool) -> Speak {
        match (self.protocol, &self.tls) {
            (Protocol::Http1, _) => Speak::Http1,
            (Protocol::H2 | Protocol::H2c, _) => Speak::Http2,
            (Protocol::Auto, Some(_)) => Speak::Negotiated,
            (Protocol::Auto, None) if is_grpc => Speak::Http2,
            (Protocol::Auto, None) => Speak::Http1,
        }
    }

    /// Connects, says whom the connection is for if it is one client's, and shakes hands. A host name is looked up every
    /// time; its addresses are tried in turn.
    pub(super) async fn connect(&self, speak: Speak, introduction: Option<&Introduction>) -> Result<Fresh, Failure> {
        match &self.address {
            Address::Ip(address) => {
                let stream = introduce(tcp(TcpStream::connect(address).await), introduction).await;
                self.begin(stream, &address.ip().to_string(), speak).await
            }
            Address::Name { host, port } => {
                let stream = introduce(tcp(TcpStream::connect((&**host, *port)).await), introduction).await;
                self.begin(stream, host, speak).await
            }
            Address::Unix(path) => {
                let stream = introduce(UnixStream::connect(path).await, introduction).await;
                self.begin(stream, "localhost", speak).await
            }
        }
    }

    async fn begin<S>(&self, connected: io::Result<S>, host: &str, speak: Speak) -> Result<Fresh, Failure>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let stream = connected.map_err(|error| self.unreachable(&error))?;
        let Some(tls) = &self.tls else {
            return match speak {
                Speak::Http2 => self.http2(stream, Scheme::HTTP).await,
                Speak::Http1 | Speak::Negotiated => self.http1(stream).await,
            };
        };
        // Otherwise what is offered is what may be spoken.
        let http1 = speak == Speak::Http1 && self.protocol == Protocol::Auto;
        let stream = tls.connect(stream, host, http1).await.map_err(|error| self.distrusted(&tls::distrust(&error)))?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        match speak {
            Speak::Http2 if !is_http2 => Err(self.distrusted(&"it did not agree to speak HTTP/2 (ALPN)")),
            Speak::Http2 | Speak::Negotiated if is_http2 => self.http2(stream, Scheme::HTTPS).await,
            _ => self.http1(stream).await,
        }
    }

    async fn http1(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Fresh, Failure> {
        Connection::begin(stream).await.map(Fresh::Http1).map_err(|error| self.unreachable(&error))
    }

    async fn http2(&self, stream: impl http2::Duplex + 'static, scheme: Scheme) -> Result<Fresh, Failure> {
        match http2::Session::begin(Box::new(LastWords::taken_within(stream, http2::GOODBYE)), scheme).await {
            Ok((session, driver)) => Ok(Fresh::Http2(session, driver)),
            // It refuses our certificate after the handshake, see `tls::is_to_blame`; by now that has become text.
            Err(error) if self.tls.is_some() && is_garbled(&error) => Err(self.distrusted(&error)),
            // It had agreed to speak HTTP/2, so this is not about languages.
            Err(error) if self.tls.is_some() && is_over(&error) => Err(self.left()),
            Err(error) => Err(self.misunderstood(&error)),
        }
    }

    fn unreachable(&self, error: &dyn fmt::Display) -> Failure {
        tracing::debug!(instance = %self.address, %error, "could not connect");
        Failure::new(Fault::Connect, Cause::ConnectRefused)
    }

    /// There is somebody, but nobody to trust.
    fn distrusted(&self, error: &dyn fmt::Display) -> Failure {
        if self.lines.one_more() {
            tracing::warn!(instance = %self.address, %error, "TLS with an instance failed");
        }
        Failure::new(Fault::Connect, Cause::TlsUpstream)
    }

    /// There was somebody, who left without a word after a handshake that was good.
    fn left(&self) -> Failure {
        if self.lines.one_more() {
            tracing::warn!(
                instance = %self.address,
                "an instance closed a connection behind the TLS handshake, before its first frame of HTTP/2; it may have \
                 ended, or does it want a client's certificate (`tls.client`), or another one than it gets?"
            );
        }
        Failure::new(Fault::Connect, Cause::ResetBeforeHeaders)
    }

    /// There is somebody who speaks another language.
    fn misunderstood(&self, error: &dyn fmt::Display) -> Failure {
        if self.lines.one_more() {
            tracing::warn!(instance = %self.address, %error, "an instance does not speak HTTP/2");
        }
        Failure::new(Fault::Connect, Cause::BadUpstreamResponse)
    }

    /// What `Host` says when an instance is asked by its own name.
    pub(super) fn authority(&self) -> HeaderValue {
        let name = match &self.address {
            Address::Unix(_) => "localhost".to_owned(),
            address => address.to_string(),
        };
        HeaderValue::try_from(name).expect("an address consists of letters, digits, dots, colons and brackets")
    }
}

/// Says whom a connection is for.
async fn introduce<S: AsyncWrite + Unpin>(
    connected: io::Result<S>,
    introduction: Option<&Introduction>,
) -> io::Result<S> {
    let mut stream = connected?;
    if let Some(introduction) = introduction {
        stream.write_all(introduction.as_bytes()).await?;
    }
    Ok(stream)
}

fn tcp(connected: io::Result<TcpStream>) -> io::Result<Wire<TcpStream>> {
    let stream = connected?;
    stream.set_nodelay(true)?;
    Ok(Wire::new(stream))
}

/// What an exchange was begun with.
pub(super) type Outgoing = Request<Sending>;

/// The head of an answer, and the way to its body.
pub(super) type Reply = Response<ReplyBody>;

/// The body of an answer.
pub(super) enum ReplyBody {
    /// It comes as the connection is [driven](Connection::poll_frame).
    Http1(Incoming),
    /// It comes by itself.
    Http2(stream::Receiving),
}

impl ReplyBody {
    /// The next frame of what somebody else drives.
    pub(super) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        match self {
            ReplyBody::Http1(body) => http1::poll_frame(body, context),
            ReplyBody::Http2(body) => body.poll_frame(context),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Http1(body) => body.is_end_stream(),
            ReplyBody::Http2(body) => body.is_end_stream(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Http1(body) => body.size_hint(),
            ReplyBody::Http2(body) => body.size_hint(),
        }
    }
}

/// Why there is no reply.
pub(super) struct Unanswered {
    pub(super) failure: Failure,
    /// The headers of a request of which nothing was sent.
    pub(super) unsent: Option<HeaderMap>,
}

impl Unanswered {
    fn unsent(request: Outgoing) -> Self {
        let failure = Failure::new(Fault::Unsent, Cause::ResetBeforeHeaders);
        Self { failure, unsent: Some(request.into_parts().0.headers) }
    }
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self { failure, unsent: None }
    }
}

/// A middleware may have changed the body and left its length in the header; what is sent is the truth, and said once. Over
/// HTTP/2 a client may say it twice, if it says the same.
fn settle_length(request: &mut Outgoing) {
    let size = request.body().size_hint().exact();
    let headers = request.headers_mut();
    let mut said = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = said.next() else { return };
    let is_once = said.next().is_none();
    let length = match size {
        Some(size) if first.as_bytes() != size.to_string().as_bytes() => size.into(),
        _ if is_once => return,
        _ => first.clone(),
    };
    headers.insert(CONTENT_LENGTH, length);
}

/// Whether what came is no HTTP/2 because it is no TLS.
fn is_garbled(error: &h2::Error) -> bool {
    error.get_io().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

/// Whether the instance closed the connection, in whatever way, and said nothing.
fn is_over(error: &h2::Error) -> bool {
    error.is_io() || error.reason() == Some(h2::Reason::NO_ERROR) && !error.is_remote()
}

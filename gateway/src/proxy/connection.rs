//! One connection to an instance: how it comes about, and what one exchange over it looks like.
//!
//! Everything that knows a protocol's types is in this file.

use std::io;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portcullis_middleware::Cause;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use super::failure::{Failure, Fault};
use super::upload::Sending;
use crate::registry::Address;

/// The largest head of an answer.
const HEAD: usize = 64 * 1024;

/// Makes connections to one instance.
#[derive(Debug)]
pub(super) struct Connector {
    address: Address,
}

impl Connector {
    /// A connector to this address.
    pub(super) fn new(address: Address) -> Self {
        Self { address }
    }

    /// Connects. A host name is looked up every time; its addresses are tried in turn.
    pub(super) async fn connect(&self) -> Result<Connection, Failure> {
        let connected = match &self.address {
            Address::Ip(address) => Connection::tcp(TcpStream::connect(address).await).await,
            Address::Name { host, port } => Connection::tcp(TcpStream::connect((&**host, *port)).await).await,
            Address::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Connection::http1(stream).await.map_err(io::Error::other),
                Err(error) => Err(error),
            },
        };
        connected.map_err(|error| {
            tracing::debug!(instance = %self.address, %error, "could not connect");
            Failure::new(Fault::Connect, Cause::ConnectRefused)
        })
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

/// An open connection. Dropping it closes it at once, whatever it is doing.
#[derive(Debug)]
pub(super) enum Connection {
    /// HTTP/1.1: one exchange after another.
    Http1 {
        /// The way to the task that drives the connection.
        sender: http1::SendRequest<Sending>,
        /// That task, which ends with the connection.
        _driver: AbortOnDropHandle<()>,
    },
}

/// What an exchange was begun with.
pub(super) type Outgoing = Request<Sending>;

impl Connection {
    async fn tcp(stream: io::Result<TcpStream>) -> io::Result<Self> {
        let stream = stream?;
        stream.set_nodelay(true)?;
        Self::http1(stream).await.map_err(io::Error::other)
    }

    async fn http1(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> hyper::Result<Self> {
        let (sender, connection) = http1::Builder::new().max_header_size(HEAD).handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // Whoever uses the connection hears of the error too.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an upstream connection ended");
            }
        });
        Ok(Self::Http1 { sender, _driver: AbortOnDropHandle::new(driver) })
    }

    /// Whether another exchange can begin right now.
    pub(super) fn is_ready(&self) -> bool {
        let Self::Http1 { sender, .. } = self;
        sender.is_ready()
    }

    /// Whether it is of no more use.
    pub(super) fn is_closed(&self) -> bool {
        let Self::Http1 { sender, .. } = self;
        sender.is_closed()
    }

    /// Waits until another exchange can begin. Returns whether one ever can.
    pub(super) async fn ready(&mut self) -> bool {
        let Self::Http1 { sender, .. } = self;
        sender.ready().await.is_ok()
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(&mut self, mut request: Outgoing) -> Result<Response<Incoming>, Failure> {
        let Self::Http1 { sender, .. } = self;
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
        match sender.try_send_request(request).await {
            Ok(mut response) => {
                check(&mut response)?;
                Ok(response)
            }
            Err(error) if error.message().is_some() => Err(Failure::new(Fault::Unsent, Cause::ResetBeforeHeaders)),
            Err(error) => Err(broken(&error.into_error())),
        }
    }
}

/// Says what concerns this connection, and how the body is framed where hyper would guess otherwise.
fn frame(request: &mut Outgoing) {
    let (size, empty) = (request.body().size_hint(), request.body().is_empty());
    let headers = request.headers_mut();
    match size.exact() {
        // A middleware may have changed the body and left the header; what is sent is the truth.
        Some(size)
            if headers.get(CONTENT_LENGTH).is_some_and(|said| said.as_bytes() != size.to_string().as_bytes()) =>
        {
            headers.insert(CONTENT_LENGTH, size.into());
        }
        // hyper believes that a GET has no body unless a header says so.
        None if !empty && !headers.contains_key(CONTENT_LENGTH) => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        _ => {}
    }
    // RFC 9110 §10.1.4: `TE` concerns this connection, and says so.
    if headers.contains_key(TE) {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Refuses answers that two readers could understand in two ways.
fn check(response: &mut Response<Incoming>) -> Result<(), Failure> {
    let bad = Failure::new(Fault::BadAnswer, Cause::BadUpstreamResponse);
    // Nobody asked to switch protocols.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(bad);
    }
    *response.version_mut() = Version::HTTP_11;
    let headers = response.headers_mut();
    if headers.contains_key(TRANSFER_ENCODING) {
        // Any other coding than `chunked` would have to be undone before the header is removed.
        if headers.contains_key(CONTENT_LENGTH) || !is_chunked(headers) {
            return Err(bad);
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let (Some(first), Some(_)) = (lengths.next(), lengths.next()) {
        // They agree, or hyper had refused them. One is enough.
        let first = first.clone();
        headers.insert(CONTENT_LENGTH, first);
    }
    Ok(())
}

fn is_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let first = codings.next().is_some_and(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
    first && codings.next().is_none()
}

fn broken(error: &hyper::Error) -> Failure {
    tracing::debug!(%error, "an attempt failed");
    if error.is_parse() {
        return Failure::new(Fault::BadAnswer, Cause::BadUpstreamResponse);
    }
    if error.is_user() {
        return Failure::new(Fault::Client, Cause::ClientClosed);
    }
    Failure::new(Fault::Reset, Cause::ResetBeforeHeaders)
}

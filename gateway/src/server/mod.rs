//! Stop 1, accept: sockets, connections, their deadlines and limits.
//!
//! The accept loop is our own: `axum::serve` has no header timeout and no connection limit. Every worker runs one for each
//! address (`accept.rs`). A connection is a task that parses requests and hands each to its [`Application`]: the
//! [edge](crate::edge), or the admin API (`connection.rs`). What must happen to a connection before its first byte is
//! parsed (a TLS handshake, a look at its first bytes) belongs at the top of `connection.rs`, on the worker that serves it.
//!
//! Between socket and parser stands a gate that lets through only bytes with exactly one reading: [`strict`] says which,
//! `gatekeeper.rs` applies it.

mod accept;
pub(crate) mod blame;
mod connection;
mod exit;
mod farewell;
mod gatekeeper;
mod handshake;
mod http2;
mod incoming;
mod late;
mod phase;
mod places;
mod preamble;
mod reset;
mod rest;
mod socket;
mod socket_file;
mod stop;
mod stream;
pub mod strict;
pub(crate) mod upgraded;

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body as HttpBody;
use portcullis_config::units::ListenAddress;
use portcullis_config::{Limits, ListenerTimeouts};
use portcullis_middleware::client::Source;
use portcullis_middleware::{Cause, Request};
use tokio_util::task::TaskTracker;

use crate::proxy_protocol::Receiver;
use crate::tls::{Downstream, Secured};

pub use http2::Http2;
pub use socket::Socket;

pub(crate) use accept::open;

use handshake::Handshakes;
use places::Places;
use preamble::Preambles;
use stop::Stop;
use strict::Refusal;

/// Both ends of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The other end. A unix socket's has no address.
    pub address: Option<SocketAddr>,
    /// Who speaks, as the other end says by the PROXY protocol.
    pub source: Source,
    /// This end, or what the other end named as it.
    pub local: Option<SocketAddr>,
    /// What a TLS handshake established, if there was one.
    pub tls: Option<Arc<Secured>>,
}

impl Peer {
    /// A peer that speaks for itself, in clear.
    pub fn at(address: SocketAddr) -> Self {
        Self { address: Some(address), source: Source::Itself, local: None, tls: None }
    }
}

/// The other end, as the log names it.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => address.fmt(f),
            None => f.write_str("unix:"),
        }
    }
}

/// What answers the requests of a server. Every worker has one of its own.
pub trait Application: Send + Sync + 'static {
    /// The body of its answers. Whatever it is, it reaches the connection as it is and not in one more box.
    type Body: AnswerBody;

    /// How new connections are treated. A reload may change it.
    fn manners(&self) -> Manners;

    /// How to shake hands with new connections, if they must. A reload may change it.
    fn tls(&self) -> Option<Arc<Downstream>> {
        None
    }

    /// Whose PROXY protocol headers are believed, if new connections begin with one. A reload may change it.
    fn proxy_protocol(&self) -> Option<Arc<Receiver>> {
        None
    }

    /// Answers what was refused before it became a request, and remembers it.
    fn refuse(&self, refusal: &Refusal, peer: &Peer) -> http::Response<Self::Body>;

    /// Answers a request.
    fn serve(&self, request: Request, peer: &Peer) -> impl Future<Output = http::Response<Self::Body>> + Send;
}

/// The body of an answer.
pub trait AnswerBody: HttpBody<Data = Bytes, Error = axum::Error> + Send + 'static {
    /// The connection is closed for this reason, and the rest of the body goes nowhere; nor do so many bytes that were
    /// read of it. Without this, it was the client who went away.
    fn break_off(self: Pin<&mut Self>, cause: Cause, unsent: u64);
}

/// Nobody asks why.
impl AnswerBody for axum::body::Body {
    fn break_off(self: Pin<&mut Self>, _: Cause, _: u64) {}
}

/// How connections of one address are treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manners {
    /// How many connections may be open at once; further ones wait in the kernel's queue.
    pub connections: usize,
    /// The longest request line, in bytes.
    pub request_line: usize,
    /// The largest header block, in bytes.
    pub header_size: usize,
    /// The most headers a request may have.
    pub headers: usize,
    /// How long a client may take to send a request's head, counted from its first byte.
    pub header: Option<Duration>,
    /// How long a connection may be without a request.
    pub idle: Option<Duration>,
    /// How long a request's body may stand still, and an answer wait for a client that does not read.
    pub body_idle: Option<Duration>,
    /// How many TLS handshakes may be in progress at once; further connections are closed.
    pub handshakes: usize,
    /// How long a TLS handshake may take.
    pub handshake: Option<Duration>,
    /// How long an HTTP/2 connection may give no sign of life.
    pub ping: Option<Duration>,
    /// What is for HTTP/2 alone.
    pub http2: Http2,
}

impl Manners {
    /// What a listener's settings say.
    pub fn new(limits: &Limits, timeouts: &ListenerTimeouts) -> Self {
        Self {
            connections: limits.connections,
            request_line: limits.request_line.as_usize(),
            header_size: limits.header_size.as_usize(),
            headers: limits.headers,
            header: timeouts.header.limit(),
            idle: timeouts.idle.limit(),
            body_idle: timeouts.body_idle.limit(),
            handshakes: limits.handshakes,
            handshake: timeouts.handshake.limit(),
            ping: timeouts.ping.limit(),
            http2: Http2::new(limits),
        }
    }
}

impl Default for Manners {
    fn default() -> Self {
        Self::new(&Limits::default(), &ListenerTimeouts::default())
    }
}

/// A running server, held by whoever may stop it. Dropping it stops nothing.
#[derive(Clone)]
pub struct Handle {
    address: ListenAddress,
    stop: Arc<Stop>,
    connections: TaskTracker,
    places: Arc<Places>,
    handshakes: Arc<Handshakes>,
    preambles: Arc<Preambles>,
}

impl Handle {
    fn new(address: ListenAddress) -> Self {
        Self {
            address,
            stop: Arc::default(),
            connections: TaskTracker::new(),
            places: Arc::default(),
            handshakes: Arc::default(),
            preambles: Arc::default(),
        }
    }

    /// The address that was bound; it has the real port where the file says 0.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Stops accepting, lets requests in flight finish, and closes idle connections.
    pub fn drain(&self) {
        self.stop.tell();
        self.connections.close();
    }

    /// Closes what is still open after [`drain`](Handle::drain).
    pub fn cut(&self) {
        self.stop.cut_all();
    }

    /// Waits until the last connection is closed. Only after [`drain`](Handle::drain) does it come to an end.
    pub async fn closed(&self) {
        self.connections.wait().await;
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        self.places.taken()
    }

    /// The application's [`Manners`] have changed; who waits for a place may have one now.
    pub fn manners_changed(&self) {
        self.places.look_again();
    }
}

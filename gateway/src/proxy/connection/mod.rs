//! Connections to an instance: how one comes about, and what an exchange over it looks like.
//!
//! Everything that knows a protocol's types is in this folder, a file for each protocol.

mod http1;

use std::fmt;
use std::io;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use portcullis_middleware::Cause;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::failure::{Failure, Fault};
use super::upload::Sending;
use crate::lines::Lines;
use crate::registry::Address;
use crate::tls;
use crate::wire::Wire;

pub(super) use http1::{Connection, State};

/// Makes connections to one instance.
#[derive(Debug)]
pub(super) struct Connector {
    address: Address,
    tls: Option<Arc<tls::Upstream>>,
    /// What is told of handshakes that fail; attempts are counted by their cause.
    lines: Lines,
}

impl Connector {
    /// A connector to this address, that shakes hands with whoever is there.
    pub(super) fn new(address: Address, tls: Option<Arc<tls::Upstream>>) -> Self {
        Self { address, tls, lines: Lines::default() }
    }

    /// Connects, and shakes hands. A host name is looked up every time; its addresses are tried in turn.
    pub(super) async fn connect(&self) -> Result<Connection, Failure> {
        match &self.address {
            Address::Ip(address) => self.begin(tcp(TcpStream::connect(address).await), &address.ip().to_string()).await,
            Address::Name { host, port } => self.begin(tcp(TcpStream::connect((&**host, *port)).await), host).await,
            Address::Unix(path) => self.begin(UnixStream::connect(path).await, "localhost").await,
        }
    }

    async fn begin<S>(&self, connected: io::Result<S>, host: &str) -> Result<Connection, Failure>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let unreachable = |error: &dyn fmt::Display| {
            tracing::debug!(instance = %self.address, %error, "could not connect");
            Failure::new(Fault::Connect, Cause::ConnectRefused)
        };
        let stream = connected.map_err(|error| unreachable(&error))?;
        let connection = match &self.tls {
            None => Connection::begin(stream).await,
            Some(tls) => {
                Connection::begin(tls.connect(stream, host).await.map_err(|error| self.distrusted(&error))?).await
            }
        };
        connection.map_err(|error| unreachable(&error))
    }

    /// There is somebody, but nobody to trust.
    fn distrusted(&self, error: &io::Error) -> Failure {
        if self.lines.one_more() {
            tracing::warn!(instance = %self.address, %error, "TLS with an instance failed");
        }
        Failure::new(Fault::Connect, Cause::TlsUpstream)
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

fn tcp(connected: io::Result<TcpStream>) -> io::Result<Wire<TcpStream>> {
    let stream = connected?;
    stream.set_nodelay(true)?;
    Ok(Wire::new(stream))
}

/// What an exchange was begun with.
pub(super) type Outgoing = Request<Sending>;

/// The head of an answer, and the way to its body.
pub(super) type Reply = Response<Incoming>;

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

//! A handshake with a client, from its first byte on.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use portcullis_config::TlsVersion;
use portcullis_middleware::Tls;
use portcullis_middleware::router::fold_host;
use rustls::server::Acceptor;
use rustls::{Error, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::server::{StartHandshake, TlsStream};

use super::client::identity;
use super::downstream::Secured;
use super::refused::Refused;
use super::terms::HTTP2;
use super::{Downstream, tickets};

/// The first byte of every TLS connection: the record is one of a handshake.
pub(super) const HANDSHAKE: u8 = 0x16;

/// A fatal alert that says that nobody here has the name (RFC 6066 §3).
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 112];

/// What somebody reads who speaks HTTP to a port that speaks TLS.
const THIS_IS_TLS: &str = "this port speaks TLS: use https://\n";

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Accepted<S> {
    /// What is said over it. Boxed: it is larger than all else that a connection keeps while it rests, and would have its
    /// room in each step of the connection's task.
    pub stream: Box<TlsStream<S>>,
    /// What the handshake established.
    pub secured: Secured,
    /// Whether HTTP/2 was agreed on. If not, it is HTTP/1.1.
    pub http2: bool,
}

impl Downstream {
    /// Shakes hands. Whoever calls it sees to the time it may take.
    pub async fn accept<S>(&self, mut stream: S) -> std::result::Result<Accepted<S>, Refused>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let mut acceptor = Acceptor::default();
        let mut buffer = [0; 2048];
        let mut first = true;
        let hello = loop {
            let gone = || if first { Refused::Unbegun } else { Refused::Closed };
            let length = stream.read(&mut buffer).await.map_err(|_| gone())?;
            let mut bytes = &buffer[..length];
            match bytes.first() {
                None => return Err(gone()),
                Some(byte) if first && *byte != HANDSHAKE => return Err(refuse_first(&mut stream, bytes).await),
                Some(_) => first = false,
            }
            while !bytes.is_empty() {
                acceptor.read_tls(&mut bytes).map_err(|error| Refused::unreadable(&error))?;
            }
            match acceptor.accept() {
                Ok(Some(hello)) => break hello,
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut said = Vec::new();
                    let _ = alert.write_all(&mut said);
                    farewell(&mut stream, &said).await;
                    return Err(Refused::of(&error, TlsVersion::V1_2));
                }
            }
        };
        let name = hello.client_hello().server_name().map(str::to_owned);
        let Some(offer) = self.offer(name.as_deref()) else {
            farewell(&mut stream, &UNRECOGNIZED_NAME).await;
            return Err(Refused::UnknownName(name.unwrap_or_default()));
        };
        let refused = |error| Refused::of(&error, offer.min_version);
        let started = StartHandshake::from_parts(hello, stream);
        // In a block: it looks at the client's tickets before it is polled.
        let shaking = async { started.into_stream(offer.server.clone()).await };
        let stream = tickets::of_one_handshake(shaking).await;
        let stream = stream.map_err(|error| error.downcast().map_or(Refused::Closed, refused))?;

        let (_, connection) = stream.get_ref();
        let certificate = match connection.peer_certificates().and_then(<[_]>::first) {
            // It was good a moment ago, when it was verified or the ticket was looked at.
            Some(leaf) => {
                Some(identity(leaf, SystemTime::now()).map_err(|error| refused(Error::InvalidCertificate(error)))?)
            }
            None if offer.needs_a_certificate => {
                return Err(refused(Error::NoCertificatesPresented));
            }
            None => None,
        };
        let tls = Tls {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => TlsVersion::V1_3,
                _ => TlsVersion::V1_2,
            },
            server_name: name.map(|name| fold_host(&name).into_owned()),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            certificate,
        };
        let http2 = connection.alpn_protocol() == Some(HTTP2);
        Ok(Accepted { secured: Secured::new(tls, &offer), http2, stream: Box::new(stream) })
    }
}

/// The first byte is none of TLS'.
async fn refuse_first(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Refused {
    // Methods are upper-case letters and then a space, also that of HTTP/2's preface.
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    if method == 0 || bytes.get(method).is_some_and(|behind| *behind != b' ') {
        return Refused::no_tls(bytes.first().copied().unwrap_or_default());
    }
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{THIS_IS_TLS}",
        THIS_IS_TLS.len()
    );
    farewell(stream, answer.as_bytes()).await;
    Refused::Plaintext
}

/// Says why, and closes. Whether it arrives does not matter.
async fn farewell(stream: &mut (impl AsyncWrite + Unpin), said: &[u8]) {
    if stream.write_all(said).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

/// How often handshakes ended in each way, in this process.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Result::ALL.len()]);

impl Counts {
    pub(super) fn count(&self, result: Result) {
        self.0[result as usize].fetch_add(1, Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> impl Iterator<Item = (Result, u64)> {
        Result::ALL.into_iter().map(|result| (result, self.0[result as usize].load(Relaxed)))
    }
}

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Result {
    /// With a new session.
    Full,
    /// With a session that goes on.
    Resumed,
    /// Too late.
    Timeout,
    /// There were too many at once.
    TooMany,
    /// With [`Refused::Closed`] or [`Refused::Unbegun`].
    Closed,
    /// With [`Refused::Plaintext`].
    Plaintext,
    /// With [`Refused::UnknownName`].
    UnknownName,
    /// With [`Refused::ClientCertificate`].
    ClientCertificate,
    /// With [`Refused::Incompatible`].
    Incompatible,
    /// With [`Refused::ByClient`].
    ByClient,
    /// With [`Refused::Malformed`].
    Malformed,
}

impl Result {
    /// Every way.
    pub const ALL: [Result; 11] = [
        Result::Full,
        Result::Resumed,
        Result::Timeout,
        Result::TooMany,
        Result::Closed,
        Result::Plaintext,
        Result::UnknownName,
        Result::ClientCertificate,
        Result::Incompatible,
        Result::ByClient,
        Result::Malformed,
    ];

    /// Its name as a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Result::Full => "full",
            Result::Resumed => "resumed",
            Result::Timeout => "timeout",
            Result::TooMany => "too_many",
            Result::Closed => "closed",
            Result::Plaintext => "plaintext",
            Result::UnknownName => "unknown_name",
            Result::ClientCertificate => "client_certificate",
            Result::Incompatible => "incompatible",
            Result::ByClient => "refused_by_client",
            Result::Malformed => "malformed",
        }
    }
}

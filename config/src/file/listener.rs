//! `[listener.*]`: an address that accepts connections.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ChainItem, Paths};
use crate::Spanned;
use crate::units::{Duration, HostPattern, ListenAddress, Size};

/// An address that accepts connections, with its protocol settings and its own chain.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Where it listens: `"0.0.0.0:8080"`, `"[::]:8080"` (IPv4 as well), or `"unix:/path"`, a socket that its owner and
    /// group may connect to.
    pub address: Spanned<ListenAddress>,
    /// The hosts it serves; empty is any. Listeners may share an address: the most specific host wins,
    /// and there is no fall-through to another.
    #[serde(default)]
    pub hosts: Vec<Spanned<HostPattern>>,
    /// The middlewares that every request of this listener passes, in order. Default `["router"]`.
    #[serde(default = "only_the_router")]
    #[schemars(extend("default" = ["router"]))]
    pub chain: Vec<ChainItem>,
    /// Whether connections begin with a PROXY protocol header, version 1 or 2. It is taken from `trusted_proxies` only,
    /// and a connection without one is closed. A client whom it does not name has no address.
    #[serde(default)]
    pub proxy_protocol: Spanned<bool>,
    /// Certificates, if it speaks TLS.
    #[serde(default)]
    pub tls: Option<Spanned<ListenerTls>>,
    /// How much a client may send before it is refused.
    #[serde(default)]
    pub limits: Limits,
    /// How long a client may take.
    #[serde(default)]
    pub timeouts: ListenerTimeouts,
    /// Which headers tell the upstream who the client is.
    #[serde(default)]
    pub forwarding: Forwarding,
    /// How the paths of requests are read before routes are compared.
    #[serde(default)]
    pub paths: Paths,
}

fn only_the_router() -> Vec<ChainItem> {
    vec![ChainItem::Named(Spanned::new("router".into(), 0..0))]
}

/// Bounds on what a client may send.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The request line: method, target and version. From 64B to 16MiB.
    pub request_line: Size,
    /// The request line and all headers together. From 256B to 16MiB.
    pub header_size: Size,
    /// How many headers a request may have.
    pub headers: usize,
    /// How many connections may be open at once.
    pub connections: usize,
    /// How many TLS handshakes may be in progress at once.
    pub handshakes: usize,
    /// How many requests an HTTP/2 connection may have open at once; up to 65536.
    pub streams: u32,
    /// How much of a request's body an HTTP/2 client may send ahead of its reader.
    pub stream_window: Size,
    /// How much of all bodies together an HTTP/2 client may send ahead of their readers.
    pub connection_window: Size,
    /// How much of an answer is kept ready for an HTTP/2 client that does not take it yet.
    pub send_buffer: Size,
    /// All headers of a request over HTTP/2 together, unpacked, with 32 bytes for each. At least 512B.
    pub header_list: Size,
    /// How many requests an HTTP/2 client may give up on one connection within 30 seconds.
    pub resets: u32,
    /// How many streams of an HTTP/2 connection may break the protocol's rules before it is closed.
    pub stream_errors: usize,
    /// How many frames that carry nothing (PING, SETTINGS and their like) an HTTP/2 client may send within 10 seconds.
    pub control_frames: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_line: Size::from_kib(16),
            header_size: Size::from_kib(32),
            headers: 100,
            connections: 10_000,
            handshakes: 1_000,
            streams: 100,
            stream_window: Size::from_kib(64),
            connection_window: Size::from_kib(1024),
            send_buffer: Size::from_kib(32),
            header_list: Size::from_kib(16),
            resets: 1_000,
            stream_errors: 100,
            control_frames: 1_000,
        }
    }
}

/// Clocks of a client's connection; `"0s"` turns one off.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerTimeouts {
    /// From the first byte of a request to the end of its headers; from the connection to the end of a PROXY protocol
    /// header.
    pub header: Duration,
    /// Between two requests on one connection.
    pub idle: Duration,
    /// Between two pieces of a request's body, and between two pieces of an answer that the client takes.
    pub body_idle: Duration,
    /// From the connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// Between two signs of life of an HTTP/2 connection, before it is asked for one; and as long again for that.
    pub ping: Duration,
}

impl Default for ListenerTimeouts {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            body_idle: Duration::from_secs(30),
            handshake: Duration::from_secs(10),
            ping: Duration::from_secs(30),
        }
    }
}

/// Which headers tell the upstream who the client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Forwarding {
    /// `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    #[default]
    X,
    /// `Forwarded` (RFC 7239).
    Rfc7239,
    /// Both kinds.
    Both,
    /// None.
    Off,
}

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Certificates; the one whose names fit the name that the client asks for is served. A client that asks for none
    /// gets the first.
    pub certificates: Spanned<Vec<Certificate>>,
    /// The oldest protocol version that is accepted.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// A PEM file of authorities. If given, clients must present a certificate signed by one of them.
    #[serde(default)]
    pub client_ca: Option<Spanned<PathBuf>>,
    /// Whether a client may do without a certificate. Default `"required"`; only with `client_ca`.
    #[serde(default)]
    pub client_certificate: Option<Spanned<Presence>>,
}

/// Whether clients must present a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// A client without one is refused.
    #[default]
    Required,
    /// A client may come without one. One that it presents must be good all the same.
    Optional,
}

/// A certificate chain and its private key, as PEM files. Both are followed: a new pair is served as soon as it is there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The certificate chain, leaf first.
    pub cert: Spanned<PathBuf>,
    /// The private key.
    pub key: Spanned<PathBuf>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3
    #[serde(rename = "1.3")]
    V1_3,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        })
    }
}

//! What a TLS handshake established about a client's connection.
//!
//! Middlewares find it by [`Exchange::tls`](crate::Exchange::tls). A certificate that stands here was verified: it is
//! signed by one of the listener's `client_ca`, it was valid when the connection began, and the client has its key.

use std::time::SystemTime;

use portcullis_config::TlsVersion;

/// A client's connection, as its TLS handshake left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The version that was agreed on.
    pub version: TlsVersion,
    /// The host that the client asked for in its handshake (SNI), in lower case.
    pub server_name: Option<String>,
    /// Whether the client went on with a session from an earlier connection.
    pub resumed: bool,
    /// The certificate that the client presented; `None` if it has none, which only an optional one allows.
    pub certificate: Option<ClientCertificate>,
}

/// A client's certificate, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Whom it was issued to: `CN=billing, O=Example`.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// The issuer's number for it, in hexadecimal digits.
    pub serial: String,
    /// The names it was issued for.
    pub names: Vec<SubjectName>,
    /// The moment after which it is worth nothing.
    pub not_after: SystemTime,
}

/// A name that a certificate was issued for. What kind it is matters: a URI must never pass for a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SubjectName {
    /// A host.
    Dns(String),
    /// A URI, such as the SPIFFE id of a workload.
    Uri(String),
    /// An address for mail.
    Email(String),
}

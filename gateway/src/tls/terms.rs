//! The terms on which a listener shakes hands: versions, protocols, and whether clients must say who they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use portcullis_config::{ListenerTls, Presence, TlsVersion};
use portcullis_middleware::follow::Digest;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::authorities::Authorities;
use super::choose::Chooser;
use super::client::Verifier;
use super::tickets::Tickets;
use super::{provider, versions};

/// What HTTP/2 is called in a handshake.
pub(super) const HTTP2: &[u8] = b"h2";

/// What is spoken after the handshake, best first.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];

/// A listener's terms.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) min_version: TlsVersion,
    client: Option<Client>,
}

/// Clients must say who they are, or may.
#[derive(Debug, Clone)]
struct Client {
    authorities: Authorities,
    certificate: Presence,
}

/// Tells terms apart: those that agree in it allow the same clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag([u8; 32]);

impl Tag {
    /// The tag of something that consists of these parts.
    pub(super) fn of(parts: &[&[u8]]) -> Self {
        let framed = parts.iter().flat_map(|part| [&(part.len() as u64).to_be_bytes()[..], part].concat());
        let digest = digest(&SHA256, &framed.collect::<Vec<u8>>());
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl AsRef<[u8]> for Tag {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Terms {
    /// What a listener's `tls` says.
    pub(super) fn new(tls: &ListenerTls, directory: &Path) -> Result<Self, String> {
        let client = match &tls.client_ca {
            Some(path) => Some(Client {
                authorities: Authorities::read(&directory.join(&path.value))?,
                certificate: tls.client_certificate.as_ref().map_or_else(Presence::default, |it| it.value),
            }),
            None => None,
        };
        let terms = Self { min_version: tls.min_version, client };
        // Whatever rustls has against them is a fault of the file that names the authorities.
        terms.verifier()?;
        Ok(terms)
    }

    /// What was read of the authorities, to notice when it changes.
    pub(super) fn seen(&self) -> Option<(PathBuf, Digest)> {
        self.client.as_ref().map(|client| client.authorities.seen())
    }

    /// Whether a client without a certificate is refused.
    pub(super) fn require_a_certificate(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.certificate == Presence::Required)
    }

    pub(super) fn tag(&self) -> Tag {
        let version = self.min_version.to_string();
        match &self.client {
            None => Tag::of(&[version.as_bytes()]),
            Some(Client { authorities, certificate }) => {
                let required: &[u8] = match certificate {
                    Presence::Required => b"required",
                    Presence::Optional => b"optional",
                };
                Tag::of(&[version.as_bytes(), required, &authorities.content])
            }
        }
    }

    /// What rustls makes of them.
    pub(super) fn server(&self, certificates: Chooser, tickets: &Tickets) -> Result<Arc<ServerConfig>, String> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(self.min_version))
            .map_err(|error| error.to_string())?;
        let builder = match self.verifier()? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(certificates));
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        config.session_storage = Tickets::storage();
        if let Some(ticketer) = tickets.under(self.tag()) {
            config.ticketer = ticketer;
        }
        Ok(Arc::new(config))
    }

    fn verifier(&self) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
        let Some(Client { authorities, certificate }) = &self.client else { return Ok(None) };
        let builder = WebPkiClientVerifier::builder_with_provider(authorities.roots.clone(), provider());
        let builder = match certificate {
            Presence::Required => builder,
            Presence::Optional => builder.allow_unauthenticated(),
        };
        let verifier = builder.build().map_err(|error| error.to_string())?;
        Ok(Some(Arc::new(Verifier(verifier))))
    }
}

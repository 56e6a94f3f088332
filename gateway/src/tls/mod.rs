//! TLS, on both sides: certificates, handshakes, and what they establish.
//!
//! Everything that knows rustls' types is in this folder. [`Downstream`] is what a door has: the certificates of its
//! listeners brought together by name, and each listener's own terms. [`Upstream`] is what a service has. Files are
//! [followed](Files), and what is read from them is swapped whole: a handshake sees the old or the new, and if the new
//! is no good, the old stays.

mod accept;
mod authorities;
mod certificate;
mod choose;
mod client;
mod downstream;
mod files;
mod refused;
mod terms;
mod tickets;
mod upstream;

use std::sync::{Arc, LazyLock};

use portcullis_config::TlsVersion;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{SupportedProtocolVersion, version};

pub use accept::{Accepted, Counts, Result as Handshake};
pub use downstream::{Downstream, Expiry, Secured};
pub use files::Files;
pub use refused::Refused;
pub use tickets::Tickets;
pub use upstream::{Builder, Upstream, Upstreams, distrust, is_to_blame};

/// What outlives plans.
#[derive(Default)]
pub struct Shared {
    /// Keys for sessions that go on.
    pub tickets: Tickets,
    /// How handshakes with clients ended.
    pub counts: Arc<Counts>,
    /// What services share.
    pub upstreams: Upstreams,
}

/// The one implementation of TLS' cryptography in this process.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// The versions from this one on.
fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    match oldest {
        TlsVersion::V1_2 => &BOTH,
        TlsVersion::V1_3 => &BOTH[..1],
    }
}

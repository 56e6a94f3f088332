//! Why there was no handshake, in words that say what to do.

use std::fmt;

use portcullis_config::TlsVersion;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible, PeerMisbehaved};

use super::accept::{HANDSHAKE, Result};
use super::certificate::days;

/// The most characters of the library's own words.
const MOST: usize = 200;

/// Why there was no handshake. Each holds what is to be said, if there is more than one thing to say.
#[derive(Debug)]
pub enum Refused {
    /// The client went away without a word, as who only looks whether the port is open does.
    Unbegun,
    /// The client went away in the middle of it.
    Closed,
    /// The client speaks HTTP without TLS.
    Plaintext,
    /// The client asks for this name, which nobody here has.
    UnknownName(String),
    /// The client has no certificate, or one that is no good.
    ClientCertificate(String),
    /// Client and listener have no version or method in common.
    Incompatible(String),
    /// The client does not accept what it was offered, as it does with a certificate that it cannot verify.
    ByClient(String),
    /// What came is no handshake.
    Malformed(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unbegun => f.write_str("the client went away without a word"),
            Self::Closed => f.write_str("the client went away during the handshake"),
            Self::Plaintext => f.write_str("the client speaks HTTP without TLS; it was told to use https://"),
            Self::UnknownName(name) => write!(f, "no certificate and listener here are for `{}`", name.escape_debug()),
            Self::ClientCertificate(said) | Self::Incompatible(said) | Self::ByClient(said) | Self::Malformed(said) => {
                f.write_str(said)
            }
        }
    }
}

impl Refused {
    /// What an error of a handshake with a listener of this `min_version` means.
    pub(super) fn of(error: &Error, min_version: TlsVersion) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::ClientCertificate(
                "the client has no certificate, and this listener asks for one (`client_ca`)".to_owned(),
            ),
            Error::InvalidCertificate(why) => {
                Self::ClientCertificate(format!("the client's certificate is refused: {}", no_good(why)))
            }
            Error::PeerIncompatible(why) => Self::Incompatible(not_in_common(why, min_version)),
            Error::NoApplicationProtocol => Self::Incompatible(
                "the client speaks neither `h2` nor `http/1.1`, going by what it offers (ALPN)".to_owned(),
            ),
            Error::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled) => Self::Closed,
            Error::AlertReceived(alert) => {
                let why = match alert {
                    AlertDescription::UnknownCA => {
                        ": it does not believe who signed the certificate that it got; does `cert` hold the whole chain?"
                    }
                    AlertDescription::CertificateExpired => {
                        ": the certificate that it got has expired, going by its clock"
                    }
                    AlertDescription::BadCertificate
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::UnsupportedCertificate => ": it does not accept the certificate that it got",
                    _ => "",
                };
                Self::ByClient(format!("the client broke the handshake off{why} ({})", quoted(error)))
            }
            Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName) => {
                Self::Malformed("the name that the client asks for (SNI) cannot be the name of a host".to_owned())
            }
            error => Self::unreadable(error),
        }
    }

    /// Not even the first byte is one of TLS.
    pub(super) fn no_tls(first: u8) -> Self {
        Self::Malformed(format!(
            "what came is no TLS: it begins with the byte 0x{first:02x} instead of 0x{HANDSHAKE:02x}"
        ))
    }

    /// It began like a handshake.
    pub(super) fn unreadable(error: &impl fmt::Display) -> Self {
        Self::Malformed(format!("what came cannot be read as a handshake ({})", quoted(error)))
    }

    /// What is counted.
    pub fn result(&self) -> Result {
        match self {
            Self::Unbegun | Self::Closed => Result::Closed,
            Self::Plaintext => Result::Plaintext,
            Self::UnknownName(_) => Result::UnknownName,
            Self::ClientCertificate(_) => Result::ClientCertificate,
            Self::Incompatible(_) => Result::Incompatible,
            Self::ByClient(_) => Result::ByClient,
            Self::Malformed(_) => Result::Malformed,
        }
    }
}

/// What client and listener lack.
fn not_in_common(why: &PeerIncompatible, min_version: TlsVersion) -> String {
    const ANOTHER_KIND: &str = "one of the other kind (RSA, ECDSA) may stand beside it";
    match why {
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::SupportedVersionsExtensionRequired => format!(
            "the client speaks only versions of TLS older than {min_version}, which is the listener's `min_version`"
        ),
        // RFC 5246 §7.4.1.4.1: older versions do not know of them.
        PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
            "the client names no signatures that it can check, so it speaks only versions of TLS older than 1.2"
                .to_owned()
        }
        PeerIncompatible::NoCipherSuitesInCommon => format!(
            "the client has no cipher suite in common with this listener: none that is safe, or none for the kind of key \
             that the certificate has; {ANOTHER_KIND}"
        ),
        PeerIncompatible::NoSignatureSchemesInCommon => {
            format!("the client cannot check signatures of the kind of key that the certificate has; {ANOTHER_KIND}")
        }
        PeerIncompatible::NoKxGroupsInCommon => {
            "the client exchanges keys in no way that this listener does: it must know X25519, P-256 or P-384"
                .to_owned()
        }
        why => format!("the client has nothing in common with this listener ({})", quoted(&format!("{why:?}"))),
    }
}

/// What is wrong with a client's certificate.
fn no_good(why: &CertificateError) -> String {
    // Verifying says the same of every certificate on the way to the authority.
    const SOME: &str = "it, or one that it depends on,";
    match why {
        CertificateError::UnknownIssuer => {
            "no authority in `client_ca` signed it, or what stands between the two was not sent along".to_owned()
        }
        CertificateError::Expired => format!("{SOME} has expired"),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("{SOME} expired {} ago", days(time.as_secs().saturating_sub(not_after.as_secs())))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let wait = days(not_before.as_secs().saturating_sub(time.as_secs()));
            format!("{SOME} is not good before {wait} from now; is the clock right?")
        }
        CertificateError::InvalidPurposeContext { .. } => {
            "it is for other uses than that of a client (extended key usage)".to_owned()
        }
        CertificateError::BadEncoding => format!("{SOME} cannot be read"),
        CertificateError::BadSignature => "a signature is wrong: of a certificate, or of the handshake".to_owned(),
        why if is_an_authoritys(why) => AN_AUTHORITYS.to_owned(),
        why => format!("it cannot be verified ({})", quoted(why)),
    }
}

/// What is wrong with a certificate that `openssl req -x509` made by default.
pub(super) const AN_AUTHORITYS: &str = "it is an authority's own (CA:TRUE), which is to sign others and speak for \
     nobody; make it anew with `-addext basicConstraints=critical,CA:FALSE`, or sign another one with it";

/// Whether somebody presents an authority's certificate as the own. The type of this error is not among rustls's.
pub(super) fn is_an_authoritys(why: &CertificateError) -> bool {
    matches!(why, CertificateError::Other(other) if format!("{:?}", other.0) == "CaUsedAsEndEntity")
}

/// The library's own words. Some of them may have come from the client.
fn quoted(error: &impl fmt::Display) -> String {
    error.to_string().chars().map(|char| if char.is_control() { ' ' } else { char }).take(MOST).collect()
}

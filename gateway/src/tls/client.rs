//! What a client's certificate says, once it is verified.

use std::time::SystemTime;

use portcullis_middleware::tls::{ClientCertificate, SubjectName};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::certificate::moment;

/// Reads a certificate that was verified in the handshake, or in one whose session goes on. `None` if it cannot be read
/// or has expired since then; nobody may take the client for somebody it cannot prove to be.
pub(super) fn identity(leaf: &CertificateDer<'_>, now: SystemTime) -> Option<ClientCertificate> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let not_after = moment(parsed.validity().not_after.timestamp());
    if not_after < now {
        return None;
    }
    let mut names = Vec::new();
    if let Some(alternatives) = parsed.subject_alternative_name().ok()? {
        for name in &alternatives.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push(SubjectName::Dns((*name).to_owned())),
                GeneralName::URI(uri) => names.push(SubjectName::Uri((*uri).to_owned())),
                GeneralName::RFC822Name(address) => names.push(SubjectName::Email((*address).to_owned())),
                _ => {}
            }
        }
    }
    Some(ClientCertificate {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        names,
        not_after,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, DnType, KeyPair, SanType, SerialNumber};

    use super::*;

    #[test]
    fn a_certificate_tells_whom_it_was_issued_to() {
        let mut params = CertificateParams::new(["billing.internal".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, "billing");
        params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
        params.serial_number = Some(SerialNumber::from(vec![1, 0xab]));
        params.subject_alt_names.push(SanType::URI("spiffe://example/billing".try_into().expect("ASCII")));
        params.subject_alt_names.push(SanType::Rfc822Name("billing@example.org".try_into().expect("ASCII")));
        let signed = params.self_signed(&KeyPair::generate().expect("a key")).expect("signed");

        let now = SystemTime::now();
        let identity = identity(signed.der(), now).expect("it is valid");
        assert!(identity.subject.contains("CN=billing"), "{}", identity.subject);
        assert_eq!((identity.serial.as_str(), identity.issuer == identity.subject), ("01ab", true));
        assert_eq!(
            identity.names,
            [
                SubjectName::Dns("billing.internal".into()),
                SubjectName::Uri("spiffe://example/billing".into()),
                SubjectName::Email("billing@example.org".into()),
            ]
        );
        assert_eq!(super::identity(signed.der(), identity.not_after + Duration::from_secs(1)), None);
        assert_eq!(super::identity(&CertificateDer::from(vec![0x30, 3, 1, 2, 3]), now), None);
    }
}

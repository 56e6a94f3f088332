//! Who a client is: its certificate, how it is verified, and what it says then.

use std::sync::Arc;
use std::time::SystemTime;

use portcullis_middleware::tls::{ClientCertificate, SubjectName};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::certificate::moment;
use super::tickets;

/// Verifies clients' certificates as the verifier inside of it does, and sees to it that the tickets of the handshake end
/// with them: whoever goes on with a session is not verified again.
#[derive(Debug)]
pub(super) struct Verifier(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Verifier {
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(leaf, intermediates, now)?;
        let mut end = identity(leaf, SystemTime::now())?.not_after;
        for certificate in intermediates {
            // One that cannot be read is none that the leaf's verification needed.
            if let Ok((_, parsed)) = X509Certificate::from_der(certificate) {
                end = end.min(moment(parsed.validity().not_after.timestamp()));
            }
        }
        tickets::end_at(end);
        Ok(verified)
    }

    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }
}

/// Reads a certificate that was verified in the handshake, or in one whose session goes on. An error if it cannot be read
/// or has expired since then; nobody may take the client for somebody it cannot prove to be.
pub(super) fn identity(leaf: &CertificateDer<'_>, now: SystemTime) -> Result<ClientCertificate, CertificateError> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
    let not_after = moment(parsed.validity().not_after.timestamp());
    if not_after < now {
        return Err(CertificateError::Expired);
    }
    let mut names = Vec::new();
    if let Some(alternatives) = parsed.subject_alternative_name().map_err(|_| CertificateError::BadEncoding)? {
        for name in &alternatives.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push(SubjectName::Dns((*name).to_owned())),
                GeneralName::URI(uri) => names.push(SubjectName::Uri((*uri).to_owned())),
                GeneralName::RFC822Name(address) => names.push(SubjectName::Email((*address).to_owned())),
                _ => {}
            }
        }
    }
    Ok(ClientCertificate {
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
        let late = identity.not_after + Duration::from_secs(1);
        assert_eq!(super::identity(signed.der(), late), Err(CertificateError::Expired));
        let garbage = CertificateDer::from(vec![0x30, 3, 1, 2, 3]);
        assert_eq!(super::identity(&garbage, now), Err(CertificateError::BadEncoding));
    }
}

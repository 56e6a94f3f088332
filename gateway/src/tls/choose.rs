//! Which certificate a client gets: by the name it asks for.

use std::collections::HashMap;
use std::sync::Arc;

use portcullis_middleware::router::fold_host;
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;

/// The certificates of an address, by the names they are for.
#[derive(Debug, Default)]
pub(super) struct ByName {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows the first label: `example.org` for `*.example.org`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl ByName {
    pub(super) fn new<'a>(certificates: impl IntoIterator<Item = &'a Arc<Certificate>>) -> Self {
        let mut by_name = Self::default();
        for certificate in certificates {
            let certified = &certificate.certified;
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut by_name.wildcard, parent),
                    None => (&mut by_name.exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_default().push(certified.clone());
            }
        }
        by_name
    }

    /// The certificates for a name: of its own, else for all its siblings, in the order of the file.
    fn find(&self, name: &str) -> &[Arc<CertifiedKey>] {
        // As the host of a request. RFC 6066 §3 has no dot behind a name, but clients send what somebody typed.
        let name = &*fold_host(name);
        if let Some(found) = self.exact.get(name) {
            return found;
        }
        // RFC 6125 §6.4.3: a wildcard stands for one label.
        let parent = name.split_once('.').map(|(_, parent)| parent);
        parent.and_then(|parent| self.wildcard.get(parent)).map_or(&[], Vec::as_slice)
    }

    /// Whether there is a certificate for a name.
    pub(super) fn has(&self, name: &str) -> bool {
        !self.find(name).is_empty()
    }

    /// Whether there is one for all names of one label more than this.
    pub(super) fn has_all_below(&self, parent: &str) -> bool {
        self.wildcard.contains_key(parent)
    }

    /// The certificate for a name that a client can check: one of several may be of a kind that it does not know.
    fn choose(&self, name: &str, known: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let found = self.find(name);
        let checkable = found.iter().find(|certified| certified.key.choose_scheme(known).is_some());
        checkable.or(found.first()).cloned()
    }
}

/// A listener's answer to the question for a certificate.
#[derive(Debug)]
pub(super) struct Chooser {
    /// The certificates of all listeners of the address.
    pub(super) by_name: Arc<ByName>,
    /// For clients that ask for no name: the listener's own first one.
    pub(super) first: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match hello.server_name() {
            Some(name) => self.by_name.choose(name, hello.signature_schemes()),
            None => Some(self.first.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};

    use super::super::certificate::Pair;
    use super::*;

    fn certificate(names: &[&str], kind: &'static SignatureAlgorithm) -> Arc<Certificate> {
        let directory = tempfile::tempdir().expect("a directory");
        let pair = Pair { cert: directory.path().join("cert"), key: directory.path().join("key") };
        let key = KeyPair::generate_for(kind).expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let signed = CertificateParams::new(names).expect("names").self_signed(&key).expect("signed");
        fs::write(&pair.cert, signed.pem()).expect("written");
        fs::write(&pair.key, key.serialize_pem()).expect("written");
        Arc::new(pair.read().expect("a good pair"))
    }

    #[test]
    fn the_most_specific_name_wins() {
        let [a, b, c] = [&["a.example", "b.example"][..], &["*.example"], &["www.a.example"]]
            .map(|names| certificate(names, &PKCS_ECDSA_P256_SHA256));
        let by_name = ByName::new([&a, &b, &c]);
        for (name, expected) in [
            ("a.example", Some(&a)),
            ("B.Example", Some(&a)),
            ("a.example.", Some(&a)),
            ("C.example.", Some(&b)),
            ("a.example..", None),
            ("c.example", Some(&b)),
            ("www.a.example", Some(&c)),
            ("www.b.example", None),
            ("example", None),
            ("other", None),
            ("", None),
            (".", None),
        ] {
            let found = by_name.find(name).first();
            assert_eq!(found.map(Arc::as_ptr), expected.map(|it| Arc::as_ptr(&it.certified)), "{name:?}");
        }
    }

    #[test]
    fn of_two_kinds_a_client_gets_the_one_it_can_check() {
        let (edwards, weierstrass) = (certificate(&["a"], &PKCS_ED25519), certificate(&["a"], &PKCS_ECDSA_P256_SHA256));
        let by_name = ByName::new([&edwards, &weierstrass]);
        for (known, expected) in [
            (&[SignatureScheme::ECDSA_NISTP256_SHA256][..], &weierstrass),
            (&[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519], &edwards),
            // It will fail, and the client says why better than we could.
            (&[SignatureScheme::RSA_PSS_SHA256], &edwards),
        ] {
            let chosen = by_name.choose("a", known).expect("there is one");
            assert!(Arc::ptr_eq(&chosen, &expected.certified), "{known:?}");
        }
    }
}

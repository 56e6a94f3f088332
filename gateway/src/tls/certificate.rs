//! A certificate and its key, as they are read from files.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portcullis_config::{Certificate as Written, Document, Faults};
use portcullis_middleware::follow::{self, Digest};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::provider;

/// A certificate that ends sooner than this is warned of.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What to do about a key that everybody can read.
const HIDE: &str = "take it from them: chmod o-r; for a volume of Kubernetes, `defaultMode: 0440`";

const DAY: u64 = 24 * 60 * 60;

/// The files of a certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

/// A certificate and its key, good to be presented.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) pair: Pair,
    pub(super) certified: Arc<CertifiedKey>,
    /// The hosts it is for, in lower case; `*.example.org` stands for one label.
    pub(super) names: BTreeSet<String>,
    pub(super) not_after: SystemTime,
    /// What was read, to notice when it changes.
    pub(super) seen: [(PathBuf, Digest); 2],
}

/// Why a certificate cannot be had: which of the two files is to blame, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unusable {
    pub(super) file: Which,
    pub(super) sentence: String,
}

/// One of a certificate's two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Cert,
    Key,
}

/// What is wrong with a pair, in one sentence.
pub(super) fn together(unusable: &[Unusable]) -> String {
    unusable.iter().map(|unusable| unusable.sentence.as_str()).collect::<Vec<_>>().join("; ")
}

/// Puts what is wrong with a pair where the file names it.
pub(super) fn report(unusable: Vec<Unusable>, written: &Written, document: &Document, faults: &mut Faults) {
    for Unusable { file, sentence } in unusable {
        let at = match file {
            Which::Cert => &written.cert,
            Which::Key => &written.key,
        };
        faults.error(document, at.span.clone(), sentence);
    }
}

/// Warns of what is odd about a pair that can be used.
pub(super) fn warn(certificate: &Certificate, written: &Written, document: &Document, faults: &mut Faults) {
    if let Some(said) = certificate.ending(SystemTime::now()) {
        faults.warning(document, written.cert.span.clone(), said);
    }
    if let Some(said) = certificate.pair.exposed() {
        faults.warning(document, written.key.span.clone(), said).help(HIDE);
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl Pair {
    /// The pair that the file names. Relative paths start from `directory`.
    pub(super) fn new(written: &Written, directory: &Path) -> Self {
        Self { cert: directory.join(&written.cert.value), key: directory.join(&written.key.value) }
    }

    /// Reads both files, and sees to it that they belong together.
    pub(super) fn read(&self) -> Result<Certificate, Vec<Unusable>> {
        let (cert, key) = (self.cert.display(), self.key.display());
        let about_cert = |sentence| Unusable { file: Which::Cert, sentence };
        let about_key = |sentence| Unusable { file: Which::Key, sentence };

        let chain = read(&self.cert).and_then(|pem| Ok((certificates(&pem, &self.cert)?, pem))).map_err(about_cert);
        let private = read(&self.key).and_then(|pem| Ok((private_key(&pem, &self.key)?, pem))).map_err(about_key);
        let ((chain, cert_pem), (private, key_pem)) = match (chain, private) {
            (Ok(chain), Ok(private)) => (chain, private),
            (chain, private) => return Err(chain.err().into_iter().chain(private.err()).collect()),
        };

        let leaf = chain.first().expect("a file without a certificate was refused just now");
        let (names, not_after) =
            describe(leaf).map_err(|error| vec![about_cert(format!("`{cert}` is no X.509 certificate: {error}"))])?;
        let certified = CertifiedKey::from_der(chain, private, &provider()).map_err(|error| {
            vec![match error {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => about_key(format!(
                    "`{key}` is not the key of `{cert}`, whose first certificate must be the one that the key is for"
                )),
                error => about_key(format!("`{key}` cannot be used as a key: {error}")),
            }]
        })?;
        let seen = [(self.cert.clone(), Digest::of(&cert_pem)), (self.key.clone(), Digest::of(&key_pem))];
        Ok(Certificate { pair: self.clone(), certified: Arc::new(certified), names, not_after, seen })
    }

    /// What is odd about the key's file, if anything is.
    #[cfg(unix)]
    fn exposed(&self) -> Option<String> {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(&self.key).ok()?.permissions().mode();
        (mode & 0o004 != 0).then(|| format!("every user of this machine can read the key `{}`", self.key.display()))
    }

    #[cfg(not(unix))]
    fn exposed(&self) -> Option<String> {
        None
    }
}

impl Certificate {
    /// What is to be said about its end, if that is near.
    pub(super) fn ending(&self, now: SystemTime) -> Option<String> {
        ending(&self.pair.cert, self.not_after, now)
    }
}

fn ending(path: &Path, not_after: SystemTime, now: SystemTime) -> Option<String> {
    let path = path.display();
    match not_after.duration_since(now) {
        Ok(left) if left >= SOON => None,
        Ok(left) => Some(format!("the certificate `{path}` expires in {}", days(left.as_secs()))),
        Err(past) => Some(format!("the certificate `{path}` expired {} ago", days(past.duration().as_secs()))),
    }
}

/// So many seconds, in words.
pub(super) fn days(seconds: u64) -> String {
    match seconds / DAY {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    follow::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("cannot read `{}`: this user may not; let it, or let the gateway's group", path.display())
        }
        _ => format!("cannot read `{}`: {error}", path.display()),
    })
}

/// The certificates in a PEM file, in order; there is at least one.
pub(super) fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let (pem, path) = (unmarked(pem), path.display());
    if pem.trim_ascii().is_empty() {
        return Err(format!("`{path}` is empty"));
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| format!("`{path}` is no good PEM: {}", broken(&error)))?;
    match all.is_empty() {
        true => Err(format!("`{path}` holds no certificate; it must have a part `-----BEGIN CERTIFICATE-----`")),
        false => Ok(all),
    }
}

fn private_key(pem: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let (pem, path) = (unmarked(pem), path.display());
    if pem.trim_ascii().is_empty() {
        return Err(format!("`{path}` is empty"));
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        _ if contains(pem, b"ENCRYPTED PRIVATE KEY") || contains(pem, b"Proc-Type: 4,ENCRYPTED") => {
            format!("the key in `{path}` is encrypted; write it without a password: openssl pkey -in {path}")
        }
        pem::Error::NoItemsFound => {
            format!("`{path}` holds no private key; it must have a part `-----BEGIN PRIVATE KEY-----`")
        }
        error => format!("`{path}` is no good PEM: {}", broken(&error)),
    })
}

/// What is wrong with a PEM file, without what is in it: that may be a key.
fn broken(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a part has no end",
        pem::Error::IllegalSectionStart { .. } => "a part has no proper beginning",
        pem::Error::Base64Decode(_) => "a part is not base64",
        _ => "it cannot be read",
    }
}

/// Without the byte order mark that some editors write.
fn unmarked(pem: &[u8]) -> &[u8] {
    pem.strip_prefix(b"\xef\xbb\xbf").unwrap_or(pem)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// The hosts a certificate is for, and when it ends.
fn describe(leaf: &CertificateDer<'_>) -> Result<(BTreeSet<String>, SystemTime), String> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
    let folded = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let mut names = BTreeSet::new();
    match parsed.subject_alternative_name() {
        Ok(Some(alternatives)) => {
            for name in &alternatives.value.general_names {
                if let GeneralName::DNSName(name) = name {
                    names.insert(folded(name));
                }
            }
        }
        // What tools made before they knew of alternative names. Clients that check will not like it, but those that
        // do not may still ask for it by name.
        Ok(None) => names.extend(parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(folded)),
        Err(error) => return Err(error.to_string()),
    }
    Ok((names, moment(parsed.validity().not_after.timestamp())))
}

/// A time as certificates give it: seconds since 1970, or before.
pub(super) fn moment(timestamp: i64) -> SystemTime {
    let distance = Duration::from_secs(timestamp.unsigned_abs());
    let moment = match timestamp {
        0.. => SystemTime::UNIX_EPOCH.checked_add(distance),
        _ => SystemTime::UNIX_EPOCH.checked_sub(distance),
    };
    // A certificate's time has a year of four digits, which every system can tell.
    moment.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn at(days: i64) -> SystemTime {
        moment(1_800_000_000 + days * DAY as i64)
    }

    #[test]
    fn a_certificate_says_when_its_end_is_near() {
        let said = |days| ending(Path::new("a.pem"), at(days), at(0));
        assert_eq!(said(14), None);
        assert_eq!(said(13).as_deref(), Some("the certificate `a.pem` expires in 13 days"));
        assert_eq!(said(1).as_deref(), Some("the certificate `a.pem` expires in 1 day"));
        assert_eq!(said(0).as_deref(), Some("the certificate `a.pem` expires in less than a day"));
        assert_eq!(said(-3).as_deref(), Some("the certificate `a.pem` expired 3 days ago"));
        assert_eq!(moment(-1), SystemTime::UNIX_EPOCH - Duration::from_secs(1));
    }

    #[test]
    fn a_certificates_hosts_are_its_alternative_names_or_its_common_name() {
        let names = |params: CertificateParams| {
            let key = KeyPair::generate().expect("a key");
            describe(params.self_signed(&key).expect("signed").der()).expect("it is well-formed").0
        };
        let mut params = CertificateParams::new(["WWW.Example.ORG".to_owned(), "*.example.org".into()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, "ignored.example");
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        assert_eq!(names(params), ["*.example.org".to_owned(), "www.example.org".into()].into());

        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Old.example");
        assert_eq!(names(params), ["old.example".to_owned()].into());
    }

    #[test]
    fn what_is_no_pair_is_refused_with_a_sentence() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).expect("written");
            path
        };
        let make = || {
            let key = KeyPair::generate().expect("a key");
            let cert = CertificateParams::new(["a.example".to_owned()]).expect("a name").self_signed(&key);
            (cert.expect("signed").pem(), key.serialize_pem())
        };
        let ((cert, key), (_, other)) = (make(), make());
        let torn = &cert[..cert.len() / 2];
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        // As OpenSSL wrote them before PKCS #8.
        let old = key
            .replace("PRIVATE KEY-----\n", "EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0\n\n");
        let old = old.replace("END PRIVATE", "END EC PRIVATE");
        let (cert_file, key_file) = (write("a.pem", &cert), write("a.key", &key));
        let cases = [
            (write("empty.pem", "\n"), key_file.clone(), Which::Cert, "empty.pem` is empty"),
            (write("torn.pem", torn), key_file.clone(), Which::Cert, "a part has no end"),
            (key_file.clone(), key_file.clone(), Which::Cert, "holds no certificate"),
            (directory.path().join("none.pem"), key_file.clone(), Which::Cert, "cannot read"),
            (cert_file.clone(), cert_file.clone(), Which::Key, "holds no private key"),
            (cert_file.clone(), write("empty.key", ""), Which::Key, "empty.key` is empty"),
            (cert_file.clone(), write("locked.key", &encrypted), Which::Key, "is encrypted"),
            (cert_file.clone(), write("old.key", &old), Which::Key, "is encrypted"),
            (cert_file.clone(), write("other.key", &other), Which::Key, "is not the key of"),
        ];
        for (cert, key, file, sentence) in cases {
            let unusable = Pair { cert, key }.read().expect_err(sentence).remove(0);
            assert_eq!(unusable.file, file, "{unusable}");
            assert!(unusable.sentence.contains(sentence), "{unusable}");
        }
        // Both in one file is what some tools write, and a byte order mark before it what some editors do.
        let both = write("both.pem", &("\u{feff}".to_owned() + &key + &cert));
        let certificate = Pair { cert: both.clone(), key: both }.read().expect("a good pair");
        assert_eq!(certificate.names, ["a.example".to_owned()].into());
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_everybody_can_read_is_noticed() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().expect("a directory");
        let key = directory.path().join("a.key");
        fs::write(&key, "").expect("written");
        let pair = Pair { cert: key.clone(), key: key.clone() };
        for (mode, exposed) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("changed");
            assert_eq!(pair.exposed().is_some(), exposed, "{mode:o}");
        }
    }
}

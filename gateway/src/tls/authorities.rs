//! Who is believed to sign certificates: a file's authorities, or the system's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis_middleware::follow::Digest;
use rustls::RootCertStore;

use super::certificate::{certificates, read};

/// The authorities of a file, and its text.
#[derive(Debug, Clone)]
pub(super) struct Authorities {
    pub(super) path: PathBuf,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) content: Vec<u8>,
}

impl Authorities {
    /// The authorities in a PEM file. One that is no certificate is an error: whoever it signs for would be shut out.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let content = read(path)?;
        let mut roots = RootCertStore::empty();
        for (index, certificate) in certificates(&content, path)?.into_iter().enumerate() {
            roots.add(certificate).map_err(|error| {
                format!("certificate {} in `{}` cannot be an authority: {error}", index + 1, path.display())
            })?;
        }
        Ok(Self { path: path.to_owned(), roots: Arc::new(roots), content })
    }

    /// What was read, to notice when it changes.
    pub(super) fn seen(&self) -> (PathBuf, Digest) {
        (self.path.clone(), Digest::of(&self.content))
    }

    /// The authorities that the system believes.
    pub(super) fn of_the_system() -> Result<Arc<RootCertStore>, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        match roots.is_empty() {
            false => Ok(Arc::new(roots)),
            true => {
                Err("this system has no list of certificate authorities, so no certificate could be believed; install \
                         one (the package is often called `ca-certificates`), or name a file with `ca`"
                    .to_owned())
            }
        }
    }
}

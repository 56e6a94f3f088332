//! TLS towards the instances of a service.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use portcullis_config::{Document, Faults, Protocol, ServiceTls, Spanned};
use portcullis_middleware::follow::Digest;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::authorities::Authorities;
use super::certificate::{self, Certificate, Pair};
use super::files::FromFiles;
use super::refused::{AN_AUTHORITYS, is_an_authoritys};
use super::{Files, provider, versions};

/// TLS towards the instances of a service.
///
/// Services and plans whose settings agree share it: connections that are open stay good across a reload, and sessions
/// go on.
pub struct Upstream {
    settings: Settings,
    server_name: Option<ServerName<'static>>,
    current: ArcSwap<Current>,
    /// Held while what was read is exchanged; handshakes never take it.
    exchange: Mutex<()>,
}

/// What the file says, with paths that do not depend on who reads them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Settings {
    ca: Option<PathBuf>,
    server_name: Option<String>,
    min_version: portcullis_config::TlsVersion,
    client: Option<Pair>,
    /// What is spoken after the handshake, best first.
    protocols: &'static [&'static [u8]],
}

/// What is in use now. It is exchanged whole.
struct Current {
    parts: Parts,
    client: Arc<ClientConfig>,
}

/// What was read.
#[derive(Clone)]
struct Parts {
    roots: Arc<RootCertStore>,
    /// Where the roots come from, unless they are the system's.
    authorities: Option<Authorities>,
    certificate: Option<Arc<Certificate>>,
}

/// What the services of all plans share.
#[derive(Default)]
pub struct Upstreams(Mutex<HashMap<Settings, Weak<Upstream>>>);

/// Builds what the services of one plan need.
pub struct Builder<'a> {
    upstreams: &'a Upstreams,
    directory: &'a Path,
    files: &'a mut Files,
    /// The system's authorities, read when the first service wants them.
    system: OnceCell<Result<Arc<RootCertStore>, String>>,
}

impl Upstreams {
    /// For the services of a plan. Relative paths start from `directory`.
    pub fn builder<'a>(&'a self, directory: &'a Path, files: &'a mut Files) -> Builder<'a> {
        Builder { upstreams: self, directory, files, system: OnceCell::new() }
    }
}

impl Builder<'_> {
    /// TLS as a service's `tls` says, to speak this protocol. `None` if it cannot be had, and then the faults say why.
    pub fn build(
        &mut self,
        tls: &Spanned<ServiceTls>,
        protocol: Protocol,
        document: &Document,
        faults: &mut Faults,
    ) -> Option<Arc<Upstream>> {
        let parts = self.read(tls, document, faults);
        let server_name = match &tls.server_name {
            None => None,
            Some(written) => match ServerName::try_from(written.value.clone()) {
                Ok(name) => Some(name),
                Err(_) => {
                    let said = format!("`{written}` is neither the name of a host nor an address");
                    faults.error(document, written.span.clone(), said);
                    return None;
                }
            },
        };
        let parts = parts?;
        let settings = Settings {
            ca: tls.ca.as_ref().map(|path| self.directory.join(&path.value)),
            server_name: tls.server_name.as_ref().map(|name| name.value.clone()),
            min_version: tls.min_version,
            client: tls.client.as_ref().map(|written| Pair::new(written, self.directory)),
            protocols: match protocol {
                Protocol::Http1 => &[b"http/1.1"],
                Protocol::H2 | Protocol::H2c => &[b"h2"],
                Protocol::Auto => &[b"h2", b"http/1.1"],
            },
        };
        let client = match parts.client(&settings) {
            Ok(client) => client,
            Err(sentence) => {
                faults.error(document, tls.span.clone(), sentence);
                return None;
            }
        };
        let current = Arc::new(Current { parts, client });

        let mut all = self.upstreams.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        all.retain(|_, upstream| upstream.strong_count() > 0);
        let upstream = match all.get(&settings).and_then(Weak::upgrade) {
            Some(upstream) => {
                // Sessions that go on need the same client; there is a new one only for something new.
                if upstream.current.load().parts.seen() != current.parts.seen() {
                    upstream.current.store(current);
                }
                upstream
            }
            None => {
                let current = ArcSwap::new(current);
                let exchange = Mutex::default();
                let upstream = Arc::new(Upstream { settings: settings.clone(), server_name, current, exchange });
                all.insert(settings, Arc::downgrade(&upstream));
                upstream
            }
        };
        self.files.add(upstream.clone());
        Some(upstream)
    }

    fn read(&self, tls: &Spanned<ServiceTls>, document: &Document, faults: &mut Faults) -> Option<Parts> {
        let mut read = || match &tls.ca {
            Some(path) => match Authorities::read(&self.directory.join(&path.value)) {
                Ok(authorities) => Some((authorities.roots.clone(), Some(authorities))),
                Err(sentence) => {
                    faults.error(document, path.span.clone(), sentence);
                    None
                }
            },
            None => match self.system.get_or_init(Authorities::of_the_system) {
                Ok(roots) => Some((roots.clone(), None)),
                Err(sentence) => {
                    faults.error(document, tls.span.clone(), sentence.clone());
                    None
                }
            },
        };
        let roots = read();
        let certificate = match &tls.client {
            None => None,
            Some(written) => {
                let pair = Pair::new(written, self.directory);
                match pair.read() {
                    Ok(certificate) => {
                        certificate::warn(&certificate, written, document, faults);
                        Some(Arc::new(certificate))
                    }
                    Err(unusable) => {
                        certificate::report(unusable, written, document, faults);
                        return None;
                    }
                }
            }
        };
        let (roots, authorities) = roots?;
        Some(Parts { roots, authorities, certificate })
    }
}

impl Parts {
    fn seen(&self) -> Vec<(PathBuf, Digest)> {
        let authorities = self.authorities.iter().map(Authorities::seen);
        let certificate = self.certificate.iter().flat_map(|certificate| certificate.seen.clone());
        authorities.chain(certificate).collect()
    }

    /// What rustls makes of them.
    fn client(&self, settings: &Settings) -> Result<Arc<ClientConfig>, String> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(settings.min_version))
            .map_err(|error| error.to_string())?
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.certificate {
            Some(certificate) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from((*certificate.certified).clone())))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = settings.protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

impl Upstream {
    /// Shakes hands with an instance that is reached by this host. Whoever calls it sees to the time it may take. With
    /// `http1`, nothing else is offered.
    pub async fn connect<S>(&self, stream: S, host: &str, http1: bool) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?,
        };
        let mut client = self.current.load().client.clone();
        if http1 {
            Arc::make_mut(&mut client).alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        TlsConnector::from(client).connect(name, stream).await
    }
}

impl FromFiles for Upstream {
    fn files(&self) -> Vec<(PathBuf, Digest)> {
        self.current.load().parts.seen()
    }

    fn reread(&self, file: &Path) -> Result<(), String> {
        let _exchanging = self.exchange.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut parts = self.current.load().parts.clone();
        if self.settings.ca.as_deref() == Some(file) {
            let authorities = Authorities::read(file)?;
            (parts.roots, parts.authorities) = (authorities.roots.clone(), Some(authorities));
        }
        if let Some(pair) = self.settings.client.as_ref().filter(|pair| pair.cert == file || pair.key == file) {
            parts.certificate = Some(Arc::new(pair.read().map_err(|unusable| certificate::together(&unusable))?));
        }
        let client = parts.client(&self.settings)?;
        self.current.store(Arc::new(Current { parts, client }));
        Ok(())
    }

    fn oddities(&self, now: SystemTime) -> Vec<String> {
        self.current.load().parts.certificate.iter().filter_map(|certificate| certificate.ending(now)).collect()
    }
}

/// Upstreams of the same settings are the same; there is one of each at a time.
impl PartialEq for Upstream {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Upstream {}

impl Hash for Upstream {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.settings.hash(state);
    }
}

/// Whether an exchange over a connection failed because of TLS: in version 1.3 an instance refuses a client's
/// certificate only after the client believes that all is well.
pub fn is_to_blame(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error does not name what it was made of as its source, but that one's source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Why a handshake with an instance failed.
pub fn distrust(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(why)) if is_an_authoritys(why) => {
            format!("the instance's certificate is refused: {AN_AUTHORITYS}")
        }
        _ => error.to_string(),
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("settings", &self.settings).finish_non_exhaustive()
    }
}

//! TLS at a door: the certificates of its listeners together, and each listener's terms.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use portcullis_config::TlsVersion;
use portcullis_config::units::HostPattern;
use portcullis_config::{Document, Faults, Listener, ListenerTls, Named};
use portcullis_middleware::Tls;
use portcullis_middleware::follow::Digest;
use portcullis_middleware::router::{HostMap, fold_host};
use rustls::ServerConfig;

use super::certificate::{self, Certificate, Pair};
use super::choose::{ByName, Chooser};
use super::files::FromFiles;
use super::terms::{Tag, Terms};
use super::{Counts, Files, Handshake, Shared, Tickets};

/// What becomes of a host that no certificate is for.
const REFUSED: &str = "clients that ask for it are refused";

/// TLS at a door.
pub struct Downstream {
    /// The listeners, in file order.
    listeners: Vec<Member>,
    /// Which listener a name belongs to.
    by_host: HostMap<usize>,
    /// Which one a client is for that asks for no name: the one for any host, else the first.
    nameless: usize,
    tickets: Tickets,
    counts: Arc<Counts>,
    current: ArcSwap<Current>,
    /// Held while what was read is exchanged; handshakes never take it.
    exchange: Mutex<()>,
}

/// A listener as the file has it.
struct Member {
    name: Arc<str>,
    hosts: Vec<HostPattern>,
    tls: ListenerTls,
    directory: PathBuf,
}

/// What is in use now. It is exchanged whole.
struct Current {
    listeners: Vec<Ready>,
}

/// A listener, ready to shake hands.
#[derive(Clone)]
struct Ready {
    certificates: Vec<Arc<Certificate>>,
    terms: Terms,
    tag: Tag,
    server: Arc<ServerConfig>,
    by_name: Arc<ByName>,
}

/// What the handshake of a connection established, for as long as the connection lives.
#[derive(Debug)]
pub struct Secured {
    /// What everybody may know of it.
    pub tls: Arc<Tls>,
    /// The listener that the name in the handshake belongs to; `None` without a name.
    listener: Option<Arc<str>>,
    /// The terms that were agreed on.
    tag: Tag,
}

/// When a certificate ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// The listener that has it.
    pub listener: Arc<str>,
    /// Its file.
    pub file: String,
    /// The moment after which it is worth nothing.
    pub not_after: SystemTime,
}

/// How a handshake is to go on.
pub(super) struct Offer {
    pub(super) listener: Option<Arc<str>>,
    pub(super) tag: Tag,
    pub(super) min_version: TlsVersion,
    pub(super) server: Arc<ServerConfig>,
    pub(super) needs_a_certificate: bool,
}

impl Downstream {
    /// Reads the files of the listeners that share an address and have `tls`. `None` if one cannot be used, and then
    /// the faults say why.
    pub fn build(
        listeners: &[&Named<Listener>],
        directory: &Path,
        shared: &Shared,
        document: &Document,
        faults: &mut Faults,
        files: &mut Files,
    ) -> Option<Arc<Self>> {
        let mut members = Vec::new();
        let mut by_host = HostMap::default();
        let mut nameless = None;
        let mut read = Vec::new();
        for named in listeners {
            let Some(tls) = &named.value.tls else { continue };
            let hosts = named.value.hosts.iter().map(|host| &host.value);
            for host in hosts {
                by_host.insert(host, members.len());
            }
            if named.value.hosts.is_empty() {
                by_host.insert(&HostPattern::Any, members.len());
            }
            if by_host.get(&HostPattern::Any) == Some(&members.len()) {
                nameless = Some(members.len());
            }
            read.push(read_listener(&tls.value, directory, document, faults));
            members.push(Member {
                name: named.name.value.as_str().into(),
                hosts: named.value.hosts.iter().map(|host| host.value.clone()).collect(),
                tls: tls.value.clone(),
                directory: directory.to_owned(),
            });
        }
        let read: Vec<_> = read.into_iter().collect::<Option<_>>()?;
        let current = match Current::new(read, &shared.tickets) {
            Ok(current) => current,
            Err((index, sentence)) => {
                let span = listeners[index].value.tls.as_ref().map_or(0..0, |tls| tls.span.clone());
                faults.error(document, span, sentence);
                return None;
            }
        };
        for host in listeners.iter().flat_map(|listener| &listener.value.hosts) {
            if let Some(said) = current.unserved(&host.value) {
                faults.warning(document, host.span.clone(), said).label(REFUSED);
            }
        }
        let downstream = Arc::new(Self {
            listeners: members,
            by_host,
            nameless: nameless.unwrap_or_default(),
            tickets: shared.tickets.clone(),
            counts: shared.counts.clone(),
            current: ArcSwap::from_pointee(current),
            exchange: Mutex::default(),
        });
        files.add(downstream.clone());
        Some(downstream)
    }

    /// How to go on with a client that asks for this name. `None` if the name is nobody's here.
    pub(super) fn offer(&self, name: Option<&str>) -> Option<Offer> {
        let current = self.current.load();
        let (index, listener) = match name {
            None => (self.nameless, None),
            Some(name) => {
                let index = *self.by_host.find(&fold_host(name))?;
                (index, Some(self.listeners[index].name.clone()))
            }
        };
        let ready = &current.listeners[index];
        if name.is_some_and(|name| !ready.by_name.has(name)) {
            return None;
        }
        Some(Offer {
            listener,
            tag: ready.tag,
            min_version: ready.terms.min_version,
            server: ready.server.clone(),
            needs_a_certificate: ready.terms.require_a_certificate(),
        })
    }

    /// Counts how a handshake ended.
    pub fn count(&self, result: Handshake) {
        self.counts.count(result);
    }

    /// Whether requests for a listener may come over a connection: it was made for that listener's hosts, and on the
    /// terms that the listener has now.
    pub fn admits(&self, secured: &Secured, listener: &str) -> bool {
        if secured.listener.as_deref().is_some_and(|made_for| made_for != listener) {
            return false;
        }
        let Some(index) = self.listeners.iter().position(|member| *member.name == *listener) else { return false };
        self.current.load().listeners[index].tag == secured.tag
    }

    /// What a connection of a client that asks for this host would have established; for `portcullis explain`.
    pub fn imagined(&self, host: &str) -> Secured {
        let index = self.by_host.find(host).copied();
        let listener = index.map(|index| self.listeners[index].name.clone());
        let tag = self.current.load().listeners[index.unwrap_or(self.nameless)].tag;
        let tls =
            Tls { version: TlsVersion::V1_3, server_name: Some(host.to_owned()), resumed: false, certificate: None };
        Secured { tls: Arc::new(tls), listener, tag }
    }

    /// When the certificates end, in file order.
    pub fn expiries(&self) -> Vec<Expiry> {
        let current = self.current.load();
        let of = |(member, ready): (&Member, &Ready)| -> Vec<Expiry> {
            let expiry = |certificate: &Arc<Certificate>| Expiry {
                listener: member.name.clone(),
                file: certificate.pair.cert.display().to_string(),
                not_after: certificate.not_after,
            };
            ready.certificates.iter().map(expiry).collect()
        };
        self.listeners.iter().zip(&current.listeners).flat_map(of).collect()
    }
}

impl Secured {
    pub(super) fn new(tls: Tls, offer: &Offer) -> Self {
        Self { tls: Arc::new(tls), listener: offer.listener.clone(), tag: offer.tag }
    }
}

impl FromFiles for Downstream {
    fn files(&self) -> Vec<(PathBuf, Digest)> {
        let current = self.current.load();
        let of = |ready: &Ready| -> Vec<(PathBuf, Digest)> {
            let pairs = ready.certificates.iter().flat_map(|certificate| certificate.seen.clone());
            pairs.chain(ready.terms.seen()).collect()
        };
        current.listeners.iter().flat_map(of).collect()
    }

    fn reread(&self, file: &Path) -> Result<(), String> {
        let _exchanging = self.exchange.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let current = self.current.load_full();
        let mut parts = Vec::new();
        let (mut changed, mut wrong) = (false, None);
        for (member, ready) in self.listeners.iter().zip(&current.listeners) {
            let mut certificates = ready.certificates.clone();
            for certificate in &mut certificates {
                if certificate.pair.cert == file || certificate.pair.key == file {
                    match certificate.pair.read() {
                        Ok(new) => (*certificate, changed) = (Arc::new(new), true),
                        Err(unusable) => wrong = Some(certificate::together(&unusable)),
                    }
                }
            }
            let mut terms = ready.terms.clone();
            if terms.seen().is_some_and(|(path, _)| path == file) {
                match Terms::new(&member.tls, &member.directory) {
                    Ok(new) => (terms, changed) = (new, true),
                    Err(error) => wrong = Some(error),
                }
            }
            parts.push((certificates, terms));
        }
        // What is good is taken over even if something else that needs the same file is not.
        if changed {
            self.current.store(Arc::new(Current::new(parts, &self.tickets).map_err(|(_, error)| error)?));
        }
        wrong.map_or(Ok(()), Err)
    }

    fn oddities(&self, now: SystemTime) -> Vec<String> {
        let current = self.current.load();
        let certificates = current.listeners.iter().flat_map(|ready| &ready.certificates);
        let ending = certificates.filter_map(|certificate| certificate.ending(now));
        let hosts = self.listeners.iter().flat_map(|member| &member.hosts);
        let unserved = hosts.filter_map(|host| current.unserved(host)).map(|said| format!("{said}; {REFUSED}"));
        ending.chain(unserved).collect()
    }
}

type Read = (Vec<Arc<Certificate>>, Terms);

impl Current {
    /// With an error, the listener it is about.
    fn new(parts: Vec<Read>, tickets: &Tickets) -> Result<Self, (usize, String)> {
        let by_name = Arc::new(ByName::new(parts.iter().flat_map(|(certificates, _)| certificates)));
        let ready = |(index, (certificates, terms)): (usize, Read)| {
            let first = certificates.first().expect("a listener without certificates was refused with the file");
            let chooser = Chooser { by_name: by_name.clone(), first: first.certified.clone() };
            let server = terms.server(chooser, tickets).map_err(|error| (index, error))?;
            Ok(Ready { tag: terms.tag(), certificates, terms, server, by_name: by_name.clone() })
        };
        let listeners = parts.into_iter().enumerate().map(ready).collect::<Result<_, _>>()?;
        Ok(Self { listeners })
    }

    /// What is to be said of a host that no certificate is for. A client that asks for it is refused, which is rarely
    /// what was meant.
    fn unserved(&self, host: &HostPattern) -> Option<String> {
        let by_name = &self.listeners.first()?.by_name;
        let has = match host {
            // Nobody asks for an address by name.
            HostPattern::Exact(name) => {
                by_name.has(name) || name.starts_with('[') || name.parse::<std::net::IpAddr>().is_ok()
            }
            HostPattern::Wildcard(parent) => by_name.has_all_below(parent),
            HostPattern::Any => true,
        };
        (!has).then(|| format!("no certificate of this address is for `{host}`"))
    }
}

/// Reads what a listener's `tls` names, and says all that is wrong with it.
fn read_listener(tls: &ListenerTls, directory: &Path, document: &Document, faults: &mut Faults) -> Option<Read> {
    let mut certificates = Some(Vec::new());
    for written in &tls.certificates.value {
        let pair = Pair::new(written, directory);
        match pair.read() {
            Ok(certificate) => {
                certificate::warn(&certificate, written, document, faults);
                if let Some(certificates) = &mut certificates {
                    certificates.push(Arc::new(certificate));
                }
            }
            Err(unusable) => {
                certificate::report(unusable, written, document, faults);
                certificates = None;
            }
        }
    }
    let terms = Terms::new(tls, directory).map_err(|sentence| {
        let at = tls.client_ca.as_ref().map_or(&tls.certificates.span, |path| &path.span);
        faults.error(document, at.clone(), sentence);
    });
    certificates.filter(|certificates| !certificates.is_empty()).zip(terms.ok())
}

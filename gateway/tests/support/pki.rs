//! Authorities, certificates, and clients that believe them.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Wire;

/// Signs certificates.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Issued {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }

    /// A certificate for these hosts and for `127.0.0.1`.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |_| {})
    }

    /// One that expired long ago.
    pub fn issue_expired(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |params| {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        })
    }

    pub fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.distinguished_name.push(DnType::CommonName, names.first().cloned().unwrap_or_default());
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Issued { cert: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

impl Issued {
    /// Writes `NAME.pem` and `NAME.key`, the key readable by the owner only; the way a file names both.
    pub fn write(&self, directory: &Path, name: &str) -> String {
        let (cert, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        replace(&cert, &self.cert);
        replace(&key, &self.key);
        format!("{{ cert = \"{}\", key = \"{}\" }}", cert.display(), key.display())
    }

    /// The certificate as it crosses the wire.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// A client's certificate that is renewed while the client runs, and keeps its sessions.
#[derive(Debug)]
pub struct Renewed(Mutex<Arc<CertifiedKey>>);

impl Renewed {
    pub fn new(issued: &Issued) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Self::certified(issued))))
    }

    pub fn renew(&self, issued: &Issued) {
        *self.0.lock().unwrap() = Self::certified(issued);
    }

    fn certified(issued: &Issued) -> Arc<CertifiedKey> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Arc::new(CertifiedKey::from_der(vec![issued.der()], issued.key(), &provider).unwrap())
    }
}

impl ResolvesClientCert for Renewed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.lock().unwrap().clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Replaces a file as a careful writer does it: nobody ever sees half of it.
pub fn replace(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let new: PathBuf = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// Somebody who speaks TLS and believes one authority. Cloning shares its sessions.
#[derive(Clone)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    pub fn new(authority: &Authority) -> Self {
        Self::build(authority, rustls::DEFAULT_VERSIONS, None)
    }

    pub fn speaking(authority: &Authority, version: &'static SupportedProtocolVersion) -> Self {
        Self::build(authority, &[version], None)
    }

    /// One that presents a certificate.
    pub fn known_as(authority: &Authority, own: &Issued) -> Self {
        Self::build(authority, rustls::DEFAULT_VERSIONS, Some(own))
    }

    /// One that presents what its certificate is at the time.
    pub fn renewed(authority: &Authority, version: &'static SupportedProtocolVersion, own: Arc<Renewed>) -> Self {
        let mut config = (*Self::speaking(authority, version).0).clone();
        config.client_auth_cert_resolver = own;
        Self(Arc::new(config))
    }

    /// One that can do less than others.
    pub fn without(
        authority: &Authority,
        version: &'static SupportedProtocolVersion,
        change: impl FnOnce(&mut CryptoProvider),
    ) -> Self {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        change(&mut provider);
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[version]);
        let config = builder.unwrap().with_root_certificates(authority.roots()).with_no_client_auth();
        Self(Arc::new(config))
    }

    fn build(authority: &Authority, versions: &[&'static SupportedProtocolVersion], own: Option<&Issued>) -> Self {
        let roots = authority.roots();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        Self(Arc::new(match own {
            Some(own) => builder.with_client_auth_cert(vec![own.der()], own.key()).unwrap(),
            None => builder.with_no_client_auth(),
        }))
    }

    /// The same, and it offers these protocols.
    pub fn offering(&self, protocols: &[&str]) -> Self {
        let mut config = (*self.0).clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self(Arc::new(config))
    }

    /// Shakes hands. An address as the name means that none is asked for.
    pub async fn connect(&self, address: SocketAddr, name: &str) -> io::Result<Secure> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        Ok(Secure(TlsConnector::from(self.0.clone()).connect(name, stream).await?))
    }

    /// What it sends first.
    pub async fn hello(&self, name: &'static str) -> Vec<u8> {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, client) = (socket.local_addr().unwrap(), self.clone());
        let asking = tokio::spawn(async move { client.connect(address, name).await.is_ok() });
        let mut wire = Wire::new(socket.accept().await.unwrap().0);
        let header = wire.take(5).await;
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let hello = [header, wire.take(length).await].concat();
        drop(wire);
        assert!(!asking.await.unwrap());
        hello
    }

    /// Asks once, over a new connection; the head and the body of the answer.
    pub async fn get(&self, address: SocketAddr, name: &str, path: &str) -> io::Result<String> {
        self.connect(address, name).await?.get(name, path).await
    }
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Secure(TlsStream<TcpStream>);

impl Secure {
    pub async fn get(&mut self, host: &str, path: &str) -> io::Result<String> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n")
                && body.len() >= super::content_length(&format!("{head}\r\n"))
            {
                return Ok(text.into_owned());
            }
            if self.0.read_buf(&mut answer).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("closed after {answer:?}")));
            }
        }
    }

    /// Sends a body, and reads the answer's as long as it says it is.
    pub async fn post(&mut self, host: &str, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
        let head = format!("POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n", body.len());
        let (mut from, mut to) = tokio::io::split(&mut self.0);
        let sending = async {
            to.write_all(head.as_bytes()).await?;
            to.write_all(body).await?;
            to.flush().await
        };
        let reading = async {
            let mut answer = Vec::new();
            loop {
                if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
                    let length = super::content_length(&String::from_utf8_lossy(&answer[..end + 2]));
                    answer.drain(..end + 4);
                    while answer.len() < length && from.read_buf(&mut answer).await? > 0 {}
                    return Ok(answer);
                }
                if from.read_buf(&mut answer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        };
        let (sent, answer) = tokio::join!(sending, reading);
        sent.and(answer)
    }

    /// The connection itself.
    pub fn into_stream(self) -> TlsStream<TcpStream> {
        self.0
    }

    /// Whether the other end has closed it.
    pub async fn is_over(&mut self) -> bool {
        self.0.read_u8().await.is_err()
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.0.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    pub fn kind(&self) -> HandshakeKind {
        self.0.get_ref().1.handshake_kind().unwrap()
    }

    pub fn protocol(&self) -> Option<String> {
        let protocol = self.0.get_ref().1.alpn_protocol()?;
        Some(String::from_utf8(protocol.to_vec()).unwrap())
    }
}

/// An instance that speaks TLS, and what it saw of handshakes: the name that was asked for, and whether a certificate
/// was presented.
pub struct SecureInstance {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<(Option<String>, bool)>>>,
}

impl SecureInstance {
    /// One that answers every request with its head and body. With `clients`, it asks for a certificate.
    pub async fn start(
        issued: &Issued,
        versions: &[&'static SupportedProtocolVersion],
        clients: Option<&Authority>,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
        let builder = match clients {
            Some(authority) => {
                let roots = Arc::new(authority.roots());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let config = Arc::new(builder.with_single_cert(vec![issued.der()], issued.key()).unwrap());
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (socket.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let noted = seen.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                let (acceptor, noted) = (TlsAcceptor::from(config.clone()), noted.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let connection = stream.get_ref().1;
                    let name = connection.server_name().map(str::to_owned);
                    noted.lock().unwrap().push((name, connection.peer_certificates().is_some()));
                    let mut read = Vec::new();
                    while stream.read_buf(&mut read).await.unwrap_or(0) > 0 {
                        let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
                        let length = end + 4 + super::content_length(&String::from_utf8_lossy(&read[..end + 2]));
                        while read.len() < length && stream.read_buf(&mut read).await.unwrap_or(0) > 0 {}
                        let request: Vec<u8> = read.drain(..length).collect();
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                        if stream.write_all(&[head.as_bytes(), &request].concat()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, seen }
    }

    /// One that answers with this, whatever is asked, and then closes the connection, with TLS' farewell or without.
    pub async fn closing(issued: &Issued, answer: &'static str, farewell: bool) -> SocketAddr {
        let (acceptor, socket) = (acceptor(issued, &[]), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let Ok(mut stream) = acceptor.accept(socket.accept().await.unwrap().0).await else { continue };
                let mut read = Vec::new();
                while !read.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut read).await.unwrap();
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                if farewell {
                    stream.shutdown().await.unwrap();
                }
                stream.into_inner().0.shutdown().await.unwrap();
            }
        });
        address
    }

    /// One that agrees to speak HTTP/2 and then closes the connection, with TLS' farewell or without.
    pub async fn leaving(issued: &Issued, farewell: bool) -> SocketAddr {
        let (acceptor, socket) = (acceptor(issued, &["h2"]), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let Ok(mut stream) = acceptor.accept(socket.accept().await.unwrap().0).await else { continue };
                if farewell {
                    let _ = stream.shutdown().await;
                }
            }
        });
        address
    }

    /// One that offers these protocols, and answers with the one that was agreed on; and how often it shook hands.
    pub async fn speaking(issued: &Issued, protocols: &[&str]) -> (SocketAddr, Arc<AtomicUsize>) {
        let (acceptor, socket) = (acceptor(issued, protocols), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (address, handshakes) = (socket.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let count = handshakes.clone();
        tokio::spawn(async move {
            loop {
                let Ok(mut stream) = acceptor.accept(socket.accept().await.unwrap().0).await else { continue };
                count.fetch_add(1, Relaxed);
                tokio::spawn(async move {
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        let mut connection = h2::server::handshake(stream).await.unwrap();
                        while let Some(Ok((request, mut respond))) = connection.accept().await {
                            let told = format!("{:?} {}", request.version(), request.uri().scheme_str().unwrap());
                            let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                            send.send_data(told.into(), true).unwrap();
                        }
                        return;
                    }
                    let mut read = Vec::new();
                    while stream.read_buf(&mut read).await.unwrap_or(0) > 0 {
                        if read.ends_with(b"\r\n\r\n") {
                            read.clear();
                            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nHTTP/1.1";
                            stream.write_all(answer).await.unwrap();
                        }
                    }
                });
            }
        });
        (address, handshakes)
    }

    /// One that takes either version of HTTP, agrees to whatever is asked for with this head, and then sends back what
    /// comes, until it is told that no more will.
    pub async fn agreeing(issued: &Issued, agrees: &'static str) -> SocketAddr {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(rustls::DEFAULT_VERSIONS);
        let builder = builder.unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(vec![issued.der()], issued.key()).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (acceptor, socket) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut stream = acceptor.accept(socket.accept().await.unwrap().0).await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut read).await.unwrap();
            }
            stream.write_all(agrees.as_bytes()).await.unwrap();
            let (mut from, mut to) = tokio::io::split(&mut stream);
            tokio::io::copy(&mut from, &mut to).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        address
    }

    pub fn seen(&self) -> Vec<(Option<String>, bool)> {
        self.seen.lock().unwrap().clone()
    }
}

/// Shakes hands with whoever comes.
fn acceptor(issued: &Issued, protocols: &[&str]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(rustls::DEFAULT_VERSIONS);
    let builder = builder.unwrap().with_no_client_auth();
    let mut config = builder.with_single_cert(vec![issued.der()], issued.key()).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

//! What the log says about TLS: whoever reads it at night finds in it what to do.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::ExtendedKeyUsagePurpose::ServerAuth;
use rcgen::{BasicConstraints, IsCa};
use rustls::SignatureScheme::RSA_PSS_SHA256;
use rustls::version::{TLS12, TLS13};
use support::Wire;
use support::pki::{Authority, SecureInstance, TlsClient, replace};
use support::process::Process;

/// A file with one listener for one host.
fn file(tls: &str) -> String {
    format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\nhosts = [\"a.example\"]\ntls = {{ {tls} }}\n[[route]]\nrespond = {{}}\n"
    )
}

/// Issues and writes a pair for these hosts; the way a file names it.
fn pair(authority: &Authority, directory: &Path, names: &[&str]) -> String {
    authority.issue(names).write(directory, "pair")
}

/// The result and the reason of the handshake that failed next.
async fn failed(gateway: &mut Process) -> (String, String) {
    let line = gateway.says("a TLS handshake failed").await;
    let told = |key: &str| line[key].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
    (told("result"), told("reason"))
}

fn is(result: &str, reason: &str) -> (String, String) {
    (result.to_owned(), reason.to_owned())
}

/// Sends this instead of a handshake.
async fn send(address: SocketAddr, bytes: &[u8]) {
    let mut wire = Wire::connect(address).await;
    wire.put(bytes).await;
    wire.rest().await;
}

/// Connects and goes.
async fn send_nothing(address: SocketAddr) {
    let mut wire = Wire::connect(address).await;
    wire.shut_down().await;
    assert_eq!(wire.rest().await, b"");
}

#[tokio::test]
async fn a_new_pair_that_leaves_a_host_without_a_certificate_is_warned_of_as_at_the_start() {
    // All that was said is that the new one is in use; and nobody was let in any more.
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("test authority");
    let certificate = pair(&authority, directory.path(), &["a.example"]);
    let (mut gateway, _) = Process::start(&file(&format!("certificates = [{certificate}]"))).await;
    pair(&authority, directory.path(), &["b.example"]);
    gateway.says("a certificate's file has changed, and the new one is in use").await;
    let line =
        gateway.says("no certificate of this address is for `a.example`; clients that ask for it are refused").await;
    assert_eq!(line["level"], "WARN");
}

#[tokio::test]
async fn a_handshake_without_a_common_ground_says_what_is_missing() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("test authority"));
    let certificate = pair(&authority, directory.path(), &["a.example"]);
    let (mut strict, address) =
        Process::start(&file(&format!("certificates = [{certificate}], min_version = \"1.3\""))).await;
    let refused = TlsClient::speaking(&authority, &TLS12).connect(address, "a.example").await;
    assert!(refused.is_err());
    let reason = "the client speaks only versions of TLS older than 1.3, which is the listener's `min_version`";
    assert_eq!(failed(&mut strict).await, is("incompatible", reason));

    let (mut gateway, address) = Process::start(&file(&format!("certificates = [{certificate}]"))).await;
    // All that clients of these kinds do know is RSA, and the key is for ECDSA.
    let suites = TlsClient::without(&authority, &TLS12, |provider| {
        provider.cipher_suites.retain(|suite| format!("{suite:?}").contains("ECDHE_RSA"));
    });
    let signatures = TlsClient::without(&authority, &TLS13, |provider| {
        let known = &mut provider.signature_verification_algorithms;
        let rsa = known.mapping.iter().position(|(scheme, _)| *scheme == RSA_PSS_SHA256).unwrap();
        known.mapping = &known.mapping[rsa..=rsa];
    });
    for (client, reason) in [
        (
            suites,
            "the client has no cipher suite in common with this listener: none that is safe, or none for the kind of key \
             that the certificate has; one of the other kind (RSA, ECDSA) may stand beside it",
        ),
        (
            signatures,
            "the client cannot check signatures of the kind of key that the certificate has; one of the other kind (RSA, \
             ECDSA) may stand beside it",
        ),
        (
            TlsClient::new(&authority).offering(&["acme-tls/1"]),
            "the client speaks neither `h2` nor `http/1.1`, going by what it offers (ALPN)",
        ),
    ] {
        assert!(client.connect(address, "a.example").await.is_err());
        assert_eq!(failed(&mut gateway).await, is("incompatible", reason));
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_told_from_one_that_fails() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("test authority"));
    let certificate = pair(&authority, directory.path(), &["a.example"]);
    let (mut gateway, address) = Process::start(&file(&format!("certificates = [{certificate}]"))).await;
    let hello = TlsClient::new(&authority).hello("a.example").await;
    let at = hello.windows(9).position(|window| window == b"a.example").unwrap();
    // Whoever only looks whether the port is open makes no line: the first one is of the next.
    send_nothing(address).await;
    let no_name = [&hello[..at], b"a exam\nle", &hello[at + 9..]].concat();
    for (bytes, result, reason) in [
        (
            &b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"[..],
            "plaintext",
            "the client speaks HTTP without TLS; it was told to use https://",
        ),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "malformed", "what came is no TLS: it begins with the byte 0x53 instead of 0x16"),
        (
            &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0],
            "malformed",
            "what came cannot be read as a handshake (received corrupt message of type MissingData(\"ProtocolVersion\"))",
        ),
        (&no_name, "malformed", "the name that the client asks for (SNI) cannot be the name of a host"),
    ] {
        send(address, bytes).await;
        assert_eq!(failed(&mut gateway).await, is(result, reason));
    }

    let stranger = TlsClient::new(&Authority::new("another authority"));
    assert!(stranger.connect(address, "a.example").await.is_err());
    let reason = "the client broke the handshake off: it does not believe who signed the certificate that it got; does \
                  `cert` hold the whole chain? (received fatal alert: UnknownCA)";
    assert_eq!(failed(&mut gateway).await, is("refused_by_client", reason));
}

/// What is said of a certificate as `openssl req -x509` makes it.
const AN_AUTHORITYS: &str = "it is an authority's own (CA:TRUE), which is to sign others and speak for nobody; make it \
                             anew with `-addext basicConstraints=critical,CA:FALSE`, or sign another one with it";

#[tokio::test]
async fn a_client_certificate_that_is_refused_says_why() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("test authority"));
    let certificate = pair(&authority, directory.path(), &["a.example"]);
    let clients = Authority::new("clients' authority");
    let ca = directory.path().join("clients.pem");
    replace(&ca, &clients.pem);
    let tls = format!("certificates = [{certificate}], client_ca = \"{}\"", ca.display());
    let (mut gateway, address) = Process::start(&file(&tls)).await;

    let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60 + 60);
    let known_as = |issued| TlsClient::known_as(&authority, &issued);
    let refused = "the client's certificate is refused";
    for (client, reason) in [
        (
            TlsClient::new(&authority),
            "the client has no certificate, and this listener asks for one (`client_ca`)".to_owned(),
        ),
        (
            known_as(Authority::new("others").issue(&["me"])),
            format!(
                "{refused}: no authority in `client_ca` signed it, or what stands between the two was not sent along"
            ),
        ),
        (
            known_as(clients.issue_with(&["me"], |params| params.not_after = (SystemTime::now() - days(3)).into())),
            format!("{refused}: it, or one that it depends on, expired 3 days ago"),
        ),
        (
            known_as(clients.issue_with(&["me"], |params| params.not_before = (SystemTime::now() + days(1)).into())),
            format!("{refused}: it, or one that it depends on, is not good before 1 day from now; is the clock right?"),
        ),
        (
            known_as(clients.issue_with(&["me"], |params| params.extended_key_usages = vec![ServerAuth])),
            format!("{refused}: it is for other uses than that of a client (extended key usage)"),
        ),
        (
            known_as(clients.issue_with(&["me"], |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
            format!("{refused}: {AN_AUTHORITYS}"),
        ),
    ] {
        assert!(client.get(address, "a.example", "/").await.is_err(), "{reason}");
        assert_eq!(failed(&mut gateway).await, is("client_certificate", &reason));
    }
}

/// A route to a service with this instance.
fn to_instance(instance: SocketAddr, authority: &Authority, directory: &Path) -> String {
    let ca = directory.join("ca.pem");
    replace(&ca, &authority.pem);
    format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\n[[route]]\nservice = \"orders\"\n[service.orders]\n\
         instances = [\"{instance}\"]\ntls = {{ ca = \"{}\" }}\nretry = {{ attempts = 1 }}\n",
        ca.display()
    )
}

async fn ask(address: SocketAddr) {
    send(address, b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await;
}

#[tokio::test]
async fn an_authoritys_certificate_on_an_instance_is_refused_with_what_to_do() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("internal"));
    let issued = authority.issue_with(&[], |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let address = SecureInstance::start(&issued, rustls::DEFAULT_VERSIONS, None).await.address;
    let (mut gateway, address) = Process::start(&to_instance(address, &authority, directory.path())).await;
    ask(address).await;
    let line = gateway.says("TLS with an instance failed").await;
    assert_eq!(line["error"], format!("the instance's certificate is refused: {AN_AUTHORITYS}"));
}

#[tokio::test]
async fn a_name_in_an_instances_certificate_makes_no_line_in_the_log() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("internal"));
    let issued = authority.issue_with(&[], |params| {
        let evil = "evil\n2026-11-22T00:00:00Z ERROR fake: line".try_into().unwrap();
        params.subject_alt_names = vec![rcgen::SanType::DnsName(evil)];
    });
    let instance = SecureInstance::start(&issued, rustls::DEFAULT_VERSIONS, None).await;
    let toml = to_instance(instance.address, &authority, directory.path());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let file = directory.path().join("gateway.toml");
    std::fs::write(&file, toml.replace("127.0.0.1:0", &free.to_string())).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["run", "--log-format", "text"]).arg(&file);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut gateway = command.spawn().unwrap();
    let mut log = std::io::BufRead::lines(std::io::BufReader::new(gateway.stderr.take().unwrap()));
    let mut line_with = |text: &str| log.by_ref().map(Result::unwrap).find(|line| line.contains(text)).unwrap();
    line_with("listening");
    ask(free).await;
    let line = line_with("TLS with an instance failed");
    assert!(line.contains(r"evil\n2026-11-22T00:00:00Z ERROR fake: line"), "{line}");
    gateway.kill().unwrap();
    gateway.wait().unwrap();
}

#[tokio::test]
async fn an_instance_that_leaves_behind_the_handshake_is_not_said_to_speak_another_language() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("internal"));
    for (protocol, farewell) in [("h2", true), ("h2", false), ("auto", true), ("auto", false)] {
        let instance = SecureInstance::leaving(&authority.issue(&[]), farewell).await;
        let toml = to_instance(instance, &authority, directory.path());
        let toml = toml.replace("[service.orders]\n", &format!("[service.orders]\nprotocol = \"{protocol}\"\n"));
        let (mut gateway, address) = Process::start(&toml).await;
        let mut wire = Wire::connect(address).await;
        wire.put(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await;
        let answer = String::from_utf8(wire.rest().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("reset_before_headers"), "{protocol}: {answer}");
        let line = gateway
            .says(
                "an instance closed a connection behind the TLS handshake, before its first frame of HTTP/2; it may \
                 have ended, or does it want a client's certificate (`tls.client`), or another one than it gets?",
            )
            .await;
        assert_eq!(line["instance"], instance.to_string());
        assert!(!line.to_string().contains("docs.rs"), "{line}");
    }
}

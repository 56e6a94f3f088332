//! TLS at the door: names, certificates, clients that must say who they are, and files that change meanwhile.

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use portcullis::app::App;
use portcullis::explain::Asked;
use portcullis::{Gateway, Plugins, plugins};
use portcullis_middleware::prelude::*;
use portcullis_middleware::tls::SubjectName;
use rustls::HandshakeKind;
use support::Wire;
use support::gateway::Running;
use support::pki::{Authority, Issued, Renewed, TlsClient, replace};
use tempfile::TempDir;
use tokio::time::Instant;

const HELLO: &str = "[[route]]\nmatch = { path = \"/hello\" }\nrespond = { body = \"hello\" }\n";

/// Answers with what the handshake established.
#[derive(Debug, Deserialize, JsonSchema)]
struct Who {}

impl Plugin for Who {
    const NAME: &'static str = "who";
    const EXAMPLE: &'static str = "";

    fn build(self, _: &Context) -> Result<RouteLayer, BuildError> {
        Ok(RouteLayer::around(self))
    }
}

impl Around for Who {
    async fn handle(&self, request: Request, _: Next) -> Response {
        let exchange = Exchange::of(&request);
        let tls = exchange.tls().expect("the listener has tls");
        let mut told = format!("{} {} {:?}\n", exchange.scheme(), tls.version, tls.server_name);
        if let Some(certificate) = &tls.certificate {
            let uris = certificate.names.iter().filter(|name| matches!(name, SubjectName::Uri(_)));
            told.push_str(&format!("{} {:?}\n", certificate.subject, uris.collect::<Vec<_>>()));
        }
        Response::new(told.into())
    }
}

fn with_who() -> Plugins {
    plugins().middleware::<Who>()
}

/// An authority, a directory for its certificates, and what a file says about listeners.
struct Stage {
    authority: Authority,
    directory: TempDir,
}

impl Stage {
    fn new() -> Self {
        Self { authority: Authority::new("test authority"), directory: TempDir::new().unwrap() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Issues and writes a certificate for these hosts; the way a file names it.
    fn certificate(&self, file: &str, names: &[&str]) -> (String, Issued) {
        let issued = self.authority.issue(names);
        (issued.write(self.path(), file), issued)
    }

    /// An authority for clients, and its file.
    fn clients(&self, file: &str) -> (Authority, String) {
        let authority = Authority::new("clients' authority");
        let path = self.path().join(file);
        replace(&path, &authority.pem);
        (authority, path.display().to_string())
    }
}

/// A file with one listener.
fn one(tls: &str, rest: &str) -> String {
    format!("{}\n{rest}", listener("web", &format!("tls = {{ {tls} }}")))
}

fn listener(name: &str, keys: &str) -> String {
    let admin = "access_log = { output = \"off\" }\n[admin]\naddress = \"127.0.0.1:0\"\n";
    let head = if name == "web" { admin } else { "" };
    format!("{head}[listener.{name}]\naddress = \"127.0.0.1:0\"\n{keys}\n")
}

async fn metric(gateway: &Running, line: &str) -> Option<f64> {
    let page = portcullis::admin::client::send(gateway.admin, "GET", "/metrics", &[], String::new()).await.unwrap().1;
    let found = page.lines().find_map(|found| found.strip_prefix(line))?;
    Some(found.trim().parse().unwrap())
}

async fn handshakes(gateway: &Running, result: &str) -> f64 {
    metric(gateway, &format!("portcullis_tls_handshakes_total{{result=\"{result}\"}}")).await.unwrap_or_default()
}

/// Waits until something is so; the gateway has ten seconds to get there.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let arrived = tokio::time::timeout(Duration::from_secs(10), async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(arrived.await.is_ok(), "it never came to this: {what}");
}

#[tokio::test]
async fn a_client_gets_the_certificate_of_the_name_it_asks_for() {
    let stage = Stage::new();
    let (first, first_issued) = stage.certificate("first", &["a.example"]);
    let (wild, wild_issued) = stage.certificate("wild", &["*.b.example"]);
    let (exact, exact_issued) = stage.certificate("exact", &["www.b.example"]);
    let file = one(&format!("certificates = [{first}, {wild}, {exact}]"), HELLO);
    let gateway = Running::start_whole(&file).await;
    let client = TlsClient::new(&stage.authority);
    for (name, expected) in [
        ("a.example", &first_issued),
        ("A.EXAMPLE", &first_issued),
        ("x.b.example", &wild_issued),
        ("www.b.example", &exact_issued),
        // An address is no name: who asks for none gets the first.
        ("127.0.0.1", &first_issued),
    ] {
        let mut connection = client.connect(gateway.address, name).await.unwrap();
        assert_eq!(connection.certificate(), expected.der(), "{name}");
        assert!(connection.get(name, "/hello").await.unwrap().ends_with("\r\n\r\nhello"), "{name}");
    }
    for name in ["b.example", "x.y.b.example", "other.example"] {
        let error = client.connect(gateway.address, name).await.unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{name}: {error}");
    }
    let counts = ["full", "resumed", "unknown_name"].map(|result| handshakes(&gateway, result));
    assert_eq!(futures_util::future::join_all(counts).await, [4.0, 1.0, 3.0], "the same name in capitals goes on");
}

/// Asks once, and prints the certificate's alternative names and the answer's status. rustls sends no dot.
const ASK_WITH_A_DOT: &str = "\
import socket, ssl, sys
port, ca, name, host = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.check_hostname = False
with context.wrap_socket(socket.create_connection(('127.0.0.1', int(port))), server_hostname=name) as connection:
    connection.sendall(f'GET /who HTTP/1.1\\r\\nhost: {host}\\r\\nconnection: close\\r\\n\\r\\n'.encode())
    names = [name for kind, name in connection.getpeercert()['subjectAltName'] if kind == 'DNS']
    print(names, connection.makefile('rb').read().decode())
";

#[tokio::test]
async fn a_dot_behind_a_name_is_none_of_it() {
    // RFC 6066 §3 has none there. Clients of `https://a.example./` send it all the same, and were refused.
    let stage = Stage::new();
    let (first, _) = stage.certificate("first", &["first.example"]);
    let (own, _) = stage.certificate("own", &["a.example"]);
    let (other, _) = stage.certificate("other", &["b.example"]);
    replace(&stage.path().join("ca.pem"), &stage.authority.pem);
    let file = [
        listener("web", &format!("hosts = [\"a.example\"]\ntls = {{ certificates = [{first}, {own}] }}")),
        listener("other", &format!("hosts = [\"b.example\"]\ntls = {{ certificates = [{other}] }}")),
        "[[route]]\nmatch = { path = \"/who\" }\nchain = [\"who\"]\nrespond = {}\n".to_owned(),
    ];
    let gateway = Running::start_with(with_who(), &file.concat()).await;
    let (port, ca) = (gateway.address.port().to_string(), stage.path().join("ca.pem"));
    let ask = async |name: &'static str, host: &'static str| {
        let mut python = Command::new("python3");
        python.args(["-c", ASK_WITH_A_DOT, &port]).arg(&ca).args([name, host]);
        let output = tokio::task::spawn_blocking(move || python.output().expect("python3 is here")).await.unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for (name, host) in [("a.example.", "a.example"), ("A.Example.", "a.example."), ("a.example", "a.example.")] {
        let told = ask(name, host).await;
        assert!(told.starts_with("['a.example'] HTTP/1.1 200 "), "{name}, {host}: {told}");
        assert!(told.ends_with("Some(\"a.example\")\n\n"), "{name}, {host}: {told}");
    }
    let told = ask("b.example.", "a.example").await;
    assert!(told.starts_with("['b.example'] HTTP/1.1 421 "), "{told}");
}

#[tokio::test]
async fn http_2_or_http_1_1_is_agreed_on_and_nothing_else_is() {
    let stage = Stage::new();
    let (certificate, _) = stage.certificate("a", &["a.example"]);
    let gateway = Running::start_whole(&one(&format!("certificates = [{certificate}]"), HELLO)).await;
    let client = TlsClient::new(&stage.authority);
    for (offered, agreed) in [(&["http/1.1", "h2"][..], "h2"), (&["h2"], "h2"), (&["http/1.1"], "http/1.1")] {
        let connection = client.offering(offered).connect(gateway.address, "a.example").await.unwrap();
        assert_eq!(connection.protocol().as_deref(), Some(agreed), "{offered:?}");
    }
    assert!(client.offering(&["acme-tls/1"]).connect(gateway.address, "a.example").await.is_err());
}

#[tokio::test]
async fn the_scheme_is_https_for_middlewares_redirects_and_instances() {
    let stage = Stage::new();
    let (certificate, _) = stage.certificate("a", &["a.example"]);
    let instance = support::echo::echo("one").await;
    let routes = format!(
        "[[route]]\nmatch = {{ path = \"/who\" }}\nchain = [\"who\"]\nrespond = {{}}\n\
         [[route]]\nmatch = {{ path = \"/old\" }}\nredirect = {{ path = \"/new\" }}\n\
         [[route]]\nmatch = {{ path = \"/echo\" }}\nservice = \"echo\"\n[service.echo]\ninstances = [\"{instance}\"]\n"
    );
    let gateway = Running::start_with(with_who(), &one(&format!("certificates = [{certificate}]"), &routes)).await;
    let mut connection = TlsClient::new(&stage.authority).connect(gateway.address, "a.example").await.unwrap();
    let who = connection.get("a.example", "/who").await.unwrap();
    assert!(who.ends_with("https 1.3 Some(\"a.example\")\n"), "{who}");
    let moved = connection.get("a.example", "/old").await.unwrap();
    let port = gateway.address.port();
    assert!(moved.contains(&format!("location: https://a.example:{port}/new\r\n")), "{moved}");
    let told = connection.get("a.example", "/echo").await.unwrap();
    assert!(told.contains("[\"x-forwarded-proto\",\"https\"]"), "{told}");
}

#[tokio::test]
async fn an_old_version_is_refused_where_a_newer_one_is_asked_for() {
    let stage = Stage::new();
    let (certificate, _) = stage.certificate("a", &["a.example"]);
    let old = TlsClient::speaking(&stage.authority, &rustls::version::TLS12);
    let strict = one(&format!("certificates = [{certificate}], min_version = \"1.3\""), HELLO);
    let gateway = Running::start_whole(&strict).await;
    assert!(old.connect(gateway.address, "a.example").await.is_err());
    assert_eq!(handshakes(&gateway, "incompatible").await, 1.0);
    assert!(TlsClient::new(&stage.authority).get(gateway.address, "a.example", "/hello").await.is_ok());

    let lenient = Running::start_whole(&one(&format!("certificates = [{certificate}]"), HELLO)).await;
    assert!(old.get(lenient.address, "a.example", "/hello").await.is_ok());
}

#[tokio::test]
async fn clients_are_who_their_certificates_say_or_are_refused() {
    let stage = Stage::new();
    let (certificate, _) = stage.certificate("a", &["a.example"]);
    let (clients, ca) = stage.clients("clients.pem");
    let good = clients.issue_with(&["billing.internal"], |params| {
        params.subject_alt_names.push(rcgen::SanType::URI("spiffe://example/billing".try_into().unwrap()));
    });
    let known = TlsClient::known_as(&stage.authority, &good);
    let unknown = TlsClient::new(&stage.authority);
    let stranger = TlsClient::known_as(&stage.authority, &Authority::new("others").issue(&["billing.internal"]));
    let late = TlsClient::known_as(&stage.authority, &clients.issue_expired(&["billing.internal"]));
    let route = "[[route]]\nchain = [\"who\"]\nrespond = {}\n";
    for (presence, refused) in [("required", 3.0), ("optional", 2.0)] {
        let tls = format!("certificates = [{certificate}], client_ca = \"{ca}\", client_certificate = \"{presence}\"");
        let gateway = Running::start_with(with_who(), &one(&tls, route)).await;
        let told = known.get(gateway.address, "a.example", "/").await.unwrap();
        assert!(told.contains("CN=billing.internal"), "{told}");
        assert!(told.contains("[Uri(\"spiffe://example/billing\")]"), "{told}");
        for client in [&stranger, &late] {
            assert!(client.get(gateway.address, "a.example", "/").await.is_err(), "{presence}");
        }
        match unknown.get(gateway.address, "a.example", "/").await {
            Ok(told) => assert!(presence == "optional" && told.ends_with("Some(\"a.example\")\n"), "{told}"),
            Err(error) => assert_eq!(presence, "required", "{error}"),
        }
        until("every refusal is counted", async || handshakes(&gateway, "client_certificate").await == refused).await;
    }
}

#[tokio::test]
async fn a_name_that_belongs_to_another_listener_is_misdirected() {
    let stage = Stage::new();
    let (both, _) = stage.certificate("both", &["open.example", "guarded.example"]);
    let (clients, ca) = stage.clients("clients.pem");
    let file = [
        listener("web", &format!("hosts = [\"open.example\"]\ntls = {{ certificates = [{both}] }}")),
        listener(
            "guarded",
            &format!("hosts = [\"guarded.example\"]\ntls = {{ certificates = [{both}], client_ca = \"{ca}\" }}"),
        ),
        HELLO.to_owned(),
    ];
    let gateway = Running::start_whole(&file.concat()).await;
    // Without a certificate for itself, this client is nobody to the guarded listener.
    let client = TlsClient::new(&stage.authority);
    for name in ["open.example", "127.0.0.1"] {
        let mut connection = client.connect(gateway.address, name).await.unwrap();
        assert!(connection.get("open.example", "/hello").await.unwrap().contains("200 OK"), "{name}");
        let answer = connection.get("guarded.example:443", "/hello").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 421 ") && answer.contains("\"cause\":\"misdirected\""), "{answer}");
        assert!(connection.is_over().await, "nothing more comes over it");
    }
    assert!(client.get(gateway.address, "guarded.example", "/hello").await.is_err());

    let known = TlsClient::known_as(&stage.authority, &clients.issue(&["me"]));
    let mut connection = known.connect(gateway.address, "guarded.example").await.unwrap();
    assert!(connection.get("guarded.example", "/hello").await.unwrap().contains("200 OK"));
    assert!(connection.get("open.example", "/hello").await.unwrap().starts_with("HTTP/1.1 421 "));
}

#[tokio::test]
async fn a_session_does_not_go_on_where_clients_must_say_who_they_are() {
    let stage = Stage::new();
    let (certificate, _) = stage.certificate("a", &["a.example"]);
    let (clients, ca) = stage.clients("clients.pem");
    let open = one(&format!("certificates = [{certificate}]"), HELLO);
    let guarded = one(&format!("certificates = [{certificate}], client_ca = \"{ca}\""), HELLO);
    let gateway = Running::start_whole(&open).await;
    let client = TlsClient::new(&stage.authority);
    let mut before = client.connect(gateway.address, "a.example").await.unwrap();
    before.get("a.example", "/hello").await.unwrap();
    let again = client.connect(gateway.address, "a.example").await.unwrap();
    assert_eq!(again.kind(), HandshakeKind::Resumed, "the terms are the same");

    assert_eq!(gateway.reload_whole(&guarded).await.0, 200);
    // The keys of the tickets are the same, and this client still has one of the session that knew nobody.
    assert!(client.get(gateway.address, "a.example", "/hello").await.is_err());
    // The connection from before the reload was made on other terms too.
    let answer = before.get("a.example", "/hello").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 421 ") && before.is_over().await, "{answer}");

    // Who is known goes on, until somebody else decides about clients.
    let known = TlsClient::known_as(&stage.authority, &clients.issue(&["me"]));
    let kind = async || {
        let mut connection = known.connect(gateway.address, "a.example").await.ok()?;
        connection.get("a.example", "/hello").await.ok()?;
        Some(connection.kind())
    };
    assert_eq!((kind().await, kind().await), (Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)));
    stage.clients("clients.pem");
    until("the new authority decides", async || kind().await.is_none()).await;
}

#[tokio::test]
async fn a_client_with_a_renewed_certificate_comes_back_with_the_ticket_of_the_old_one() {
    // Its session went on, and then the connection was closed, because the certificate from when it began had expired.
    // The client could not know, and offered the ticket again and again.
    let stage = Stage::new();
    let (certificate, _) = stage.certificate("a", &["a.example"]);
    let (clients, ca) = stage.clients("clients.pem");
    let tls = format!("certificates = [{certificate}], client_ca = \"{ca}\", client_certificate");
    let required = Running::start_whole(&one(&format!("{tls} = \"required\""), HELLO)).await;
    let optional = Running::start_whole(&one(&format!("{tls} = \"optional\""), HELLO)).await;
    let ends = std::time::SystemTime::now() + Duration::from_secs(4);
    let own = Renewed::new(&clients.issue_with(&["me"], |params| params.not_after = ends.into()));
    let mut known = Vec::new();
    for address in [required.address, optional.address] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            known.push((TlsClient::renewed(&stage.authority, version, own.clone()), address));
        }
    }
    let kinds = async || {
        let kind = async |client: &TlsClient, address| {
            let mut connection = client.connect(address, "a.example").await.ok()?;
            connection.get("a.example", "/hello").await.ok()?;
            Some(connection.kind())
        };
        futures_util::future::join_all(known.iter().map(|(client, address)| kind(client, *address))).await
    };
    assert_eq!(kinds().await, [Some(HandshakeKind::Full); 4]);
    // Their tickets are new, their certificate is not.
    assert_eq!(kinds().await, [Some(HandshakeKind::Resumed); 4]);
    until("the certificate has expired", async || std::time::SystemTime::now() > ends).await;
    assert_eq!(kinds().await, [None; 4], "nobody goes on with it");
    own.renew(&clients.issue(&["me"]));
    assert_eq!(kinds().await, [Some(HandshakeKind::Full); 4]);
    assert_eq!(kinds().await, [Some(HandshakeKind::Resumed); 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_with_another_worker_and_after_a_reload() {
    let stage = Stage::new();
    let (certificate, _) = stage.certificate("a", &["a.example"]);
    let file = stage.path().join("gateway.toml");
    let text = format!("workers = 2\n{}", one(&format!("certificates = [{certificate}]"), HELLO));
    std::fs::write(&file, &text).unwrap();
    let gateway = Gateway::new(plugins());
    let (plan, faults) = gateway.plan_file(&file);
    let app = App::start(gateway, plan.unwrap_or_else(|| panic!("{}", faults.render(false))), Some(file.clone()));
    let app = app.await.unwrap();
    let (address, admin) = (app.bound("127.0.0.1:0".parse().unwrap()).unwrap(), app.admin().unwrap());
    let running = tokio::spawn(app.until_stopped());

    let client = TlsClient::new(&stage.authority);
    let mut connections = Vec::new();
    for round in 0..2 {
        // They stay open, so that they are spread over both workers.
        for number in 0..8 {
            let mut connection = client.connect(address, "a.example").await.unwrap();
            connection.get("a.example", "/hello").await.unwrap();
            let first = (round, number) == (0, 0);
            let expected = if first { HandshakeKind::Full } else { HandshakeKind::Resumed };
            assert_eq!(connection.kind(), expected, "round {round}, connection {number}");
            connections.push(connection);
        }
        std::fs::write(&file, format!("{text}# {round}\n")).unwrap();
        let reloaded = portcullis::admin::client::post(admin, "/reload", String::new()).await.unwrap();
        assert_eq!(reloaded.0, 200, "{}", reloaded.1);
    }
    running.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_swapped_under_load_and_no_handshake_fails() {
    const SWAPS: usize = 8;
    let stage = Stage::new();
    let (certificate, mut latest) = stage.certificate("a", &["a.example"]);
    let gateway = Running::start_whole(&one(&format!("certificates = [{certificate}]"), HELLO)).await;
    let over = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (address, over, done) = (gateway.address, over.clone(), done.clone());
            // Every connection is a full handshake.
            let new = || TlsClient::new(&stage.authority);
            let clients: Vec<_> = (0..64).map(|_| new()).collect();
            tokio::spawn(async move {
                for client in clients.iter().cycle() {
                    if over.load(Relaxed) {
                        return;
                    }
                    let answer = client.get(address, "a.example", "/hello").await.expect("no handshake fails");
                    assert!(answer.ends_with("hello"), "{answer}");
                    done.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    let watcher = TlsClient::new(&stage.authority);
    for swap in 0..SWAPS {
        latest = stage.certificate("a", &["a.example"]).1;
        until(&format!("certificate {swap} is served"), async || {
            watcher.connect(gateway.address, "a.example").await.unwrap().certificate() == latest.der()
        })
        .await;
    }
    over.store(true, Relaxed);
    for task in load {
        task.await.unwrap();
    }
    assert!(done.load(Relaxed) > SWAPS, "there was a load");
    assert_eq!(latest.der(), watcher.connect(gateway.address, "a.example").await.unwrap().certificate());
}

#[tokio::test]
async fn a_broken_new_file_changes_nothing_until_it_is_whole() {
    let stage = Stage::new();
    let (a, old) = stage.certificate("a", &["a.example"]);
    let (b, _) = stage.certificate("b", &["b.example"]);
    let gateway = Running::start_whole(&one(&format!("certificates = [{a}, {b}]"), HELLO)).await;
    let client = TlsClient::new(&stage.authority);
    let served = async |name: &str| client.connect(gateway.address, name).await.unwrap().certificate();

    // Half a file, and a certificate without its key.
    replace(&stage.path().join("a.pem"), &old.cert[..100]);
    let new = stage.authority.issue(&["b.example"]);
    replace(&stage.path().join("b.pem"), &new.cert);
    // What comes after is noticed after: then both were looked at.
    replace(&stage.path().join("b.key"), &new.key);
    until("the good one is served", async || served("b.example").await == new.der()).await;
    assert_eq!(served("a.example").await, old.der());

    let whole = stage.authority.issue(&["a.example"]);
    whole.write(stage.path(), "a");
    until("the whole one is served", async || served("a.example").await == whole.der()).await;

    // A reload reads everything anew, and refuses what is broken with the place that names it.
    replace(&stage.path().join("a.key"), "");
    let (status, report) =
        gateway.reload_whole(&format!("{}# changed\n", std::fs::read_to_string(&gateway.file).unwrap())).await;
    assert_eq!(status, 422, "{report}");
    assert!(report.contains("a.key` is empty") && report.contains("\"line\":6"), "{report}");
    assert_eq!(served("a.example").await, whole.der());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_in_a_files_place_is_told_of_and_holds_up_nobody() {
    // The gateway waited for somebody to write into it: nothing was followed any more, and a reload had no end.
    let stage = Stage::new();
    let (a, old) = stage.certificate("a", &["a.example"]);
    let (b, _) = stage.certificate("b", &["b.example"]);
    let gateway = Running::start_whole(&one(&format!("certificates = [{a}, {b}]"), HELLO)).await;
    let client = TlsClient::new(&stage.authority);
    let served = async |name: &str| client.connect(gateway.address, name).await.unwrap().certificate();

    let key = stage.path().join("a.key");
    std::fs::remove_file(&key).unwrap();
    assert!(Command::new("mkfifo").arg(&key).status().unwrap().success());
    // A certificate whose key is such a thing, and another pair.
    replace(&stage.path().join("a.pem"), &stage.authority.issue(&["a.example"]).cert);
    let new = stage.certificate("b", &["b.example"]).1;
    until("the other pair is served", async || served("b.example").await == new.der()).await;
    let text = format!("{}# changed\n", std::fs::read_to_string(&gateway.file).unwrap());
    let reload = tokio::time::timeout(Duration::from_secs(10), gateway.reload_whole(&text));
    let (status, report) = reload.await.expect("the reload has an end");
    assert_eq!(status, 422, "{report}");
    assert!(report.contains("a.key`: it is no regular file") && report.contains("\"line\":6"), "{report}");
    assert_eq!(served("a.example").await, old.der());

    let whole = stage.certificate("a", &["a.example"]).1;
    until("the whole one is served", async || served("a.example").await == whole.der()).await;

    // The configuration itself.
    std::fs::remove_file(&gateway.file).unwrap();
    assert!(Command::new("mkfifo").arg(&gateway.file).status().unwrap().success());
    let reload = portcullis::admin::client::post(gateway.admin, "/reload", String::new());
    let (status, report) = tokio::time::timeout(Duration::from_secs(10), reload).await.expect("it has an end").unwrap();
    assert!(status == 422 && report.contains("it is no regular file"), "{status} {report}");
}

#[tokio::test]
async fn a_swap_of_kubernetes_symlink_is_a_new_certificate() {
    let stage = Stage::new();
    let issue = |version: &str| {
        let issued = stage.authority.issue(&["a.example"]);
        std::fs::create_dir(stage.path().join(version)).unwrap();
        issued.write(&stage.path().join(version), "tls");
        let link = stage.path().join("..data_tmp");
        std::os::unix::fs::symlink(version, &link).unwrap();
        std::fs::rename(&link, stage.path().join("..data")).unwrap();
        issued
    };
    let old = issue("..1");
    for file in ["tls.pem", "tls.key"] {
        std::os::unix::fs::symlink(format!("..data/{file}"), stage.path().join(file)).unwrap();
    }
    let path = stage.path().display();
    let certificates = format!("certificates = [{{ cert = \"{path}/tls.pem\", key = \"{path}/tls.key\" }}]");
    let gateway = Running::start_whole(&one(&certificates, HELLO)).await;
    let client = TlsClient::new(&stage.authority);
    let served = async || client.connect(gateway.address, "a.example").await.unwrap().certificate();
    assert_eq!(served().await, old.der());
    let new = issue("..2");
    until("the new one is served", async || served().await == new.der()).await;
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_takes_too_long_is_closed() {
    let stage = Stage::new();
    let (certificate, _) = stage.certificate("a", &["a.example"]);
    let tls = format!("certificates = [{certificate}] }}\ntimeouts = {{ handshake = \"3s\"");
    let gateway = Running::start_whole(&one(&tls, HELLO)).await;
    for beginning in [&b""[..], &[0x16, 3, 1]] {
        let began = Instant::now();
        let mut wire = Wire::connect(gateway.address).await;
        wire.put(beginning).await;
        assert_eq!(wire.rest().await, b"");
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(4), "{took:?}");
    }
    assert_eq!(handshakes(&gateway, "timeout").await, 2.0);
}

#[tokio::test]
async fn handshakes_in_progress_are_bounded_and_others_are_not_held_up_by_more() {
    let stage = Stage::new();
    let (certificate, _) = stage.certificate("a", &["a.example"]);
    let tls = format!("certificates = [{certificate}] }}\nlimits = {{ handshakes = 2");
    let gateway = Running::start_whole(&one(&tls, HELLO)).await;
    let client = TlsClient::new(&stage.authority);
    let mut established = client.connect(gateway.address, "a.example").await.unwrap();
    established.get("a.example", "/hello").await.unwrap();
    // Two that say nothing take both places; who comes then is closed.
    let silent = [Wire::connect(gateway.address).await, Wire::connect(gateway.address).await];
    until("there is no place any more", async || {
        let _ = client.connect(gateway.address, "a.example").await;
        handshakes(&gateway, "too_many").await > 0.0
    })
    .await;
    assert!(established.get("a.example", "/hello").await.unwrap().ends_with("hello"), "it is none of these");
    drop(silent);
    until("there are places again", async || client.get(gateway.address, "a.example", "/hello").await.is_ok()).await;
}

#[tokio::test]
async fn who_speaks_http_to_a_tls_port_is_told_so() {
    let stage = Stage::new();
    let (certificate, _) = stage.certificate("a", &["a.example"]);
    let gateway = Running::start_whole(&one(&format!("certificates = [{certificate}]"), HELLO)).await;
    for request in ["GET / HTTP/1.1\r\nhost: a.example\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut wire = Wire::connect(gateway.address).await;
        wire.put(request).await;
        let answer = String::from_utf8(wire.rest().await).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("this port speaks TLS: use https://\n"),
            "{answer}"
        );
    }
    assert_eq!(handshakes(&gateway, "plaintext").await, 2.0);
}

#[tokio::test]
async fn what_is_no_handshake_is_closed_and_harms_nobody() {
    let stage = Stage::new();
    let (certificate, _) = stage.certificate("a", &["a.example"]);
    let gateway = Running::start_whole(&one(&format!("certificates = [{certificate}]"), HELLO)).await;
    let garbage = [
        &b"\0\0\0\0"[..],
        &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0, 0],
        &[0x16, 3, 1, 0xff, 0xff, 0xff],
        &[0x15, 3, 1, 0, 2, 2, 40],
        &[0x16; 70_000],
    ];
    for bytes in garbage {
        let mut wire = Wire::connect(gateway.address).await;
        // It may be closed before all of it is sent.
        let _ = wire.try_put(bytes).await;
        let answer = wire.rest().await;
        assert!(answer.is_empty() || answer[0] == 0x15, "an alert or nothing: {answer:?}");
    }
    assert_eq!(handshakes(&gateway, "malformed").await, 5.0);

    // A real beginning, cut at every octet.
    let hello = TlsClient::new(&stage.authority).hello("a.example").await;
    for end in (0..hello.len()).step_by(7) {
        let mut wire = Wire::connect(gateway.address).await;
        wire.put(&hello[..end]).await;
        drop(wire);
    }
    until("each was noticed", async || handshakes(&gateway, "closed").await >= (hello.len() / 7) as f64).await;
    assert!(TlsClient::new(&stage.authority).get(gateway.address, "a.example", "/hello").await.is_ok());
}

#[tokio::test]
async fn curl_gets_its_answer() {
    let stage = Stage::new();
    let (certificate, _) = stage.certificate("a", &["a.example"]);
    let (clients, ca) = stage.clients("clients.pem");
    clients.issue(&["me"]).write(stage.path(), "me");
    replace(&stage.path().join("ca.pem"), &stage.authority.pem);
    let tls = format!("certificates = [{certificate}], client_ca = \"{ca}\"");
    let gateway = Running::start_whole(&one(&tls, HELLO)).await;
    let port = gateway.address.port();
    let directory = stage.path().to_owned();
    let curl = move |more: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "10", "--cacert", "ca.pem", "-w", " %{http_code} %{ssl_verify_result}"]);
        command.args(["--resolve", &format!("a.example:{port}:127.0.0.1")]).args(more);
        command.arg(format!("https://a.example:{port}/hello")).current_dir(&directory);
        command.output().expect("curl is here")
    };
    let (good, bad) =
        tokio::task::spawn_blocking(move || (curl(&["--cert", "me.pem", "--key", "me.key"]), curl(&[]))).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&good.stdout), "hello 200 0", "{}", String::from_utf8_lossy(&good.stderr));
    assert!(!bad.status.success());
}

#[tokio::test]
async fn explain_knows_what_the_handshake_would_have_established() {
    let stage = Stage::new();
    let (both, _) = stage.certificate("both", &["open.example", "guarded.example"]);
    let (_, ca) = stage.clients("clients.pem");
    let file = [
        listener("web", &format!("hosts = [\"open.example\"]\ntls = {{ certificates = [{both}] }}")),
        listener(
            "guarded",
            &format!("hosts = [\"guarded.example\"]\ntls = {{ certificates = [{both}], client_ca = \"{ca}\" }}"),
        ),
        "[[route]]\nredirect = { path = \"/new\" }\n".to_owned(),
    ];
    let (plan, faults) = Gateway::new(plugins()).plan_text("gateway.toml", &file.concat());
    let plan = plan.unwrap_or_else(|| panic!("{}", faults.render(false)));
    for host in ["open.example", "guarded.example"] {
        let asked = Asked {
            method: "GET".into(),
            url: format!("https://{host}:8443/old"),
            headers: Vec::new(),
            client: None,
            listener: Some("web".into()),
        };
        let explained = portcullis::explain::explain(&plan, &asked).await.unwrap();
        let told = serde_json::to_value(&explained).unwrap();
        assert_eq!(told["answer"]["status"], 302, "{told:#}");
        assert!(told.to_string().contains(&format!("https://{host}:8443/new")), "{told:#}");
    }
}

#[tokio::test]
async fn the_metrics_say_when_a_certificate_ends() {
    let stage = Stage::new();
    let (good, _) = stage.certificate("good", &["a.example"]);
    let expired = stage.authority.issue_expired(&["b.example"]).write(stage.path(), "expired");
    let gateway = Running::start_whole(&one(&format!("certificates = [{good}, {expired}]"), HELLO)).await;
    let left = async |file: &str| {
        let path = stage.path().join(file);
        let labels = format!("{{listener=\"web\",certificate=\"{}\"}}", path.display());
        metric(&gateway, &format!("portcullis_tls_certificate_expires_in_seconds{labels}")).await.unwrap()
    };
    assert!(left("good.pem").await > 1e9);
    assert!(left("expired.pem").await < -1e8);
}

#[test]
fn check_says_what_is_wrong_with_a_certificate_and_where() {
    let stage = Stage::new();
    let (_, a) = stage.certificate("a", &["a.example"]);
    stage.certificate("b", &["b.example"]);
    stage.authority.issue_expired(&["a.example"]).write(stage.path(), "expired");
    let soon = stage.authority.issue_with(&["a.example"], |params| {
        let now = std::time::SystemTime::now();
        params.not_after = (now + Duration::from_secs(3 * 24 * 60 * 60 + 60)).into();
    });
    soon.write(stage.path(), "soon");
    replace(&stage.path().join("empty.pem"), "");
    a.write(stage.path(), "open");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(stage.path().join("open.key"), mode).unwrap();
    let file = stage.path().join("gateway.toml");
    let pair = |cert: &str, key: &str| format!("certificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]");
    for (tls, at, sentence) in [
        (pair("a.pem", "b.key"), "\"b.key\"", "b.key` is not the key of `"),
        (pair("none.pem", "a.key"), "\"none.pem\"", "none.pem`: No such file or directory"),
        (pair("empty.pem", "a.key"), "\"empty.pem\"", "empty.pem` is empty"),
        (pair("a.key", "b.key"), "\"a.key\"", "a.key` holds no certificate"),
        (pair("a.pem", "b.pem"), "\"b.pem\"", "b.pem` holds no private key"),
        (pair("expired.pem", "expired.key"), "\"expired.pem\"", "expired.pem` expired"),
        (pair("soon.pem", "soon.key"), "\"soon.pem\"", "soon.pem` expires in 3 days"),
        (pair("open.pem", "open.key"), "\"open.key\"", "every user of this machine can read the key"),
        (format!("{}, client_ca = \"empty.pem\"", pair("a.pem", "a.key")), "\"empty.pem\"", "empty.pem` is empty"),
        (
            format!("{} }}\nhosts = [\"b.example\"]\nlimits = {{ headers = 9", pair("a.pem", "a.key")),
            "\"b.example\"",
            "no certificate of this address is for `b.example`",
        ),
        ("certificates = []".to_owned(), "[] }", "`certificates` is empty"),
        (
            format!("{}, client_certificate = \"optional\"", pair("a.pem", "a.key")),
            "\"optional\"",
            "`client_certificate` says nothing without `client_ca`",
        ),
    ] {
        let text = one(&tls, HELLO);
        let (before, _) = text.split_once(at).expect("it is in the text");
        let column = before.len() - before.rfind('\n').expect("it is not in the first line");
        let at = format!("gateway.toml:{}:{column}", before.lines().count());
        std::fs::write(&file, text).unwrap();
        let (_, faults) = Gateway::new(plugins()).plan_file(&file);
        let report = faults.render(false);
        assert!(report.contains(sentence), "{sentence}: {report}");
        assert!(report.contains(&at), "{at}: {report}");
    }
}

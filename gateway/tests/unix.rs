//! Unix sockets on both sides: names that come and go with the gateway, and clients that have no address.

mod support;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis::app::App;
use portcullis::explain::{Asked, explain};
use portcullis::workers::Workers;
use portcullis::{Gateway, plugins};
use serde_json::Value;
use support::echo::{echo, got};
use support::gateway::{Running, routes_by_client};
use support::pki::{Authority, SecureInstance, replace};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};

/// The status and the rest of the answer to one request over a connection of its own.
async fn ask(socket: &Path, before: &str, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let (line, headers) = request.split_once("\r\n").unwrap_or((request, ""));
    let text = format!("{before}{line} HTTP/1.1\r\nhost: shop.example\r\n{headers}connection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{answer:?}")), answer)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

async fn told(socket: &Path, before: &str, request: &str) -> Value {
    let (status, answer) = ask(socket, before, request).await;
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str(body(&answer)).unwrap()
}

/// A file whose listener `local` has this socket, beside a listener on a port.
async fn file(top: &str, socket: &Path, keys: &str) -> String {
    let routes = routes_by_client(echo("orders").await);
    format!(
        r#"
        {top}
        access_log = {{ output = "off" }}
        [admin]
        address = "127.0.0.1:0"
        [listener.web]
        address = "127.0.0.1:0"
        [listener.local]
        address = "unix:{}"
        {keys}
        {routes}
        [[route]]
        match = {{ path = "/everywhere" }}
        chain = [{{ type = "ip_whitelist", deny = ["203.0.113.0/24"] }}]
        respond = {{ body = "everywhere" }}
        "#,
        socket.display()
    )
}

/// A directory, and the path of a socket in it.
fn place() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("portcullis.sock");
    (directory, path)
}

async fn start(text: &str) -> Result<App, String> {
    let gateway = Gateway::new(plugins());
    let (plan, faults) = gateway.plan_text("gateway.toml", text);
    let plan = plan.unwrap_or_else(|| panic!("{}", faults.render(false)));
    App::start_on(Workers::here(), gateway, plan, None).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_client_without_an_address_is_served_and_taken_for_nobody() {
    let (_directory, socket) = place();
    let _gateway = Running::start_whole(&file("", &socket, "").await).await;
    let spoofed = "GET /\r\nx-forwarded-for: 203.0.113.9\r\nx-real-ip: 203.0.113.9\r\n";
    for request in ["GET /", spoofed] {
        let told = told(&socket, "", request).await;
        assert_eq!(got(&told, "x-forwarded-for"), ["unknown"]);
        assert_eq!(got(&told, "x-real-ip"), [""; 0]);
        assert_eq!((got(&told, "host"), got(&told, "x-forwarded-proto")), (vec!["shop.example"], vec!["http"]));
    }
    // Who lets nobody in but by address, does not let it in.
    for path in ["/office", "/everywhere"] {
        assert_eq!(ask(&socket, "", &format!("GET {path}")).await.0, 403);
    }
    let (status, answer) = ask(&socket, "", "GET /secure").await;
    assert_eq!((status, support::header(&answer, "location")), (302, Some("http://shop.example/there")));
}

#[tokio::test]
async fn a_trusted_unix_peer_speaks_for_its_clients() {
    let (_directory, socket) = place();
    let _gateway = Running::start_whole(&file("trusted_proxies = [\"unix:\"]", &socket, "").await).await;
    let named = |path: &str| format!("GET {path}\r\nx-forwarded-for: 203.0.113.9\r\n");
    let told_of = told(&socket, "", &named("/")).await;
    assert_eq!(
        (got(&told_of, "x-forwarded-for"), got(&told_of, "x-real-ip")),
        (vec!["203.0.113.9"], vec!["203.0.113.9"])
    );
    assert_eq!(body(&ask(&socket, "", &named("/office")).await.1), "office");
    assert_eq!(ask(&socket, "", &named("/everywhere")).await.0, 403);
    // It may also name nobody.
    assert_eq!(ask(&socket, "", "GET /everywhere").await.0, 403);
    assert_eq!(got(&told(&socket, "", "GET /").await, "x-forwarded-for"), ["unknown"]);
}

#[tokio::test]
async fn a_trusted_unix_peer_may_speak_the_proxy_protocol() {
    let (_directory, socket) = place();
    let text = file("trusted_proxies = [\"unix:\"]", &socket, "proxy_protocol = true").await;
    let _gateway = Running::start_whole(&text).await;
    let line = "PROXY TCP4 203.0.113.9 192.0.2.1 4711 8443\r\n";
    assert_eq!(got(&told(&socket, line, "GET /").await, "x-forwarded-for"), ["203.0.113.9"]);
    assert_eq!(body(&ask(&socket, line, "GET /office").await.1), "office");
    let (_, answer) = ask(&socket, line, "GET /secure").await;
    assert_eq!(support::header(&answer, "location"), Some("http://shop.example:8443/there"));
    // It may relay somebody whom it cannot name, and who is not believed.
    let claim = |path: &str| format!("GET {path}\r\nx-forwarded-for: 203.0.113.9\r\n");
    assert_eq!(got(&told(&socket, "PROXY UNKNOWN\r\n", &claim("/")).await, "x-forwarded-for"), ["unknown"]);
    assert_eq!(ask(&socket, "PROXY UNKNOWN\r\n", &claim("/office")).await.0, 403);
}

#[tokio::test]
async fn explain_asks_whom_a_proxy_names_where_clients_have_no_address() {
    let (_directory, socket) = place();
    let text = file("trusted_proxies = [\"unix:\"]", &socket, "").await;
    let gateway = Gateway::from_toml("gateway.toml", &text, plugins()).unwrap_or_else(|_| panic!("{text}"));
    let mut asked = Asked {
        method: "GET".into(),
        url: "http://shop.example/office".into(),
        headers: Vec::new(),
        client: None,
        listener: Some("local".into()),
    };
    let refused = explain(&gateway.plan(), &asked).await.unwrap_err();
    assert!(refused.contains("listener `local` is at a unix socket") && refused.contains("--client"), "{refused}");
    asked.client = Some("203.0.113.9".parse().unwrap());
    let explained = explain(&gateway.plan(), &asked).await.unwrap();
    assert_eq!((explained.answer.status, explained.client.address.to_string()), (200, "203.0.113.9".into()));
}

#[tokio::test]
async fn the_name_comes_and_goes_with_the_gateway() {
    let (_directory, socket) = place();
    let text = file("", &socket, "").await;
    let app = start(&text).await.unwrap();
    let found = std::fs::symlink_metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.mode() & 0o777, 0o660, "its owner and group may connect");

    let refused = start(&text).await.err().expect("somebody listens there");
    assert_eq!(
        refused,
        format!(
            "listener `local` cannot bind unix:{}: somebody listens there; stop the program that has it, or choose another path",
            socket.display()
        )
    );
    assert_eq!(std::fs::symlink_metadata(&socket).unwrap().ino(), found.ino(), "it is still the first one's");
    drop(app);

    // As it is left by a gateway that was killed.
    let (other, stale) = place();
    drop(UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    let text = file("", &stale, "").await;
    let running = Running::start_whole(&text).await;
    assert_eq!(ask(&stale, "", "GET /").await.0, 200);

    // No other listener's socket is touched by a reload; one that is given up is gone at once.
    let inode = std::fs::symlink_metadata(&stale).unwrap().ino();
    let mut connection = UnixStream::connect(&stale).await.unwrap();
    let (status, answer) =
        running.reload_whole(&format!("{text}\n[[route]]\nmatch = {{ path = \"/new\" }}\nrespond = {{}}\n")).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(std::fs::symlink_metadata(&stale).unwrap().ino(), inode);
    connection.write_all(b"GET /new HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    connection.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200", "who was connected before gets the new plan");

    let moved = other.path().join("moved.sock");
    let text = text.replace(&stale.display().to_string(), &moved.display().to_string());
    assert_eq!(running.reload_whole(&text).await.0, 200);
    assert_eq!(ask(&moved, "", "GET /").await.0, 200);
    let gone = tokio::time::timeout(Duration::from_secs(10), async {
        while stale.exists() {
            tokio::task::yield_now().await;
        }
    });
    assert!(gone.await.is_ok(), "the old name is still there");
}

#[tokio::test]
async fn what_is_no_socket_is_not_replaced() {
    let (_directory, path) = place();
    std::fs::write(&path, "precious").unwrap();
    let refused = start(&file("", &path, "").await).await.err().unwrap();
    assert!(refused.contains("listener `local` cannot bind") && refused.contains("is no socket"), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn every_worker_serves_and_a_drained_gateway_leaves_nothing_behind() {
    let (_directory, socket) = place();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let text = format!("workers = 2\n{}", file("", &socket, "").await);
        let gateway = Gateway::new(plugins());
        let (plan, faults) = gateway.plan_text("gateway.toml", &text);
        let plan = plan.unwrap_or_else(|| panic!("{}", faults.render(false)));
        let app = App::start(gateway, plan, None).await.unwrap();
        let admin = app.admin().unwrap();
        let mut open = Vec::new();
        for _ in 0..8 {
            let mut stream = UnixStream::connect(&socket).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            assert_eq!(&head, b"HTTP/1.1 200");
            open.push(stream);
        }
        let page = portcullis::admin::client::send(admin, "GET", "/metrics", &[], String::new()).await.unwrap().1;
        for worker in 0..2 {
            let line = format!("portcullis_connections{{worker=\"{worker}\"}} 4");
            assert!(page.contains(&line), "connections are spread:\n{page}");
        }
        drop(open);
        drop(app);
    });
    let began = std::time::Instant::now();
    while socket.exists() {
        assert!(began.elapsed() < Duration::from_secs(10), "the name is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn an_instance_at_a_socket_is_asked_and_told_like_any_other() {
    let (_directory, socket) = place();
    let instance = echo("orders").await;
    let text = |socket: &Path| {
        format!("[service.orders]\ninstances = [\"unix:{}\"]\n[[route]]\nservice = \"orders\"\n", socket.display())
    };
    let gateway = Running::start(&text(&socket)).await;
    let cause = async || {
        let (status, body) = gateway.get("/").await;
        (status, serde_json::from_str::<Value>(&body).unwrap()["cause"].clone())
    };
    assert_eq!(cause().await, (502, "connect_refused".into()), "there is no socket");
    // There is one, and nobody who listens.
    drop(UnixListener::bind(&socket).unwrap());
    assert_eq!(cause().await, (502, "connect_refused".into()));
    std::fs::remove_file(&socket).unwrap();

    for _ in 0..2 {
        let relay = relay(&socket, instance);
        for _ in 0..3 {
            let (status, body) = gateway.get("/orders?x").await;
            assert_eq!(status, 200, "{body}");
            let told: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(told["target"], "/orders?x");
            assert_eq!(got(&told, "x-forwarded-for"), ["127.0.0.1"]);
            assert_eq!(got(&told, "host"), [gateway.address.to_string()], "the client's, as everywhere");
        }
        relay.abort();
        let _ = relay.await;
        std::fs::remove_file(&socket).unwrap();
        assert_eq!(cause().await, (502, "connect_refused".into()), "it is gone");
    }
}

#[tokio::test]
async fn tls_works_over_a_socket_too() {
    let (directory, socket) = place();
    let authority = Authority::new("internal");
    let ca = directory.path().join("ca.pem");
    replace(&ca, &authority.pem);
    let instance = SecureInstance::start(&authority.issue(&["orders.internal"]), rustls::DEFAULT_VERSIONS, None).await;
    let _relay = relay(&socket, instance.address);
    for (name, expected) in [("orders.internal", 200), ("somebody.else", 502)] {
        let gateway = Running::start(&format!(
            "[service.orders]\ninstances = [\"unix:{}\"]\ntls = {{ ca = \"{}\", server_name = \"{name}\" }}\n[[route]]\nservice = \"orders\"\n",
            socket.display(),
            ca.display()
        ))
        .await;
        let (status, body) = gateway.get("/").await;
        assert_eq!(status, expected, "{body}");
    }
}

/// Listens at a socket and passes everything on.
fn relay(socket: &Path, target: std::net::SocketAddr) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        let mut passing = tokio::task::JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            passing.spawn(async move {
                let mut instance = TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut instance).await;
            });
        }
    })
}

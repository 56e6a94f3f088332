//! HTTP/2 with clients: agreed on by TLS or known before, many requests at once, and what instances see of it.

mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use support::gateway::Running;
use support::http2::{Client, whole};
use support::logged::Logged;
use support::pki::{Authority, TlsClient};
use support::proxy::endless;
use support::{Fake, header};
use tempfile::TempDir;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const HELLO: &str = "[[route]]\nmatch = { path = \"/hello\" }\nrespond = { body = \"hello\" }\n";

fn get(url: &str) -> Request<Body> {
    Request::get(url).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_plain_listener_speaks_both_and_asks_for_no_sign() {
    let gateway = Running::start(HELLO).await;
    let client = Client::connect(gateway.address).await;
    let answer = client.get("http://a.example/hello").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello"));
    assert_eq!(gateway.get("/hello").await, (200, "hello".into()));
}

#[tokio::test]
async fn a_client_that_offers_it_in_the_handshake_gets_http_2() {
    let (authority, directory) = (Authority::new("test authority"), TempDir::new().unwrap());
    let certificate = authority.issue(&["a.example"]).write(directory.path(), "a");
    let head = "access_log = { output = \"off\" }\n[listener.web]\naddress = \"127.0.0.1:0\"\n";
    let admin = "[admin]\naddress = \"127.0.0.1:0\"\n";
    let gateway =
        Running::start_whole(&format!("{head}tls = {{ certificates = [{certificate}] }}\n{admin}{HELLO}")).await;
    let connection = TlsClient::new(&authority).offering(&["h2"]).connect(gateway.address, "a.example").await.unwrap();
    let client = Client::secure(connection).await;
    for _ in 0..3 {
        let answer = client.get("https://a.example/hello").await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello"));
    }
    // The name in the handshake is this listener's, and it has any host; but nobody is served on a connection for another.
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let resolve = format!("a.example:{}:127.0.0.1", gateway.address.port());
    let url = format!("https://a.example:{}/hello", gateway.address.port());
    let args = ["--http2", "--cacert", ca.to_str().unwrap(), "--resolve", &resolve, &url];
    assert_eq!(curl(args.map(str::to_owned).to_vec()).await, "hello 200 2");
}

#[tokio::test]
async fn curl_speaks_it_with_prior_knowledge_and_does_without_an_upgrade() {
    let gateway = Running::start(HELLO).await;
    let url = format!("http://{}/hello", gateway.address);
    for (way, version) in [("--http2-prior-knowledge", "2"), ("--http2", "1.1"), ("--http1.1", "1.1")] {
        assert_eq!(curl(vec![way.to_owned(), url.clone()]).await, format!("hello 200 {version}"), "{way}");
    }
}

/// What curl got: the body, the status and the version.
async fn curl(args: Vec<String>) -> String {
    let run = move || {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "10", "--noproxy", "*"]);
        curl.args(["--write-out", " %{http_code} %{http_version}"]).args(args).output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn an_instance_sees_a_request_of_http_1_1_with_its_host_and_one_cookie() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let client = Client::connect(target.address).await;
    let request = Request::get("http://Shop.Example:8080/orders?id=7")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("x-forwarded-for", "192.0.2.1")
        .body(Body::empty())
        .unwrap();
    let (answer, head) = tokio::join!(client.send(request), async { fake.accept().await.answer(OK).await });
    assert_eq!(whole(answer).await.text(), "ok");
    assert!(head.starts_with("GET /orders?id=7 HTTP/1.1\r\n"), "{head}");
    for (name, value) in [
        ("host", Some("Shop.Example:8080")),
        ("x-forwarded-host", Some("Shop.Example:8080")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("cookie", Some("a=1; b=2")),
        ("connection", None),
        ("transfer-encoding", None),
    ] {
        assert_eq!(header(&head, name), value, "{name}: {head}");
    }
    let line = target.line().await;
    assert_eq!(
        (&line["protocol"], &line["host"], &line["path"], &line["status"]),
        (&"HTTP/2".into(), &"Shop.Example:8080".into(), &"/orders".into(), &200.into()),
        "{line}"
    );
}

#[tokio::test]
async fn an_answer_loses_what_speaks_of_a_connection_and_its_body_to_head() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let client = Client::connect(target.address).await;
    let said = "HTTP/1.1 200 OK\r\nconnection: x-private\r\nx-private: 1\r\nkeep-alive: timeout=5\r\n\
                transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let (answer, _) = tokio::join!(client.get("http://a/"), async { fake.accept().await.answer(said).await });
    assert_eq!(answer.text(), "ok");
    for name in ["connection", "x-private", "keep-alive", "transfer-encoding"] {
        assert!(!answer.headers.contains_key(name), "{name}: {:?}", answer.headers);
    }
    let head = Request::head("http://a/").body(Body::empty()).unwrap();
    let said = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n";
    let (answer, _) = tokio::join!(client.send(head), async { fake.accept().await.answer(said).await });
    let answer = whole(answer).await;
    assert_eq!((answer.headers["content-length"].as_bytes(), answer.text()), (&b"7"[..], ""));
}

#[tokio::test]
async fn a_hundred_requests_share_a_connection_and_one_that_waits_keeps_nobody() {
    let fake = Fake::new().await;
    let target = Logged::with(&format!(
        "[service.slow]\ninstances = [\"{}\"]\n[[route]]\nmatch = {{ path = \"/slow\" }}\nservice = \"slow\"\n{HELLO}",
        fake.address
    ))
    .await;
    let client = Client::connect(target.address).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.get("http://a/slow").await }
    });
    let mut instance = fake.accept().await;
    instance.head().await;
    let answers = futures_util::future::join_all((0..99).map(|_| client.get("http://a/hello"))).await;
    assert!(answers.iter().all(|answer| answer.text() == "hello"));
    assert!(!waiting.is_finished());
    instance.put(OK).await;
    assert_eq!(waiting.await.unwrap().text(), "ok");
    assert_eq!(target.first_lines(100).await.len(), 100);
}

#[tokio::test]
async fn trailers_go_both_ways() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let client = Client::connect(target.address).await;
    let mut sums = HeaderMap::new();
    sums.insert("x-sum", "7".parse().unwrap());
    let frames = [Ok::<_, std::io::Error>(Frame::data("abc".into())), Ok(Frame::trailers(sums))];
    let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
    let request = Request::post("http://a/").header("te", "trailers").header("trailer", "x-sum").body(body).unwrap();
    let instance = async {
        let mut wire = fake.accept().await;
        let head = wire.head().await;
        let body = wire.take_until("\r\n\r\n").await;
        wire.put(
            "HTTP/1.1 200 OK\r\ntrailer: x-end\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-end: 9\r\n\r\n",
        )
        .await;
        (head, body)
    };
    let (answer, (head, body)) = tokio::join!(client.send(request), instance);
    assert_eq!(header(&head, "te"), Some("trailers"), "{head}");
    assert!(body.starts_with("3\r\nabc\r\n0\r\n") && body.contains("x-sum: 7"), "{body}");
    let answer = whole(answer).await;
    assert_eq!(answer.text(), "ok");
    assert_eq!(answer.trailers.unwrap()["x-end"], "9");
}

#[tokio::test]
async fn a_request_that_is_given_up_is_cancelled_at_the_instance() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let client = Client::connect(target.address).await;
    let (mut wire, asking) = {
        let asking = tokio::spawn({
            let client = client.clone();
            async move { client.try_send(get("http://a/")).await }
        });
        let mut wire = fake.accept().await;
        wire.head().await;
        (wire, asking)
    };
    asking.abort();
    let closed = tokio::time::timeout(Duration::from_millis(100), wire.rest()).await;
    assert_eq!(closed.expect("it is cancelled within 100 ms"), b"");
    assert_eq!(target.line().await["cause"], "client_closed");
    // Nobody else is concerned.
    let (answer, _) = tokio::join!(client.get("http://a/"), async { fake.accept().await.answer(OK).await });
    assert_eq!(answer.text(), "ok");
}

#[tokio::test]
async fn an_early_answer_reaches_the_client_though_the_request_goes_on() {
    let gateway = Running::start(HELLO).await;
    let client = Client::connect(gateway.address).await;
    let request = Request::post("http://a/hello").body(endless(1024, Arc::default())).unwrap();
    let answer = whole(client.send(request).await).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello"));
    assert_eq!(client.get("http://a/hello").await.text(), "hello");
}

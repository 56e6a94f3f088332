//! HTTP/2 with clients: agreed on by TLS or known before, many requests at once, and what instances see of it.

mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use support::gateway::Running;
use support::http2::{Client, whole};
use support::logged::Logged;
use support::pki::{Authority, TlsClient};
use support::proxy::endless;
use support::speaker::{
    ACK, DATA, END_HEADERS, GOAWAY, HEADERS, NO_ERROR, PING, PREFACE, RST_STREAM, SETTINGS, Speaker, asks, block,
    frame, get as get_frame,
};
use support::{Fake, header};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
async fn a_client_that_leaves_tls_without_a_farewell_has_asked_for_no_more_than_it_has() {
    // It was remembered as one more request, which was refused because it asks for another protocol with a body.
    let (authority, directory) = (Authority::new("test authority"), TempDir::new().unwrap());
    let certificate = authority.issue(&["a.example"]).write(directory.path(), "a");
    let target = Logged::with(&format!("tls = {{ certificates = [{certificate}] }}\n{HELLO}")).await;
    let client = TlsClient::new(&authority).offering(&["h2"]);
    for (asked, answer) in [(Vec::new(), &[0, 0, 0, SETTINGS, ACK][..]), (get_frame(1, "/hello"), b"hello")] {
        let mut stream = client.connect(target.address, "a.example").await.unwrap().into_stream();
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, []), &asked].concat()).await.unwrap();
        let mut come = Vec::new();
        while !come.windows(answer.len()).any(|window| window == answer) {
            assert_ne!(stream.read_buf(&mut come).await.unwrap(), 0, "{come:?}");
        }
        stream.into_inner().0.shutdown().await.unwrap();
    }
    let gone = async {
        while target.server.open() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("both are gone");
    let line = target.line().await;
    assert_eq!((&line["path"], &line["status"]), (&"/hello".into(), &200.into()), "{line}");
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
    let counted = |version| target.number(&format!("portcullis_requests_by_protocol_total{{protocol=\"{version}\"}}"));
    assert_eq!((counted("HTTP/2"), counted("HTTP/1.1")), (Some(1.0), Some(0.0)));
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

/// A body of this size, in pieces.
fn sized(bytes: usize) -> Body {
    let piece = bytes::Bytes::from(vec![b'x'; 16 << 10]);
    let pieces = (0..bytes >> 14).map(move |_| Ok::<_, std::io::Error>(piece.clone()));
    Body::from_stream(futures_util::stream::iter(pieces))
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once() {
    const SIZE: usize = 48 << 20;
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let client = Client::connect(target.address).await;
    let request = Request::post("http://a/").header("content-length", SIZE).body(sized(SIZE)).unwrap();
    let instance = async {
        let mut wire = fake.accept().await;
        let head = wire.head().await;
        wire.put(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n")).await;
        for _ in 0..SIZE >> 14 {
            let piece = wire.take(16 << 10).await;
            wire.put(piece).await;
        }
        head
    };
    let answer = async {
        let mut body = client.send(request).await.into_body();
        let mut came = 0;
        while let Some(frame) = body.frame().await {
            came += frame.unwrap().into_data().unwrap().len();
        }
        came
    };
    let (came, head) = tokio::join!(answer, instance);
    assert_eq!((came, header(&head, "content-length")), (SIZE, Some(SIZE.to_string().as_str())));
}

#[tokio::test]
async fn what_nobody_reads_stops_at_the_window() {
    // The instance takes nothing, so the client can send no more than its window, whatever it has.
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "limits = { stream_window = \"32KiB\" }").await;
    let mut client = Speaker::connect(target.address).await;
    let window = client.until(SETTINGS).await.payload.chunks(6).find(|setting| setting[1] == 4).unwrap()[2..].to_vec();
    assert_eq!(window, (32u32 << 10).to_be_bytes());
    let asks = [asks("POST", "/"), vec![("content-length", "1000000")]].concat();
    client.put(frame(HEADERS, END_HEADERS, 1, block(&asks))).await;
    let _instance = fake.accept().await;
    client.put(frame(DATA, 0, 1, [b'x'; 16 << 10])).await;
    client.put(frame(DATA, 0, 1, [b'x'; 16 << 10])).await;
    client.put(frame(PING, 0, 0, b"received")).await;
    client.until(PING).await;
    assert_eq!(target.lines().await.len(), 0);
}

#[tokio::test]
async fn a_drain_lets_requests_in_flight_finish_and_takes_no_more() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let mut client = Speaker::connect(target.address).await;
    client.put([get_frame(1, "/one"), get_frame(3, "/two")].concat()).await;
    let (mut one, mut two) = (fake.accept().await, fake.accept().await);
    one.head().await;
    two.head().await;
    target.server.drain();
    let goodbye = client.until(GOAWAY).await;
    assert_eq!(goodbye.number(4), NO_ERROR);
    let ping = client.until(PING).await;
    client.put(frame(PING, ACK, 0, ping.payload)).await;
    let goodbye = client.until(GOAWAY).await;
    assert_eq!((goodbye.number(0), goodbye.number(4)), (3, NO_ERROR), "it says up to where it serves");
    client.put(get_frame(5, "/late")).await;
    for (mut instance, stream) in [(two, 3), (one, 1)] {
        instance.put(OK).await;
        let answer = client.until(DATA).await;
        assert_eq!((answer.stream, answer.payload), (stream, b"ok".to_vec()));
    }
    assert_eq!(client.rest().await.iter().filter(|frame| frame.kind == HEADERS).count(), 0);
    target.server.closed().await;
    assert_eq!(target.lines().await.len(), 2);
}

#[tokio::test]
async fn a_request_that_a_drain_cuts_off_before_its_answer_is_not_the_clients_doing_either() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let mut older = target.connect().await;
    older.put("GET /older HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut one = fake.accept().await;
    let mut client = Speaker::connect(target.address).await;
    client.put(get_frame(1, "/newer")).await;
    let mut two = fake.accept().await;
    one.head().await;
    two.head().await;
    target.server.drain();
    target.server.cut();
    target.server.closed().await;
    for line in target.first_lines(2).await {
        assert_eq!((&line["status"], &line["cause"]), (&503.into(), &"draining".into()), "{line}");
        assert_eq!(line["tries"][0]["cause"], "draining", "{line}");
    }
    let labels = "listener=\"web\",route=\"all\",service=\"orders\",method=\"GET\",code=\"503\",cause=\"draining\"";
    assert_eq!(target.number(&format!("portcullis_requests_total{{{labels}}}")), Some(2.0));
    assert_eq!(older.rest().await, b"");
}

#[tokio::test]
async fn an_answer_that_a_drain_cuts_off_is_not_the_clients_doing_whatever_it_speaks() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let mut older = target.connect().await;
    older.put("GET /older HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut one = fake.accept().await;
    let mut client = Speaker::connect(target.address).await;
    client.put(get_frame(1, "/newer")).await;
    let mut two = fake.accept().await;
    for instance in [&mut one, &mut two] {
        instance.head().await;
        instance.put("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    }
    older.take_until("hello").await;
    client.until(DATA).await;
    target.server.drain();
    target.server.cut();
    target.server.closed().await;
    let found: Vec<_> =
        target.first_lines(2).await.iter().map(|line| (line["protocol"].clone(), line["cause"].clone())).collect();
    for protocol in ["HTTP/1.1", "HTTP/2"] {
        assert!(found.contains(&(protocol.into(), "draining".into())), "{found:?}");
    }
}

#[tokio::test]
async fn a_reload_changes_what_is_asked_later_and_nothing_that_flows() {
    let fake = Fake::new().await;
    let routes = |body: &str| {
        format!(
            "[service.slow]\ninstances = [\"{}\"]\n[[route]]\nmatch = {{ path = \"/slow\" }}\nservice = \"slow\"\n\
             [[route]]\nmatch = {{ path = \"/hello\" }}\nrespond = {{ body = \"{body}\" }}\n",
            fake.address
        )
    };
    let gateway = Running::start(&routes("hello")).await;
    let client = Client::connect(gateway.address).await;
    let flowing = tokio::spawn({
        let client = client.clone();
        async move { client.get("http://a/slow").await }
    });
    let mut instance = fake.accept().await;
    instance.head().await;
    instance.put("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf").await;
    assert_eq!(client.get("http://a/hello").await.text(), "hello");
    assert_eq!(gateway.reload(&routes("adieu")).await.0, 200);
    assert_eq!(client.get("http://a/hello").await.text(), "adieu");
    instance.put("full").await;
    assert_eq!(flowing.await.unwrap().text(), "halffull");
}

#[tokio::test]
async fn a_request_for_another_listener_is_misdirected_and_ends_the_connection_in_peace() {
    let (authority, directory) = (Authority::new("test authority"), TempDir::new().unwrap());
    let certificate = authority.issue(&["a.example", "b.example"]).write(directory.path(), "both");
    let listener = |name: &str| {
        format!(
            "[listener.{name}]\naddress = \"127.0.0.1:0\"\nhosts = [\"{name}.example\"]\ntls = {{ certificates = [{certificate}] }}\n"
        )
    };
    let text = format!(
        "access_log = {{ output = \"off\" }}\n[admin]\naddress = \"127.0.0.1:0\"\n{}{}{HELLO}",
        listener("a"),
        listener("b")
    );
    let gateway = Running::start_whole(&text).await;
    let connection = TlsClient::new(&authority).offering(&["h2"]).connect(gateway.address, "a.example").await.unwrap();
    let client = Client::secure(connection).await;
    assert_eq!(client.get("https://a.example/hello").await.status, StatusCode::OK);
    let answer = client.get("https://b.example/hello").await;
    assert_eq!((answer.status, answer.headers.get("connection")), (StatusCode::MISDIRECTED_REQUEST, None));
    let closed = tokio::time::timeout(Duration::from_secs(5), async {
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    closed.await.expect("a connection that is not to be used again is closed");
}

#[tokio::test]
async fn an_early_answer_says_that_the_rest_of_the_request_is_not_wanted() {
    let gateway = Running::start(HELLO).await;
    let mut client = Speaker::connect(gateway.address).await;
    client.put(frame(HEADERS, END_HEADERS, 1, block(&asks("POST", "/hello")))).await;
    assert_eq!(client.until(DATA).await.payload, b"hello");
    let reset = client.until(RST_STREAM).await;
    assert_eq!((reset.stream, reset.number(0)), (1, NO_ERROR));
}

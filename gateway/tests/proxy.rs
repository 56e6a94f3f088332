//! The last hop against instances made of bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Limited, StreamBody};
use portcullis::proxy::{Closed, Counts, Forward, Limits, Overrides, Policy, Pools, Retry, Service, Upstream};
use portcullis::registry::memory::MemoryRegistry;
use portcullis::registry::{self, Instance, Live, LiveService, Registry, Standing};
use portcullis_middleware::exchange::{Arrival, Client};
use portcullis_middleware::layer::Hop;
use portcullis_middleware::{Attempt, Cause, Exchange, Origin, Rejection, Request, Response};
use tokio::task::JoinHandle;

mod support;
use support::{Fake, Wire, header, nobody};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A service and the last hop to it.
struct Proxy {
    forward: Arc<Forward>,
    pools: Arc<Pools>,
}

impl Proxy {
    fn to(addresses: &[SocketAddr]) -> Self {
        Self::with(addresses, Policy::default())
    }

    fn with(addresses: &[SocketAddr], policy: Policy) -> Self {
        Self::of(service(addresses), policy, Overrides::default())
    }

    fn of(service: Arc<LiveService>, policy: Policy, overrides: Overrides) -> Self {
        let pools = Arc::new(Pools::new(Limits::default()));
        let upstream = Arc::new(Upstream::new("orders", service, policy, pools.clone()));
        Self { forward: Arc::new(Forward::new(Service::Fixed(upstream), overrides)), pools }
    }

    /// Sends a request and goes on; the answer comes later.
    fn send(&self, mut request: Request) -> (JoinHandle<Response>, Exchange) {
        let exchange = arrive(&mut request);
        let forward = self.forward.clone();
        (tokio::spawn(async move { forward.run(request).await }), exchange)
    }

    fn counts(&self) -> Counts {
        self.pools.counts()[0].1
    }
}

fn service(addresses: &[SocketAddr]) -> Arc<LiveService> {
    let instances = addresses.iter().map(|&address| Instance::at(registry::Address::Ip(address))).collect();
    Arc::new(LiveService::fixed(registry::Service { name: "orders".parse().unwrap(), instances }))
}

fn arrive(request: &mut Request) -> Exchange {
    let peer: SocketAddr = "203.0.113.9:50000".parse().unwrap();
    let client = Client { ip: peer.ip(), origin: Origin::Peer, peer, peer_is_trusted: false };
    let arrival =
        Arrival { client: Some(client), listener: "web".into(), port: Some(80), scheme: "http", rehearsal: false };
    let exchange = Exchange::new(arrival, request);
    exchange.attach(request);
    exchange
}

fn get(path: &str) -> Request {
    http::Request::get(path).header("host", "shop.example").body(Body::empty()).unwrap()
}

fn post(body: impl Into<Body>) -> Request {
    http::Request::post("/").header("host", "shop.example").body(body.into()).unwrap()
}

fn put(body: &'static str) -> Request {
    let mut request = post(body);
    *request.method_mut() = http::Method::PUT;
    request
}

fn cause(response: &Response) -> Option<Cause> {
    Rejection::of(response).map(Rejection::cause)
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

fn last(exchange: &Exchange) -> Attempt {
    exchange.attempts().pop().unwrap()
}

/// A body of as many frames as anybody wants, which counts them.
fn endless(frame: usize, polled: Arc<AtomicUsize>) -> Body {
    let data = Bytes::from(vec![b'x'; frame]);
    let frames = futures_util::stream::repeat_with(move || {
        polled.fetch_add(1, Relaxed);
        Ok::<_, Infallible>(Frame::data(data.clone()))
    });
    Body::new(StreamBody::new(frames))
}

#[tokio::test]
async fn a_connection_is_used_again_after_its_answer_was_read() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, first) = proxy.send(get("/1"));
    let mut wire = fake.accept().await;
    let head = wire.answer(OK).await;
    assert!(head.starts_with("GET /1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(text(answer.await.unwrap()).await, "ok");

    let (answer, second) = proxy.send(get("/2"));
    wire.answer(OK).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");
    let (first, second) = (last(&first), last(&second));
    assert_eq!((first.reused, second.reused), (false, true));
    assert_eq!((second.status, second.bytes, second.cause), (Some(StatusCode::OK), Some(2), None));
    assert!(second.first_byte <= second.end && second.end.is_some());
    let counts = proxy.counts();
    assert_eq!((counts.created, counts.reused, counts.open, counts.idle), (1, 1, 1, 1));
}

#[tokio::test]
async fn headers_of_one_connection_stay_on_it_in_both_directions() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let mut request = get("/");
    for (name, value) in [
        ("connection", "close, x-secret"),
        ("x-secret", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers, deflate"),
        ("upgrade", "websocket"),
        ("proxy-authorization", "Basic Og=="),
        ("accept", "*/*"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let (answer, _) = proxy.send(request);
    let mut wire = fake.accept().await;
    let head = wire
        .answer("HTTP/1.1 200 OK\r\nConnection: X-Internal\r\nX-Internal: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n")
        .await;
    for name in ["x-secret", "keep-alive", "upgrade", "proxy-authorization"] {
        assert_eq!(header(&head, name), None, "{head}");
    }
    assert_eq!((header(&head, "te"), header(&head, "accept")), (Some("trailers"), Some("*/*")));
    assert_eq!(header(&head, "connection"), Some("te"), "{head}");
    let answer = answer.await.unwrap();
    let names: Vec<_> = answer.headers().keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["x-kept", "content-length"]);
}

#[tokio::test]
async fn an_instance_hears_who_the_client_is_from_us_alone() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let mut request = get("http://shop.example/cart?id=7");
    for (name, value) in [
        ("host", "evil.example"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-real-ip", "1.1.1.1"),
        ("x_real_ip", "1.1.1.1"),
        ("proxy", "x"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let (answer, _) = proxy.send(request);
    let head = fake.accept().await.answer(EMPTY).await;
    answer.await.unwrap();
    assert!(head.starts_with("GET /cart?id=7 HTTP/1.1\r\n"), "{head}");
    for (name, value) in [
        ("host", Some("shop.example")),
        ("x-forwarded-for", Some("203.0.113.9")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("shop.example")),
        ("x-real-ip", Some("203.0.113.9")),
        ("x_real_ip", None),
        ("proxy", None),
    ] {
        assert_eq!(header(&head, name), value, "{name} in {head}");
    }
}

#[tokio::test]
async fn an_instance_can_be_asked_by_its_own_name() {
    let fake = Fake::new().await;
    let proxy = Proxy::with(&[fake.address], Policy { host: portcullis::proxy::Host::Instance, ..Policy::default() });
    let (answer, _) = proxy.send(get("/"));
    let head = fake.accept().await.answer(EMPTY).await;
    answer.await.unwrap();
    assert_eq!(header(&head, "host"), Some(fake.address.to_string().as_str()));
    assert_eq!(header(&head, "x-forwarded-host"), Some("shop.example"));
}

#[tokio::test]
async fn an_instance_that_refuses_is_passed_over() {
    let fake = Fake::new().await;
    let (gone, here) = (nobody().await, fake.address);
    let proxy = Proxy::to(&[gone, here]);
    tokio::spawn(fake.answer(OK));
    let mut tried = Vec::new();
    for _ in 0..4 {
        // A POST as well: nothing was sent.
        let (answer, exchange) = proxy.send(post("body"));
        assert_eq!(text(answer.await.unwrap()).await, "ok");
        tried.push(exchange.attempts().into_iter().map(|attempt| attempt.cause).collect::<Vec<_>>());
    }
    assert!(tried.iter().all(|causes| causes.last() == Some(&None)), "{tried:?}");
    assert_eq!(tried.iter().filter(|causes| causes[0] == Some(Cause::ConnectRefused)).count(), 2, "{tried:?}");
}

#[tokio::test]
async fn nobody_there_is_a_502_after_every_instance_was_tried() {
    let proxy = Proxy::to(&[nobody().await, nobody().await, nobody().await]);
    let (answer, exchange) = proxy.send(get("/"));
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), cause(&answer)), (StatusCode::BAD_GATEWAY, Some(Cause::ConnectRefused)));
    let mut instances: Vec<_> = exchange.attempts().into_iter().map(|attempt| attempt.instance).collect();
    instances.sort();
    instances.dedup();
    assert_eq!(instances.len(), 3);
}

#[tokio::test]
async fn a_service_without_instances_is_a_503() {
    let (answer, exchange) = Proxy::to(&[]).send(get("/"));
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), cause(&answer)), (StatusCode::SERVICE_UNAVAILABLE, Some(Cause::NoInstance)));
    assert_eq!(exchange.service().map(|service| &**service), Some("orders"));
}

#[tokio::test]
async fn an_answer_that_does_not_begin_is_a_504() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, exchange) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.head().await;
    tokio::time::pause();
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), cause(&answer)), (StatusCode::GATEWAY_TIMEOUT, Some(Cause::FirstByteTimeout)));
    assert_eq!(exchange.attempts().len(), 1, "who took that long may have acted");
    assert_eq!(wire.rest().await, b"");
}

#[tokio::test]
async fn interim_answers_are_skipped_and_do_not_stop_the_clock() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, _) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.answer(&format!("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{OK}")).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");

    let (answer, _) = proxy.send(get("/"));
    wire.answer("HTTP/1.1 103 Early Hints\r\n\r\n").await;
    tokio::time::pause();
    assert_eq!(cause(&answer.await.unwrap()), Some(Cause::FirstByteTimeout));
}

#[tokio::test]
async fn an_upload_that_moves_is_waited_for_however_long_it_takes() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (sender, frames) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let frames = futures_util::stream::unfold(frames, |mut frames| async { Some((frames.recv().await?, frames)) });
    let (answer, _) = proxy.send(post(Body::new(StreamBody::new(frames))));
    let mut wire = fake.accept().await;
    let head = wire.head().await;
    assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
    for _ in 0..4 {
        sender.send(Ok(Frame::data(Bytes::from_static(b"slow")))).await.unwrap();
        wire.take_until("4\r\nslow\r\n").await;
        // Each pause is shorter than `idle`; together they are longer than every clock there is.
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(50)).await;
        tokio::time::resume();
    }
    drop(sender);
    wire.take_until("0\r\n\r\n").await;
    wire.put(OK).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");
}

#[tokio::test]
async fn an_upload_that_stands_still_is_given_up() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, _) = proxy
        .send(post(Body::new(StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>()))));
    let mut wire = fake.accept().await;
    wire.head().await;
    tokio::time::pause();
    let answer = answer.await.unwrap();
    // The client's fault, not the instance's.
    assert_eq!((answer.status(), cause(&answer)), (StatusCode::REQUEST_TIMEOUT, Some(Cause::IdleTimeout)));
    wire.rest().await;
}

#[tokio::test]
async fn an_instance_that_stops_reading_is_given_up() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let polled = Arc::new(AtomicUsize::new(0));
    let (answer, _) = proxy.send(post(endless(64 * 1024, polled.clone())));
    let mut wire = fake.accept().await;
    wire.head().await;
    let mut before = usize::MAX;
    while before != polled.load(Relaxed) {
        before = polled.load(Relaxed);
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::pause();
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), cause(&answer)), (StatusCode::GATEWAY_TIMEOUT, Some(Cause::IdleTimeout)));
}

#[tokio::test]
async fn instances_are_found_by_name_and_by_path() {
    let fake = Fake::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.sock");
    let socket = tokio::net::UnixListener::bind(&path).unwrap();
    let port = fake.address.port();
    tokio::spawn(fake.answer(OK));
    tokio::spawn(async move {
        let (mut stream, _) = socket.accept().await.unwrap();
        let mut head = [0; 16];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut head).await.unwrap();
        assert_eq!(&head, b"GET / HTTP/1.1\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, OK.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    });
    for address in [format!("localhost:{port}"), format!("unix:{}", path.display())] {
        let instances = vec![Instance::at(address.parse().unwrap())];
        let service = LiveService::fixed(registry::Service { name: "orders".parse().unwrap(), instances });
        let proxy = Proxy::of(Arc::new(service), Policy::default(), Overrides::default());
        let (answer, exchange) = proxy.send(get("/"));
        assert_eq!(text(answer.await.unwrap()).await, "ok", "{address}");
        assert_eq!(*last(&exchange).instance, *address);
    }
}

#[tokio::test]
async fn a_body_that_ends_early_breaks_visibly() {
    let fake = Fake::new().await;
    for (answer, want) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", Cause::ResetAfterHeaders),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", Cause::ResetAfterHeaders),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n", Cause::BadUpstreamResponse),
    ] {
        let proxy = Proxy::to(&[fake.address]);
        let (response, exchange) = proxy.send(get("/"));
        let mut wire = fake.accept().await;
        wire.answer(answer).await;
        drop(wire);
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let mut got = Vec::new();
        let error = loop {
            match body.frame().await.expect("it must not end well") {
                Ok(frame) => got.extend_from_slice(frame.data_ref().unwrap()),
                Err(error) => break error,
            }
        };
        assert_eq!(got, b"half", "{error}");
        let attempt = last(&exchange);
        assert_eq!((attempt.cause, attempt.bytes), (Some(want), Some(4)), "{answer:?}");
        let counts = proxy.counts();
        assert_eq!((counts.open, counts.closed[Closed::Broken as usize]), (0, 1));
    }
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, exchange) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.answer("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let mut body = answer.await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    tokio::time::pause();
    // A client that does not read is nobody's fault here.
    tokio::time::advance(Duration::from_secs(300)).await;
    assert!(exchange.attempts()[0].end.is_none());
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(last(&exchange).cause, Some(Cause::IdleTimeout));
    assert_eq!(wire.rest().await, b"");
}

#[tokio::test]
async fn an_early_answer_passes_and_ends_the_upload() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let polled = Arc::new(AtomicUsize::new(0));
    let (answer, _) = proxy.send(post(endless(1024, polled.clone())));
    let mut wire = fake.accept().await;
    wire.head().await;
    wire.put("HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nno!").await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 413);
    assert_eq!(text(answer).await, "no!");
    wire.rest().await;
    let counts = proxy.counts();
    assert_eq!((counts.open, counts.idle), (0, 0), "its request never ended, so nothing can follow on it");
}

#[tokio::test]
async fn neither_direction_is_buffered() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let polled = Arc::new(AtomicUsize::new(0));
    let (answer, _) = proxy.send(post(endless(64 * 1024, polled.clone())));
    let mut wire = fake.accept().await;
    wire.head().await;
    // The instance reads nothing: soon nobody asks the client for more.
    let mut before = usize::MAX;
    while before != polled.load(Relaxed) {
        before = polled.load(Relaxed);
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }
    assert!(before < 256, "{before} frames of 64 KiB were read for nobody");

    wire.put("HTTP/1.1 200 OK\r\n\r\n").await;
    let mut body = answer.await.unwrap().into_body();
    let chunk = vec![b'y'; 64 * 1024];
    let mut written = 0;
    // The client reads nothing: soon nobody takes more from the instance.
    while tokio::time::timeout(Duration::from_millis(100), wire.try_put(&chunk)).await.is_ok_and(|put| put.is_ok()) {
        written += chunk.len();
        assert!(written < 64 << 20, "{written} bytes were taken for nobody");
    }
    assert!(body.frame().await.unwrap().is_ok());
}

#[tokio::test]
async fn much_passes_both_ways_unchanged() {
    const SIZE: usize = 32 << 20;
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let data = Bytes::from((0..SIZE / 256).flat_map(|_| 0..=255_u8).collect::<Vec<u8>>());
    let frames: Vec<_> =
        (0..SIZE).step_by(1 << 16).map(|at| Ok::<_, Infallible>(Frame::data(data.slice(at..at + (1 << 16))))).collect();
    let mut request = post(Body::new(StreamBody::new(futures_util::stream::iter(frames))));
    request.headers_mut().insert("content-length", SIZE.into());
    let (answer, exchange) = proxy.send(request);
    let echo = tokio::spawn(async move {
        let mut wire = fake.accept().await;
        wire.head().await;
        let body = wire.take(SIZE).await;
        wire.put(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n")).await;
        wire.put(body).await;
    });
    let got = answer.await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(got == data);
    assert_eq!(last(&exchange).bytes, Some(SIZE as u64));
    echo.await.unwrap();
}

#[tokio::test]
async fn answers_that_read_two_ways_or_none_are_a_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        "HTTP/1.1 999999 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad header: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n\r\n",
        "hello\n",
    ] {
        let fake = Fake::new().await;
        let proxy = Proxy::to(&[fake.address]);
        let (response, exchange) = proxy.send(get("/"));
        let mut wire = fake.accept().await;
        wire.answer(answer).await;
        let response = response.await.unwrap();
        assert_eq!(cause(&response), Some(Cause::BadUpstreamResponse), "{answer:?}");
        assert_eq!((response.status(), exchange.attempts().len()), (StatusCode::BAD_GATEWAY, 1), "{answer:?}");
        assert_eq!(proxy.counts().open, 0, "{answer:?}");
    }
}

#[tokio::test]
async fn a_head_without_end_is_a_502() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (response, _) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.answer("HTTP/1.1 200 OK\r\n").await;
    while wire.try_put("x-more: and more and more and more and more\r\n").await.is_ok() {}
    assert_eq!(cause(&response.await.unwrap()), Some(Cause::BadUpstreamResponse));
}

#[tokio::test]
async fn bytes_after_an_answer_reach_nobody() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, _) = proxy.send(get("/1"));
    let mut wire = fake.accept().await;
    wire.answer(&format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");
    wire.rest().await;
    let (answer, _) = proxy.send(get("/2"));
    fake.accept().await.answer(OK).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");
}

#[tokio::test]
async fn agreeing_lengths_become_one() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, _) = proxy.send(get("/"));
    fake.accept().await.answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok").await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.headers().get_all("content-length").iter().count(), 1);
    assert_eq!(text(answer).await, "ok");
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_usable() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let mut head = get("/");
    *head.method_mut() = http::Method::HEAD;
    let (answer, _) = proxy.send(head);
    let mut wire = fake.accept().await;
    wire.answer("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.headers()["content-length"], "1000");
    assert_eq!(text(answer).await, "");

    for (status, length) in [("204 No Content", None), ("304 Not Modified", Some("7"))] {
        let (answer, _) = proxy.send(get("/"));
        wire.answer(&format!("HTTP/1.1 {status}\r\ncontent-length: 7\r\n\r\n")).await;
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers().get("content-length").map(|length| length.to_str().unwrap()), length, "{status}");
        assert_eq!(text(answer).await, "");
    }
    assert_eq!(proxy.counts().created, 1);
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"up"))), Ok(Frame::trailers(trailers))];
    let mut request = post(Body::new(StreamBody::new(futures_util::stream::iter(frames))));
    request.headers_mut().insert("trailer", "x-sum".parse().unwrap());
    let (answer, _) = proxy.send(request);
    let mut wire = fake.accept().await;
    wire.head().await;
    assert_eq!(wire.take_until("\r\n\r\n").await, "2\r\nup\r\n0\r\nx-sum: 7\r\n\r\n");
    wire.put(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n4\r\ndown\r\n0\r\nx-sum: 9\r\n\r\n",
    )
    .await;
    let body = answer.await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "9");
    assert_eq!(body.to_bytes(), "down");
    assert_eq!(proxy.counts().idle, 1);
}

/// A connection that was used once and waits for its next request.
async fn idle_connection(proxy: &Proxy, fake: &Fake) -> Wire {
    let (answer, _) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.answer(OK).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");
    wire
}

#[tokio::test]
async fn a_get_survives_a_connection_that_closes_as_it_arrives() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    // Two idle connections, both about to be closed.
    let mut first = idle_connection(&proxy, &fake).await;
    let (answer, _) = proxy.send(get("/"));
    let (busy, _) = proxy.send(get("/"));
    let (_, mut second) = tokio::join!(first.answer(OK), fake.accept());
    second.answer(OK).await;
    text(answer.await.unwrap()).await;
    text(busy.await.unwrap()).await;
    assert_eq!(proxy.counts().idle, 2);

    let (answer, exchange) = proxy.send(get("/again"));
    tokio::select! {
        _ = first.head() => drop(first),
        _ = second.head() => drop(second),
    }
    let mut fresh = fake.accept().await;
    assert!(fresh.answer(OK).await.starts_with("GET /again"));
    assert_eq!(text(answer.await.unwrap()).await, "ok");
    let attempts: Vec<_> = exchange.attempts().into_iter().map(|attempt| (attempt.reused, attempt.cause)).collect();
    assert_eq!(attempts, [(true, Some(Cause::ResetBeforeHeaders)), (false, None)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_get_fails_while_connections_close_all_the_time() {
    let fake = Fake::new().await;
    let address = fake.address;
    tokio::spawn(async move {
        for number in 0.. {
            let mut wire = fake.accept().await;
            tokio::spawn(async move {
                // After a few answers it hangs up, without a word before.
                for _ in 0..1 + number % 4 {
                    if wire.try_head().await.is_none() {
                        return;
                    }
                    let _ = wire.try_put(OK).await;
                }
            });
        }
    });
    let proxy = Arc::new(Proxy::to(&[address]));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let proxy = proxy.clone();
            tokio::spawn(async move {
                for _ in 0..250 {
                    let (answer, exchange) = proxy.send(get("/"));
                    let answer = answer.await.unwrap();
                    assert_eq!(answer.status(), 200, "{:?}", exchange.attempts());
                    assert_eq!(text(answer).await, "ok");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let counts = proxy.counts();
    assert!(counts.reused > 200 && counts.created > 200, "{counts:?}");
}

#[tokio::test]
async fn both_directions_flow_at_the_same_time() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (sender, frames) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let frames = futures_util::stream::unfold(frames, |mut frames| async { Some((frames.recv().await?, frames)) });
    let (answer, _) = proxy.send(post(Body::new(StreamBody::new(frames))));
    let mut wire = fake.accept().await;
    wire.head().await;
    wire.put("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut body = answer.await.unwrap().into_body();
    for word in ["ping", "pong"] {
        sender.send(Ok(Frame::data(Bytes::from_static(word.as_bytes())))).await.unwrap();
        wire.take_until(&format!("4\r\n{word}\r\n")).await;
        wire.put(format!("4\r\n{word}\r\n")).await;
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), word);
    }
    drop(sender);
    wire.take_until("0\r\n\r\n").await;
    wire.put("0\r\n\r\n").await;
    assert!(body.frame().await.is_none());
    assert_eq!(proxy.counts().idle, 1);
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    let fake = Fake::new().await;
    let mut policy = Policy::default();
    policy.retry = Retry { reset: true, statuses: vec![StatusCode::SERVICE_UNAVAILABLE], ..policy.retry };
    let proxy = Proxy::with(&[fake.address], policy);
    let mut wire = idle_connection(&proxy, &fake).await;
    let (answer, exchange) = proxy.send(post(""));
    wire.head().await;
    drop(wire);
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), cause(&answer)), (StatusCode::BAD_GATEWAY, Some(Cause::ResetBeforeHeaders)));
    assert_eq!(exchange.attempts().len(), 1);
    assert!(!fake.is_wanted().await);

    let (answer, _) = proxy.send(post("x"));
    fake.accept().await.answer("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(answer.await.unwrap().status(), 503);
    assert!(!fake.is_wanted().await);
}

#[tokio::test]
async fn a_put_is_sent_again_with_its_body() {
    let fake = Fake::new().await;
    let policy =
        Policy { retry: Retry { reset: true, backoff: Duration::ZERO, ..Retry::default() }, ..Policy::default() };
    let proxy = Proxy::with(&[fake.address], policy);
    let (answer, exchange) = proxy.send(put("all of it"));
    let mut wire = fake.accept().await;
    let head = wire.head().await;
    assert_eq!(wire.take(support::content_length(&head)).await, b"all of it");
    drop(wire);
    let mut wire = fake.accept().await;
    let head = wire.head().await;
    assert_eq!(wire.take(support::content_length(&head)).await, b"all of it");
    wire.put(OK).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");
    assert_eq!(exchange.attempts().len(), 2);
}

#[tokio::test]
async fn a_body_too_large_to_keep_is_sent_only_once() {
    let fake = Fake::new().await;
    let policy =
        Policy { retry: Retry { reset: true, backoff: Duration::ZERO, ..Retry::default() }, ..Policy::default() };
    let proxy = Proxy::with(&[fake.address], policy);
    let mut request = post(vec![b'x'; 100_000]);
    *request.method_mut() = http::Method::PUT;
    let (answer, exchange) = proxy.send(request);
    let mut wire = fake.accept().await;
    wire.head().await;
    wire.take(100_000).await;
    drop(wire);
    assert_eq!(cause(&answer.await.unwrap()), Some(Cause::ResetBeforeHeaders));
    assert_eq!(exchange.attempts().len(), 1);
}

#[tokio::test]
async fn a_status_can_be_a_reason_to_ask_another_instance() {
    let (busy, fine) = (Fake::new().await, Fake::new().await);
    let policy = Policy {
        retry: Retry { statuses: vec![StatusCode::SERVICE_UNAVAILABLE], backoff: Duration::ZERO, ..Retry::default() },
        ..Policy::default()
    };
    let proxy = Proxy::with(&[busy.address, fine.address], policy);
    tokio::spawn(busy.answer("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"));
    tokio::spawn(fine.answer(OK));
    let mut attempts = 0;
    for _ in 0..4 {
        let (answer, exchange) = proxy.send(get("/"));
        assert_eq!(text(answer.await.unwrap()).await, "ok");
        assert_eq!(last(&exchange).status, Some(StatusCode::OK));
        attempts += exchange.attempts().len();
    }
    assert_eq!(attempts, 6);
}

#[tokio::test]
async fn what_the_client_does_wrong_is_not_the_instances_fault() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let limited = Body::new(Limited::new(endless(1024, Arc::default()), 100_000));
    let (answer, exchange) = proxy.send(post(limited));
    let mut wire = fake.accept().await;
    wire.rest().await;
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), cause(&answer)), (StatusCode::PAYLOAD_TOO_LARGE, Some(Cause::BodyTooLarge)));
    assert_eq!((last(&exchange).cause, exchange.attempts().len()), (Some(Cause::BodyTooLarge), 1));

    for (kind, want) in
        [(std::io::ErrorKind::UnexpectedEof, Cause::ClientClosed), (std::io::ErrorKind::InvalidData, Cause::BadRequest)]
    {
        let frames = [Ok(Frame::data(Bytes::from_static(b"half"))), Err(std::io::Error::from(kind))];
        let (answer, _) = proxy.send(post(Body::new(StreamBody::new(futures_util::stream::iter(frames)))));
        fake.accept().await.rest().await;
        assert_eq!(cause(&answer.await.unwrap()), Some(want));
    }
}

#[tokio::test]
async fn when_the_client_leaves_the_instance_hears_of_it() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, exchange) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.head().await;
    answer.abort();
    assert_eq!(wire.rest().await, b"");
    assert_eq!(last(&exchange).cause, Some(Cause::ClientClosed));

    let (answer, exchange) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.answer("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    drop(answer.await.unwrap());
    assert_eq!(wire.rest().await, b"");
    assert_eq!(last(&exchange).cause, Some(Cause::ClientClosed));
    assert_eq!(proxy.counts().open, 0);
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_not_used() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let wire = idle_connection(&proxy, &fake).await;
    drop(wire);
    // The task that drives the connection hears of it.
    while proxy.counts().idle == 1 {
        proxy.pools.sweep();
        tokio::task::yield_now().await;
    }
    assert_eq!(proxy.counts().closed[Closed::Peer as usize], 1);
    let (answer, exchange) = proxy.send(post("x"));
    fake.accept().await.answer(OK).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");
    assert_eq!(exchange.attempts().len(), 1);
}

#[tokio::test]
async fn idle_connections_are_closed_in_time_and_with_their_instance() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let mut wire = idle_connection(&proxy, &fake).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(59)).await;
    proxy.pools.sweep();
    assert_eq!(proxy.counts().idle, 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    proxy.pools.sweep();
    assert_eq!((proxy.counts().idle, proxy.counts().closed[Closed::Idle as usize]), (0, 1));
    tokio::time::resume();
    assert_eq!(wire.rest().await, b"");

    let mut wire = idle_connection(&proxy, &fake).await;
    let Proxy { forward, pools } = proxy;
    drop(forward);
    pools.sweep();
    assert_eq!(wire.rest().await, b"");
    assert_eq!((pools.counts()[0].1.open, pools.counts()[0].1.closed[Closed::Unused as usize]), (0, 1));
}

#[tokio::test]
async fn a_get_with_a_body_keeps_it() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let frames = futures_util::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"query")))]);
    let mut request = get("/");
    *request.body_mut() = Body::new(StreamBody::new(frames));
    let (answer, _) = proxy.send(request);
    let mut wire = fake.accept().await;
    assert_eq!(header(&wire.head().await, "transfer-encoding"), Some("chunked"));
    wire.take_until("5\r\nquery\r\n0\r\n\r\n").await;
    wire.put(OK).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");
}

/// A body that says it ended with its last byte, as those do whose length is known.
struct Known(Option<Bytes>);

impl http_body::Body for Known {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0.as_ref().map_or(0, |data| data.len() as u64))
    }
}

#[tokio::test]
async fn the_length_that_is_sent_is_the_truth() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let mut request = post(Body::new(Known(Some(Bytes::from_static(b"four")))));
    request.headers_mut().insert("content-length", 400.into());
    let (answer, _) = proxy.send(request);
    let mut wire = fake.accept().await;
    assert_eq!(header(&wire.head().await, "content-length"), Some("4"));
    assert_eq!(wire.take(4).await, b"four");
    wire.put(OK).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");
    assert_eq!(proxy.counts().idle, 1);
}

fn expecting(polled: &Arc<AtomicUsize>) -> Request {
    let mut request = post(endless(1024, polled.clone()));
    request.headers_mut().insert("expect", "100-continue".parse().unwrap());
    request
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on_by_the_instance() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let polled = Arc::new(AtomicUsize::new(0));
    let (answer, _) = proxy.send(expecting(&polled));
    let mut wire = fake.accept().await;
    assert_eq!(header(&wire.head().await, "expect"), Some("100-continue"));
    assert_eq!(polled.load(Relaxed), 0);
    wire.put("HTTP/1.1 100 Continue\r\n\r\n").await;
    wire.take_until("400\r\nxxxx").await;
    answer.abort();

    // One that is refused never sends its body.
    let polled = Arc::new(AtomicUsize::new(0));
    let (answer, _) = proxy.send(expecting(&polled));
    fake.accept().await.answer("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(answer.await.unwrap().status(), 403);
    assert_eq!(polled.load(Relaxed), 0);

    // And an instance that does not know the question gets the body all the same.
    let polled = Arc::new(AtomicUsize::new(0));
    let (answer, _) = proxy.send(expecting(&polled));
    let mut wire = fake.accept().await;
    wire.head().await;
    assert_eq!(polled.load(Relaxed), 0);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::time::resume();
    wire.take_until("400\r\nxxxx").await;
    answer.abort();
}

#[tokio::test]
async fn an_instance_that_does_not_accept_is_a_504() {
    // A queue of one, which is full: the kernel leaves further connections without an answer.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _place = std::net::TcpStream::connect(address).unwrap();

    let policy = Policy { retry: Retry { attempts: 1, ..Retry::default() }, ..Policy::default() };
    let proxy = Proxy::with(&[address], policy);
    let (answer, exchange) = proxy.send(get("/"));
    tokio::task::yield_now().await;
    tokio::time::pause();
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), cause(&answer)), (StatusCode::GATEWAY_TIMEOUT, Some(Cause::ConnectTimeout)));
    assert_eq!(last(&exchange).connect, None);
}

#[tokio::test]
async fn a_route_can_be_less_patient_than_its_service() {
    let fake = Fake::new().await;
    let attempt = Some(Duration::from_millis(500));
    let retry = Some(Retry { attempts: 1, ..Retry::default() });
    let proxy = Proxy::of(service(&[fake.address]), Policy::default(), Overrides { attempt, retry });
    let (answer, _) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.head().await;
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    assert_eq!(cause(&answer.await.unwrap()), Some(Cause::FirstByteTimeout));
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn instances_come_and_go_between_two_requests() {
    let registry: Arc<dyn Registry> = Arc::new(MemoryRegistry::new(10));
    let live = Live::new("memory", registry.clone());
    live.start(&tokio::runtime::Handle::current());
    let name: registry::ServiceName = "orders".parse().unwrap();
    let service = live.service(&name);
    let mut changes = service.changes();
    let proxy = Proxy::of(service.clone(), Policy::default(), Overrides::default());
    changes.wait_for(|_| service.instances().standing != Standing::Pending).await.unwrap();
    assert_eq!(cause(&proxy.send(get("/")).0.await.unwrap()), Some(Cause::NoService));

    let (one, two) = (Fake::new().await, Fake::new().await);
    for fake in [&one, &two] {
        let instance = Instance::at(registry::Address::Ip(fake.address));
        let id = instance.id.clone();
        let registration = registry::Registration { service: name.clone(), instance, ttl: None };
        registry.register(registration).await.unwrap();
        changes.wait_for(|_| service.instances().instances.len() == 1).await.unwrap();
        for _ in 0..3 {
            let (answer, exchange) = proxy.send(get("/"));
            let mut wire = fake.accept().await;
            wire.answer(&OK.replace("content-length", "connection: close\r\ncontent-length")).await;
            assert_eq!(text(answer.await.unwrap()).await, "ok");
            assert_eq!(*last(&exchange).instance, fake.address.to_string());
        }
        registry.deregister(&id).await.unwrap();
        changes.wait_for(|_| service.instances().instances.is_empty()).await.unwrap();
        let cause = cause(&proxy.send(get("/")).0.await.unwrap());
        assert!(matches!(cause, Some(Cause::NoInstance | Cause::NoService)), "{cause:?}");
    }
}

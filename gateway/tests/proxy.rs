//! The last hop against instances made of bytes: headers, bodies, and what is no answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use portcullis::proxy::{Closed, Overrides, Policy};
use portcullis::registry::{self, Instance, LiveService};
use portcullis_middleware::{Cause, Request};

mod support;
use support::proxy::*;
use support::{Fake, header};

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
async fn a_service_without_instances_is_a_503() {
    let (answer, exchange) = Proxy::to(&[]).send(get("/"));
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), cause(&answer)), (StatusCode::SERVICE_UNAVAILABLE, Some(Cause::NoInstance)));
    assert_eq!(exchange.service().map(|service| &**service), Some("orders"));
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
    for (answer, rest, want) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", "", Cause::ResetAfterHeaders),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "", Cause::ResetAfterHeaders),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "nonsense\r\n",
            Cause::BadUpstreamResponse,
        ),
    ] {
        let proxy = Proxy::to(&[fake.address]);
        let (response, exchange) = proxy.send(get("/"));
        let mut wire = fake.accept().await;
        wire.answer(answer).await;
        // What is malformed within what comes along with the head is a 502.
        let response = response.await.unwrap();
        wire.put(rest).await;
        drop(wire);
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

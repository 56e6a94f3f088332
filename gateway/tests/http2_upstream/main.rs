//! HTTP/2 towards instances: connections that requests share, and streams that end in every way there is.

mod room;

#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Method, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use portcullis::proxy::{Closed, Host, Limits, Overrides, Pings, Policy, Retry};
use portcullis_config::Protocol;
use portcullis_middleware::layer::Hop;
use portcullis_middleware::{Cause, Request};
use support::frames::*;
use support::gateway::Running;
use support::pki::{Authority, SecureInstance, replace};
use support::proxy::*;
use support::speaker::{ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, block};
use support::{Fake, Wire};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

fn policy() -> Policy {
    Policy { protocol: Protocol::H2c, ..Policy::default() }
}

fn to(addresses: &[SocketAddr]) -> Proxy {
    Proxy::with(addresses, policy())
}

fn once() -> Policy {
    Policy { retry: Retry { attempts: 1, ..Retry::default() }, ..policy() }
}

/// Waits for something that happens without anybody being told.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let held = timeout(Duration::from_secs(5), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(held.await.is_ok(), "{what}");
}

/// A body whose frames the test gives.
fn channel() -> (mpsc::UnboundedSender<Frame<Bytes>>, Body) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let frames = futures_util::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|frame: Option<Frame<Bytes>>| frame.map(Ok::<_, std::io::Error>))
    });
    (sender, Body::new(StreamBody::new(frames)))
}

#[tokio::test]
async fn the_first_requests_open_one_connection_together_and_later_ones_use_it() {
    let fake = Fake::new().await;
    let proxy = to(&[fake.address]);
    let answers: Vec<_> = (0..20).map(|_| proxy.send(get("/"))).collect();
    let mut peer = Peer::new(fake.accept().await).await;
    for _ in 0..20 {
        peer.next().await.answer("ok");
    }
    for (answer, _) in answers {
        assert_eq!(text(answer.await.unwrap()).await, "ok");
    }
    let (answer, exchange) = proxy.send(get("/"));
    peer.next().await.answer("again");
    assert_eq!(text(answer.await.unwrap()).await, "again");
    assert!(last(&exchange).reused && last(&exchange).first_byte.is_some());
    let counts = proxy.counts();
    assert_eq!((counts.created, counts.reused, counts.open, counts.idle, counts.streams), (1, 20, 1, 1, 0));
    assert!(!fake.is_wanted().await);
}

#[tokio::test]
async fn an_attempt_to_connect_outlives_whoever_began_it() {
    let fake = Fake::new().await;
    let proxy = to(&[fake.address]);
    let (first, _) = proxy.send(get("/first"));
    let wire = fake.accept().await;
    let (second, _) = proxy.send(get("/second"));
    tokio::task::yield_now().await;
    first.abort();
    let mut peer = Peer::new(wire).await;
    let stream = peer.next().await;
    assert_eq!(stream.request.uri().path(), "/second");
    stream.answer("ok");
    assert_eq!(text(second.await.unwrap()).await, "ok");
}

#[tokio::test]
async fn a_request_says_who_is_asked_and_nothing_that_concerns_another_connection() {
    let fake = Fake::new().await;
    for host in [Host::Keep, Host::Instance] {
        let proxy = Proxy::with(&[fake.address], Policy { host, ..policy() });
        let mut request = post("body");
        *request.uri_mut() = "/path?query".parse().unwrap();
        for (name, value) in [
            ("connection", "x-secret, te"),
            ("x-secret", "1"),
            ("te", "gzip, trailers"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
            ("content-length", "999"),
        ] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let (answer, _) = proxy.send(request);
        let mut peer = Peer::new(fake.accept().await).await;
        let stream = peer.next().await;
        let authority = if host == Host::Keep { "shop.example".to_owned() } else { fake.address.to_string() };
        assert_eq!(stream.request.uri().to_string(), format!("http://{authority}/path?query"));
        assert_eq!(stream.header("te"), Some("trailers"));
        assert_eq!(stream.header("content-length"), Some("4"), "what is sent is the truth");
        for name in ["host", "connection", "x-secret", "keep-alive", "upgrade", "transfer-encoding"] {
            assert_eq!(stream.header(name), None, "{name}");
        }
        assert_eq!(stream.read_and_answer("ok").await, b"body");
        assert_eq!(text(answer.await.unwrap()).await, "ok");
    }
}

#[tokio::test]
async fn an_instance_gets_no_more_streams_than_it_takes_and_further_connections_instead() {
    let fake = Fake::new().await;
    let proxy = to(&[fake.address]);
    let mut answers: Vec<_> = (0..5).map(|_| proxy.send(get("/")).0).collect();
    let mut peers = Vec::new();
    let mut streams = Vec::new();
    for expected in [2, 2, 1] {
        let mut peer = Peer::taking(fake.accept().await, 2).await;
        for _ in 0..expected {
            streams.push(peer.next().await);
        }
        peers.push(peer);
    }
    assert!(peers.iter_mut().all(Peer::is_quiet) && proxy.counts().streams == 5);
    streams.into_iter().for_each(|stream| stream.answer("ok"));
    for answer in answers.drain(..) {
        assert_eq!(text(answer.await.unwrap()).await, "ok");
    }
    assert_eq!(proxy.counts().created, 3);
}

#[tokio::test]
async fn another_connection_is_opened_when_one_has_enough_streams() {
    let fake = Fake::new().await;
    let proxy = to(&[fake.address]);
    let answers: Vec<_> = (0..65).map(|_| proxy.send(get("/")).0).collect();
    let mut first = Peer::new(fake.accept().await).await;
    for _ in 0..64 {
        first.next().await.answer("ok");
    }
    let mut second = Peer::new(fake.accept().await).await;
    tokio::select! {
        stream = first.next() => stream.answer("ok"),
        stream = second.next() => stream.answer("ok"),
    }
    for answer in answers {
        assert_eq!(text(answer.await.unwrap()).await, "ok");
    }
}

#[tokio::test]
async fn a_connection_that_was_told_to_go_takes_no_stream_and_ends_with_its_last() {
    let fake = Fake::new().await;
    let proxy = to(&[fake.address]);
    let (old, _) = proxy.send(get("/old"));
    let mut peer = Peer::new(fake.accept().await).await;
    let stream = peer.next().await;
    peer.go_away();
    // The news is on its way.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (new, exchange) = proxy.send(post("new"));
    let mut other = Peer::new(fake.accept().await).await;
    assert_eq!(other.next().await.read_and_answer("new").await, b"new");
    assert_eq!(text(new.await.unwrap()).await, "new");
    assert_eq!(exchange.attempts().len(), 1);
    stream.answer("old");
    assert_eq!(text(old.await.unwrap()).await, "old");
    assert!(peer.try_next().await.is_none(), "the connection ends");
    until("it is counted", || proxy.counts().closed[Closed::Peer as usize] == 1).await;
    assert_eq!(proxy.counts().open, 1);
}

#[tokio::test]
async fn what_an_instance_did_nothing_with_is_sent_again_whatever_it_is() {
    let fake = Fake::new().await;
    for goes_away in [false, true] {
        let proxy = to(&[fake.address]);
        let (answer, exchange) = proxy.send(post("once"));
        let mut raw = Raw::begin(fake.accept().await).await;
        let (_, stream, _) = raw.until(DATA).await;
        if goes_away {
            raw.send(GOAWAY, 0, 0, &[0; 8]).await;
        } else {
            raw.send(RST_STREAM, 0, stream, &7u32.to_be_bytes()).await;
        }
        if goes_away {
            let mut other = Peer::new(fake.accept().await).await;
            assert_eq!(other.next().await.read_and_answer("ok").await, b"once");
        } else {
            let (_, stream, body) = raw.until(DATA).await;
            assert_eq!(body, b"once");
            raw.send(HEADERS, END_HEADERS, stream, &block(&[(":status", "200")])).await;
            raw.send(DATA, END_STREAM, stream, b"ok").await;
        }
        assert_eq!(text(answer.await.unwrap()).await, "ok");
        let attempts = exchange.attempts();
        assert_eq!((attempts.len(), attempts[0].cause), (2, Some(Cause::ResetBeforeHeaders)), "{goes_away}");
    }
}

/// Those that an instance has opened together it may close together, and three attempts were over in no time.
#[tokio::test]
async fn the_last_attempt_takes_a_connection_that_was_not_there_before() {
    let fake = Fake::new().await;
    let proxy = Proxy::with(&[fake.address], Policy { retry: Retry { attempts: 2, ..Retry::default() }, ..policy() });
    let (first, _) = proxy.send(get("/first"));
    let mut old = Peer::taking(fake.accept().await, 1).await;
    let stream = old.next().await;
    let (second, exchange) = proxy.send(get("/second"));
    let mut going = Raw::begin(fake.accept().await).await;
    going.until(HEADERS).await;
    stream.answer("ok");
    assert_eq!(text(first.await.unwrap()).await, "ok");
    going.send(GOAWAY, 0, 0, &[0; 8]).await;
    let mut another = Peer::new(fake.accept().await).await;
    another.next().await.answer("at last");
    assert_eq!(text(second.await.unwrap()).await, "at last");
    assert!(exchange.attempts().len() == 2 && !last(&exchange).reused);
}

#[tokio::test]
async fn what_an_instance_may_have_done_is_sent_again_only_if_it_may_be_done_twice() {
    let fake = Fake::new().await;
    for reason in [Reason::INTERNAL_ERROR, Reason::CANCEL] {
        for method in [Method::GET, Method::POST] {
            let proxy = to(&[fake.address]);
            let mut request = get("/");
            *request.method_mut() = method.clone();
            let (answer, exchange) = proxy.send(request);
            let mut peer = Peer::new(fake.accept().await).await;
            peer.next().await.respond.send_reset(reason);
            if method == Method::GET {
                peer.next().await.answer("ok");
                assert_eq!(text(answer.await.unwrap()).await, "ok");
            } else {
                let answer = answer.await.unwrap();
                assert_eq!((answer.status().as_u16(), cause(&answer)), (502, Some(Cause::ResetBeforeHeaders)));
                assert_eq!(exchange.attempts().len(), 1);
            }
        }
    }
}

#[tokio::test]
async fn a_connection_that_breaks_takes_its_streams_along_and_each_is_judged_for_itself() {
    let fake = Fake::new().await;
    let proxy = to(&[fake.address]);
    let (read, _) = proxy.send(get("/"));
    let (write, written) = proxy.send(post("body"));
    let mut raw = Raw::begin(fake.accept().await).await;
    raw.until(HEADERS).await;
    raw.until(DATA).await;
    drop(raw);
    let mut peer = Peer::new(fake.accept().await).await;
    peer.next().await.answer("ok");
    assert_eq!(text(read.await.unwrap()).await, "ok");
    assert_eq!(cause(&write.await.unwrap()), Some(Cause::ResetBeforeHeaders));
    assert_eq!(written.attempts().len(), 1);
}

#[tokio::test]
async fn a_client_that_goes_away_resets_its_stream_at_once_and_nothing_else() {
    let fake = Fake::new().await;
    let proxy = to(&[fake.address]);
    let mut peer = {
        let (answer, _) = proxy.send(get("/"));
        let mut peer = Peer::new(fake.accept().await).await;
        let mut stream = peer.next().await;
        let began = Instant::now();
        // Before the answer began.
        answer.abort();
        assert_eq!(stream.until_reset().await, Reason::CANCEL);
        assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
        peer
    };
    // In the middle of both bodies.
    let (sender, body) = channel();
    let (answer, exchange) = proxy.send(post(body));
    sender.send(Frame::data("first".into())).unwrap();
    let mut stream = peer.next().await;
    let mut sending = stream.respond.send_response(Response::new(()), false).unwrap();
    sending.send_data("begun".into(), false).unwrap();
    let mut answer = answer.await.unwrap().into_body();
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "begun");
    let began = Instant::now();
    drop(answer);
    assert_eq!(std::future::poll_fn(|context| sending.poll_reset(context)).await.unwrap(), Reason::CANCEL);
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    assert_eq!(last(&exchange).cause, Some(Cause::ClientClosed));
    until("the client's body is let go of", || sender.is_closed()).await;

    let (answer, _) = proxy.send(get("/"));
    peer.next().await.answer("still here");
    assert_eq!(text(answer.await.unwrap()).await, "still here");
    assert_eq!((proxy.counts().created, proxy.counts().streams), (1, 0));
}

#[tokio::test]
async fn bodies_go_both_ways_at_once_and_as_they_come() {
    let fake = Fake::new().await;
    let proxy = to(&[fake.address]);
    let (sender, body) = channel();
    let (answer, _) = proxy.send(post(body));
    let mut peer = Peer::new(fake.accept().await).await;
    let mut stream = peer.next().await;
    let mut sending = stream.respond.send_response(Response::new(()), false).unwrap();
    let mut answer = answer.await.unwrap().into_body();
    for word in ["one", "two", "three"] {
        sender.send(Frame::data(word.into())).unwrap();
        let got = stream.request.body_mut().data().await.unwrap().unwrap();
        assert_eq!(got, word);
        sending.send_data(got, false).unwrap();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), word);
    }
    sender.send(Frame::trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), "3".parse().unwrap())]))).unwrap();
    let (rest, trailers) = read(stream.request.body_mut()).await;
    assert!(rest.is_empty());
    sending.send_trailers(trailers.unwrap()).unwrap();
    let trailers = answer.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["x-sum"], "3");
    assert!(answer.frame().await.is_none());
    until("the stream is over", || proxy.counts().streams == 0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_its_own_stream_only_and_costs_a_window() {
    let fake = Fake::new().await;
    let proxy = to(&[fake.address]);
    let (stalled, _) = proxy.send(get("/stalled"));
    let mut peer = Peer::new(fake.accept().await).await;
    let mut stream = peer.next().await;
    let mut sending = stream.respond.send_response(Response::new(()), false).unwrap();
    let stalled = stalled.await.unwrap();
    let mut sent = 0;
    let chunk = Bytes::from(vec![b'x'; 16 * 1024]);
    sending.reserve_capacity(8 << 20);
    while let Ok(Some(Ok(room))) =
        timeout(Duration::from_millis(200), std::future::poll_fn(|context| sending.poll_capacity(context))).await
    {
        let mut room = room;
        while room > 0 {
            let part = chunk.slice(..room.min(chunk.len()));
            (room, sent) = (room - part.len(), sent + part.len());
            sending.send_data(part, false).unwrap();
        }
        sending.reserve_capacity(8 << 20);
    }
    assert!((64 * 1024..=256 * 1024).contains(&sent), "{sent}");
    // Meanwhile others have all the room they need.
    let (answer, _) = proxy.send(get("/large"));
    let large = Bytes::from(vec![b'y'; 3 << 20]);
    peer.next().await.answer(large.clone());
    assert_eq!(answer.await.unwrap().into_body().collect().await.unwrap().to_bytes(), large);
    drop(stalled);
}

#[tokio::test]
async fn an_instance_that_does_not_read_is_sent_no_more_than_it_takes() {
    let fake = Fake::new().await;
    let proxy = to(&[fake.address]);
    let polled = Arc::<AtomicUsize>::default();
    let (answer, _) = proxy.send(post(endless(16 * 1024, polled.clone())));
    let mut peer = Peer::new(fake.accept().await).await;
    let stream = peer.next().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let taken = polled.load(Relaxed) * 16 * 1024;
    assert!(taken <= 65_535 + (64 << 10) + 3 * 16 * 1024, "{taken} bytes wait here");
    let (other, _) = proxy.send(get("/"));
    peer.next().await.answer("ok");
    assert_eq!(text(other.await.unwrap()).await, "ok");
    drop((stream, answer));
}

#[tokio::test]
async fn a_body_waits_to_be_told_to_go_on() {
    let fake = Fake::new().await;
    let proxy = to(&[fake.address]);
    let mut request = post("body");
    request.headers_mut().insert("expect", HeaderValue::from_static("100-continue"));
    let began = Instant::now();
    let (answer, _) = proxy.send(request);
    let mut raw = Raw::begin(fake.accept().await).await;
    let (_, stream, _) = raw.until(HEADERS).await;
    raw.send(HEADERS, END_HEADERS, stream, &block(&[(":status", "103")])).await;
    raw.send(HEADERS, END_HEADERS, stream, &block(&[(":status", "100")])).await;
    assert_eq!(raw.until(DATA).await.2, b"body");
    assert!(began.elapsed() < Duration::from_secs(1), "it did not wait for its own patience to end");
    raw.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(&[(":status", "204")])).await;
    assert_eq!(answer.await.unwrap().status(), 204);
}

#[tokio::test]
async fn an_early_answer_is_passed_on_and_the_rest_of_the_request_is_not_sent() {
    let fake = Fake::new().await;
    let proxy = to(&[fake.address]);
    let (sender, body) = channel();
    let (answer, _) = proxy.send(post(body));
    sender.send(Frame::data("some".into())).unwrap();
    let mut peer = Peer::new(fake.accept().await).await;
    let stream = peer.next().await;
    stream.answer("enough");
    assert_eq!(text(answer.await.unwrap()).await, "enough");
    until("the client's body is let go of", || sender.is_closed()).await;
    let (answer, _) = proxy.send(get("/"));
    peer.next().await.answer("ok");
    assert_eq!(text(answer.await.unwrap()).await, "ok");
    assert_eq!(proxy.counts().created, 1);
}

/// What becomes of an answer whose frames are these, after its request's stream.
async fn answered(frames: &[(u8, u8, Vec<u8>)]) -> (Option<Cause>, Result<String, String>) {
    answered_to(get("/"), frames).await
}

async fn answered_to(request: Request, frames: &[(u8, u8, Vec<u8>)]) -> (Option<Cause>, Result<String, String>) {
    let fake = Fake::new().await;
    let proxy = Proxy::with(&[fake.address], once());
    let (answer, _) = proxy.send(request);
    let mut raw = Raw::begin(fake.accept().await).await;
    let (_, stream, _) = raw.until(HEADERS).await;
    for (kind, flags, payload) in frames {
        raw.send(*kind, *flags, stream, payload).await;
    }
    let answer = answer.await.unwrap();
    let cause = cause(&answer);
    let body = answer.into_body().collect().await;
    (cause, body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into()).map_err(|error| error.to_string()))
}

#[tokio::test]
async fn an_answer_that_could_be_understood_in_two_ways_is_a_502() {
    let ok = (":status", "200");
    for headers in [
        &[(":status", "20")][..],
        &[(":status", "abc")],
        &[(":status", "600")],
        &[ok, ("content-length", "02")],
        &[("x", "no status")],
        &[(":status", "101")],
        &[ok, ("connection", "close")],
        &[ok, ("transfer-encoding", "chunked")],
        &[ok, ("keep-alive", "timeout=5")],
        &[ok, ("X-Upper", "1")],
        &[ok, ("content-length", "five")],
        &[ok, ("content-length", "+2")],
        &[ok, ("content-length", "2"), ("content-length", "3")],
        &[ok, ("content-length", "3")],
        &[ok, ("x", "a\nb")],
        &[ok, ("x", " a")],
        &[ok, ("x", "a ")],
        &[ok, ("x", "\ta")],
        &[ok, ("x", " ")],
    ] {
        let (cause, _) = answered(&[(HEADERS, END_HEADERS | END_STREAM, block(headers))]).await;
        assert_eq!(cause, Some(Cause::BadUpstreamResponse), "{headers:?}");
    }
    let interim = |count| vec![(HEADERS, END_HEADERS, block(&[(":status", "103")])); count];
    assert_eq!(answered(&interim(17)).await.0, Some(Cause::BadUpstreamResponse));
    let end = (HEADERS, END_HEADERS | END_STREAM, block(&[(":status", "200")]));
    assert_eq!(answered(&[interim(16), vec![end]].concat()).await.0, None);
}

#[tokio::test]
async fn a_body_that_ends_early_or_late_ends_visibly() {
    let head = |length| (HEADERS, END_HEADERS, block(&[(":status", "200"), ("content-length", length)]));
    let open = (HEADERS, END_HEADERS, block(&[(":status", "200")]));
    let reset = |reason: u32| (RST_STREAM, 0, reason.to_be_bytes().to_vec());
    let trailers = |fields: &[(&str, &str)]| (HEADERS, END_HEADERS | END_STREAM, block(fields));
    for (frames, cause) in [
        (vec![head("5"), (DATA, END_STREAM, b"four".to_vec())], "bad_upstream_response"),
        (vec![head("3"), (DATA, 0, b"more".to_vec())], "bad_upstream_response"),
        (vec![open.clone(), (DATA, 0, b"some".to_vec()), reset(8)], "reset_after_headers"),
        // "No error" is no end.
        (vec![open.clone(), (DATA, 0, b"some".to_vec()), reset(0)], "reset_after_headers"),
        (vec![open.clone(), (HEADERS, END_HEADERS, block(&[("x", "no end")]))], "bad_upstream_response"),
        (vec![open.clone(), (DATA, 0, b"some".to_vec()), trailers(&[("x", " a")])], "bad_upstream_response"),
        (vec![open.clone(), (DATA, 0, b"some".to_vec()), trailers(&[("x", "a\t")])], "bad_upstream_response"),
        (vec![open.clone(), trailers(&[("x", "a"), (":status", "200")])], "bad_upstream_response"),
        (vec![open.clone(), trailers(&[(":x", "a")])], "bad_upstream_response"),
    ] {
        // Where the head has not been passed on yet when that comes to light, it never is.
        let (refused, body) = answered(&frames).await;
        let told = refused.map_or_else(|| body.expect_err("cut"), |cause| cause.to_string());
        assert!(told.contains(cause), "{told}: {frames:?}");
    }
    let (_, whole) = answered(&[head("4"), (DATA, END_STREAM, b"four".to_vec())]).await;
    assert_eq!(whole.unwrap(), "four");
    // A pseudo header in front of trailers is malformed as well, but h2 lets go of it before anybody could see it.
    let late = trailers(&[(":status", "500"), (":path", "/"), ("x", "a b")]);
    let (cause, whole) = answered(&[open, (DATA, 0, b"some".to_vec()), late]).await;
    assert_eq!((cause, whole.unwrap().as_str()), (None, "some"));
    // An answer to HEAD, or one that says that nothing has changed, tells the length of what it does not carry.
    let mut request = get("/");
    *request.method_mut() = Method::HEAD;
    let (cause, body) = answered_to(request, &[head("4"), (DATA, END_STREAM, Vec::new())]).await;
    assert_eq!((cause, body.unwrap().as_str()), (None, ""));
}

#[tokio::test]
async fn an_instance_that_speaks_something_else_gets_no_request() {
    let fake = Fake::new().await;
    let proxy = Proxy::with(&[fake.address], once());
    let (answer, exchange) = proxy.send(post("secret"));
    let mut wire = fake.accept().await;
    wire.take(24).await;
    wire.put("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    let answer = answer.await.unwrap();
    assert_eq!((answer.status().as_u16(), cause(&answer)), (502, Some(Cause::BadUpstreamResponse)));
    assert!(!String::from_utf8_lossy(&wire.rest().await).contains("secret"));
    assert_eq!((proxy.counts().created, exchange.attempts().len()), (0, 1));
    // Nothing was sent, so another instance may have it.
    let good = Fake::new().await;
    for _ in 0..4 {
        let proxy = to(&[fake.address, good.address]);
        let (answer, _) = proxy.send(post("safe"));
        let serve = async {
            loop {
                tokio::select! {
                    mut wire = fake.accept() => wire.put("HTTP/1.1 400 Bad Request\r\n\r\n").await,
                    wire = good.accept() => return Peer::new(wire).await.next().await.read_and_answer("ok").await,
                }
            }
        };
        assert_eq!(timeout(Duration::from_secs(5), serve).await.unwrap(), b"safe");
        assert_eq!(text(answer.await.unwrap()).await, "ok");
    }
}

#[tokio::test]
async fn an_instance_that_is_gone_without_a_word_is_noticed() {
    let pings = Pings {
        quiet: Duration::from_millis(50),
        patience: Duration::from_millis(100),
        again: Duration::from_secs(300),
    };
    let fake = Fake::new().await;
    let limits = Limits { pings, ..Limits::default() };
    let proxy = Proxy::limited(service(&[fake.address]), once(), Overrides::default(), limits);
    let (answer, _) = proxy.send(get("/"));
    let mut raw = Raw::begin(fake.accept().await).await;
    // It answers one ping and is silent for a while; it is not asked again, since that could be taken amiss.
    let (_, _, payload) = raw.until(PING).await;
    raw.send(PING, ACK, 0, &payload).await;
    let again = timeout(Duration::from_millis(400), raw.until(PING)).await;
    assert!(again.is_err() && !answer.is_finished());
    // A part of an answer is a new begin. The next ping is not answered.
    raw.send(HEADERS, END_HEADERS, 1, &block(&[(":status", "200")])).await;
    let answer = answer.await.unwrap();
    raw.until(PING).await;
    let error = timeout(Duration::from_secs(5), answer.into_body().collect()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("reset_after_headers"), "{error}");
    until("it is counted", || proxy.counts().closed[Closed::Silent as usize] == 1).await;
    assert_eq!(proxy.counts().open, 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_not_kept_for_ever() {
    for (limits, reason) in [
        (Limits { age: Some(Duration::from_secs(600)), ..Limits::default() }, Closed::Age),
        (Limits::default(), Closed::Idle),
    ] {
        let fake = Fake::new().await;
        let proxy = Proxy::limited(service(&[fake.address]), policy(), Overrides::default(), limits);
        let (answer, _) = proxy.send(get("/"));
        let mut peer = Peer::new(fake.accept().await).await;
        peer.next().await.answer("ok");
        assert_eq!(text(answer.await.unwrap()).await, "ok");
        proxy.pools.sweep();
        assert_eq!((proxy.counts().open, proxy.counts().idle), (1, 1));
        tokio::time::advance(Duration::from_secs(if reason == Closed::Age { 601 } else { 61 })).await;
        proxy.pools.sweep();
        assert!(peer.try_next().await.is_none(), "the connection ends");
        until("it is counted", || proxy.counts().closed[reason as usize] == 1).await;
        assert_eq!((proxy.counts().open, proxy.counts().idle), (0, 0));
    }
}

#[tokio::test]
async fn without_tls_only_a_call_of_grpc_is_as_good_as_a_word_for_http_2() {
    let fake = Fake::new().await;
    let proxy = Proxy::with(&[fake.address], Policy { protocol: Protocol::Auto, ..Policy::default() });
    for _ in 0..2 {
        let (answer, _) = proxy.send(get("/"));
        let mut wire = fake.accept().await;
        assert!(
            wire.answer("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
                .await
                .contains("HTTP/1.1")
        );
        assert_eq!(text(answer.await.unwrap()).await, "ok");
        let mut call = post("call");
        call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        let (answer, _) = proxy.send(call);
        let mut peer = Peer::new(fake.accept().await).await;
        peer.next().await.answer("ok");
        assert_eq!(text(answer.await.unwrap()).await, "ok");
        peer.go_away();
        assert!(peer.try_next().await.is_none());
    }
}

/// A service behind TLS, with the protocol it is said to speak.
fn secure(address: SocketAddr, directory: &Path, authority: &Authority, protocol: &str) -> String {
    let ca = directory.join("ca.pem");
    replace(&ca, &authority.pem);
    format!(
        "[[route]]\nservice = \"orders\"\n[service.orders]\ninstances = [\"{address}\"]\n\
         protocol = \"{protocol}\"\ntls = {{ ca = \"{}\" }}\n",
        ca.display()
    )
}

#[tokio::test]
async fn over_tls_the_handshake_decides_or_refuses() {
    let (directory, authority) = (TempDir::new().unwrap(), Authority::new("internal"));
    let issued = authority.issue(&[]);
    for (offers, protocol, expected) in [
        (&["h2", "http/1.1"][..], "h2", (200, "HTTP/2.0 https")),
        (&["h2", "http/1.1"], "auto", (200, "HTTP/2.0 https")),
        (&["h2", "http/1.1"], "http1", (200, "HTTP/1.1")),
        (&["http/1.1"], "auto", (200, "HTTP/1.1")),
        (&[], "auto", (200, "HTTP/1.1")),
        (&["h2"], "auto", (200, "HTTP/2.0 https")),
        (&["http/1.1"], "h2", (502, "tls_upstream")),
        (&[], "h2", (502, "tls_upstream")),
    ] {
        let (address, handshakes) = SecureInstance::speaking(&issued, offers).await;
        let gateway = Running::start(&secure(address, directory.path(), &authority, protocol)).await;
        // Together, so that the first ones wait for the same handshake.
        let asked = futures_util::future::join_all((0..3).map(|_| gateway.get("/"))).await;
        for (status, body) in asked.into_iter().chain([gateway.get("/").await]) {
            assert!(status == expected.0 && body.contains(expected.1), "{offers:?} {protocol}: {status} {body}");
        }
        if expected.1.starts_with("HTTP/2") {
            assert_eq!(handshakes.load(Relaxed), 1, "{offers:?} {protocol}");
        }
    }
}

#[tokio::test]
async fn a_reload_that_changes_the_protocol_makes_new_connections() {
    let (directory, authority) = (TempDir::new().unwrap(), Authority::new("internal"));
    let (address, handshakes) = SecureInstance::speaking(&authority.issue(&[]), &["h2", "http/1.1"]).await;
    let of = |protocol: &str| secure(address, directory.path(), &authority, protocol);
    let gateway = Running::start(&of("http1")).await;
    assert_eq!(gateway.get("/").await, (200, "HTTP/1.1".to_owned()));
    for _ in 0..2 {
        assert_eq!(gateway.reload(&of("h2")).await.0, 200);
        assert_eq!(gateway.get("/").await, (200, "HTTP/2.0 https".to_owned()));
    }
    assert_eq!(handshakes.load(Relaxed), 2);
}

#[tokio::test]
async fn what_comes_late_for_clients_that_are_gone_harms_nobody() {
    let fake = Fake::new().await;
    let proxy = to(&[fake.address]);
    let mut raw = None;
    let mut streams = Vec::new();
    for _ in 0..1100 {
        let (answer, _) = proxy.send(get("/"));
        let raw = match &mut raw {
            Some(raw) => raw,
            none => none.insert(Raw::begin(fake.accept().await).await),
        };
        streams.push(raw.until(HEADERS).await.1);
        answer.abort();
        raw.until(RST_STREAM).await;
    }
    let mut raw = raw.unwrap();
    // By now they are forgotten.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for stream in streams {
        raw.send(HEADERS, END_HEADERS, stream, &block(&[(":status", "200")])).await;
        raw.send(DATA, END_STREAM, stream, b"late").await;
    }
    let (answer, _) = proxy.send(get("/"));
    let (_, stream, _) = raw.until(HEADERS).await;
    raw.send(HEADERS, END_HEADERS, stream, &block(&[(":status", "200")])).await;
    raw.send(DATA, END_STREAM, stream, b"in time").await;
    assert_eq!(text(answer.await.unwrap()).await, "in time");
    assert_eq!(proxy.counts().created, 1);
}

#[tokio::test]
async fn trailers_reach_a_client_of_http_1_that_asked_for_them() {
    let fake = Fake::new().await;
    let route = format!(
        "[[route]]\nservice = \"orders\"\n[service.orders]\ninstances = [\"{}\"]\nprotocol = \"h2c\"\n",
        fake.address
    );
    let gateway = Running::start(&route).await;
    let mut client = Wire::connect(gateway.address).await;
    client.put("POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut peer = Peer::new(fake.accept().await).await;
    let mut stream = peer.next().await;
    assert_eq!(stream.header("te"), Some("trailers"));
    client.put("4\r\nbody\r\n0\r\nx-sent: 1\r\n\r\n").await;
    let (body, trailers) = read(stream.request.body_mut()).await;
    assert_eq!((body.as_slice(), trailers.unwrap()["x-sent"].as_bytes()), (&b"body"[..], &b"1"[..]));
    let head = Response::builder().header("trailer", "x-sum").body(()).unwrap();
    let mut sending = stream.respond.send_response(head, false).unwrap();
    sending.send_data("answer".into(), false).unwrap();
    sending.send_trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), "3".parse().unwrap())])).unwrap();
    let answer = client.take_until("x-sum: 3\r\n\r\n").await;
    assert!(answer.contains("transfer-encoding: chunked") && answer.contains("6\r\nanswer\r\n0\r\n"), "{answer}");
}

#[tokio::test]
async fn connections_to_an_instance_that_a_reload_takes_away_end_with_their_streams() {
    let fakes = [Fake::new().await, Fake::new().await];
    let of = |fake: &Fake| {
        let address = fake.address;
        format!("[[route]]\nservice = \"a\"\n[service.a]\ninstances = [\"{address}\"]\nprotocol = \"h2c\"\n")
    };
    let gateway = Running::start(&of(&fakes[0])).await;
    let mut client = Wire::connect(gateway.address).await;
    client.put("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut peer = Peer::new(fakes[0].accept().await).await;
    let stream = peer.next().await;
    assert_eq!(gateway.reload(&of(&fakes[1])).await.0, 200);
    stream.answer("still answered");
    client.take_until("still answered").await;
    // The next sweep finds that nobody knows it any more.
    assert!(peer.try_next().await.is_none(), "the connection ends");
}

#[tokio::test]
async fn a_burst_of_cancelled_requests_leaves_a_usable_connection() {
    let fake = Fake::new().await;
    let proxy = to(&[fake.address]);
    let (answer, _) = proxy.send(get("/"));
    let mut peer = Peer::new(fake.accept().await).await;
    peer.next().await.answer("ok");
    text(answer.await.unwrap()).await;
    for _ in 0..300 {
        let mut request = get("/");
        arrive(&mut request);
        let forward = proxy.forward.clone();
        let _ = timeout(Duration::from_micros(100), forward.run(request)).await;
    }
    let (answer, _) = proxy.send(get("/last"));
    let serve = async {
        loop {
            let stream = peer.next().await;
            if stream.request.uri().path() == "/last" {
                return stream.answer("last");
            }
        }
    };
    timeout(Duration::from_secs(5), serve).await.unwrap();
    assert_eq!(text(answer.await.unwrap()).await, "last");
    assert_eq!((proxy.counts().created, proxy.counts().streams), (1, 0));
}

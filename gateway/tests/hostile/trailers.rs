//! Trailers that say what only a head may say.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;

use super::support::frames::{Peer, read};
use super::support::http2::{Client, whole};
use super::*;

/// What goes no further, and at the end what does.
const NAMES: &[&str] = &[
    "set-cookie",
    "authorization",
    "cookie",
    "content-type",
    "content-encoding",
    "content-range",
    "cache-control",
    "max-forwards",
    "expect",
    "location",
    "proxy-authorization",
    "http2-settings",
    "trailer",
    "proxy",
    "x-forwarded-for",
    "x_forwarded_for",
    "forwarded",
    "x-real-ip",
    "traceparent",
    "x-sum",
    "etag",
];

/// What no reader of HTTP/2 takes in trailers, and HTTP/1.1 does.
const OF_CONNECTIONS: &[&str] = &["connection", "keep-alive", "te", "upgrade", "proxy-connection"];

const PASS: [&str; 2] = ["etag", "x-sum"];

/// All of them as lines.
fn lines(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name}: 1\r\n")).collect()
}

fn map() -> HeaderMap {
    NAMES.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))).collect()
}

fn names(trailers: Option<HeaderMap>) -> Vec<String> {
    let mut names: Vec<_> = trailers.iter().flat_map(HeaderMap::keys).map(ToString::to_string).collect();
    names.sort();
    names
}

/// The names of the trailers behind a chunked body.
fn names_behind(body: &str) -> Vec<String> {
    let (_, trailers) = body.split_once("0\r\n").unwrap();
    let mut names: Vec<_> =
        trailers.trim_end().lines().map(|line| line.split_once(':').unwrap().0.to_ascii_lowercase()).collect();
    names.sort();
    names
}

async fn before_http2(fake: &Fake) -> Logged {
    let route = "[[route]]\nmatch = { path = { prefix = \"/\" } }\nservice = \"orders\"\n";
    Logged::with(&format!("[service.orders]\ninstances = [\"{}\"]\nprotocol = \"h2c\"\n{route}", fake.address)).await
}

/// An answer over HTTP/1.1 that has trailers of both kinds, and one that its `Connection` has listed.
fn answer() -> String {
    let announced = [NAMES, OF_CONNECTIONS].concat().join(", ");
    let trailers = lines(&[NAMES, OF_CONNECTIONS, &["x-private"]].concat());
    format!(
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, x-private\r\nTrailer: x-private, {announced}\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{trailers}\r\n"
    )
}

#[tokio::test]
async fn an_answers_trailers_reach_the_client_without_what_belongs_into_a_head() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let mut client = target.connect().await;
    client.put("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\n\r\n").await;
    let mut wire = fake.accept().await;
    wire.answer(&answer()).await;
    client.head().await;
    let body = client.take_until("\r\n\r\n").await;
    assert_eq!(names_behind(&body), PASS, "{body}");

    let http2 = Client::connect(target.address).await;
    let trailed = answer();
    let (answer, _) = tokio::join!(http2.get("http://a/"), wire.answer(&trailed));
    assert_eq!((answer.text(), names(answer.trailers.clone())), ("ok", PASS.map(str::to_owned).to_vec()));

    let fake = Fake::new().await;
    let target = before_http2(&fake).await;
    let http2 = Client::connect(target.address).await;
    let instance = async {
        let mut stream = Peer::new(fake.accept().await).await.next().await;
        let mut send = stream.respond.send_response(Response::new(()), false).unwrap();
        send.send_data(Bytes::from("ok"), false).unwrap();
        send.send_trailers(map()).unwrap();
        stream
    };
    let (answer, _stream) = tokio::join!(http2.get("http://a/"), instance);
    assert_eq!((answer.text(), names(answer.trailers.clone())), ("ok", PASS.map(str::to_owned).to_vec()));
}

#[tokio::test]
async fn a_requests_trailers_reach_the_instance_without_what_belongs_into_a_head() {
    let announced = [NAMES, &["x-private"]].concat().join(", ");
    let over_http1 = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x-private\r\nTrailer: {announced}\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{}\r\n",
        lines(&[NAMES, OF_CONNECTIONS, &["x-private"]].concat())
    );
    let over_http2 = || {
        let frames = [Ok::<_, std::io::Error>(Frame::data(Bytes::from("hi"))), Ok(Frame::trailers(map()))];
        let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
        Request::post("http://a/").header("trailer", NAMES.join(", ")).body(body).unwrap()
    };

    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let mut client = target.connect().await;
    client.put(&over_http1).await;
    let mut wire = fake.accept().await;
    wire.head().await;
    let body = wire.take_until("\r\n\r\n").await;
    assert_eq!(names_behind(&body), PASS, "{body}");
    wire.put(OK).await;
    client.head().await;
    let http2 = Client::connect(target.address).await;
    let instance = async {
        wire.head().await;
        let body = wire.take_until("\r\n\r\n").await;
        wire.put(OK).await;
        body
    };
    let (answer, body) = tokio::join!(http2.send(over_http2()), instance);
    assert_eq!((answer.status().as_u16(), names_behind(&body)), (200, PASS.map(str::to_owned).to_vec()), "{body}");

    let fake = Fake::new().await;
    let target = before_http2(&fake).await;
    let mut client = target.connect().await;
    client.put(&over_http1).await;
    let mut peer = Peer::new(fake.accept().await).await;
    let mut stream = peer.next().await;
    let (body, trailers) = read(stream.request.body_mut()).await;
    assert_eq!((body.as_slice(), names(trailers)), (&b"hi"[..], PASS.map(str::to_owned).to_vec()));
    stream.answer("ok");
    client.head().await;
    let http2 = Client::connect(target.address).await;
    let instance = async {
        let mut stream = peer.next().await;
        let (_, trailers) = read(stream.request.body_mut()).await;
        stream.answer("ok");
        trailers
    };
    let (answer, trailers) = tokio::join!(http2.send(over_http2()), instance);
    assert_eq!((whole(answer).await.text(), names(trailers)), ("ok", PASS.map(str::to_owned).to_vec()));
}

#[tokio::test]
async fn trailers_of_which_nothing_is_left_end_a_body_all_the_same() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let bad = "HTTP/1.1 200 OK\r\nTrailer: set-cookie\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nSet-Cookie: a=b\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n";
    let mut client = target.connect().await;
    client.put("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n").await;
    let mut wire = fake.accept().await;
    wire.answer(bad).await;
    client.head().await;
    assert_eq!(client.take_until("\r\n\r\n").await, "2\r\nok\r\n0\r\n\r\n");
    let http2 = Client::connect(target.address).await;
    let (answer, _) = tokio::join!(http2.get("http://a/"), wire.answer(bad));
    assert_eq!((answer.text(), names(answer.trailers.clone())), ("ok", Vec::new()));
}

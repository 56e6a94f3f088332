//! Instances that answer in the middle of an upload and leave: the client gets their answer, over and over.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::time::timeout;

use super::support::frames::Raw;
use super::support::http2::{Client, whole};
use super::support::proxy::endless;
use super::support::speaker::*;
use super::*;

const TOO_LARGE: &str = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig";

/// How often each is tried: whether the answer or the broken connection is seen first is a matter of chance.
const TIMES: usize = 20;

/// Answers before the body was read, and leaves at once. What is unread then makes the system break the connection.
async fn refuse(fake: &Fake) {
    let mut wire = fake.accept().await;
    wire.head().await;
    wire.take(1000).await;
    wire.put(TOO_LARGE).await;
}

/// The same over HTTP/2.
async fn refuse_over_http2(fake: &Fake) {
    let mut raw = Raw::begin(fake.accept().await).await;
    let (_, stream, _) = raw.until(HEADERS).await;
    raw.until(DATA).await;
    raw.send(HEADERS, END_HEADERS, stream, &block(&[(":status", "413"), ("content-length", "3")])).await;
    raw.send(DATA, END_STREAM, stream, b"big").await;
    raw.send(RST_STREAM, 0, stream, &NO_ERROR.to_be_bytes()).await;
    raw.send(GOAWAY, 0, 0, &[stream.to_be_bytes(), NO_ERROR.to_be_bytes()].concat()).await;
}

/// Uploads without end over HTTP/1.1.
async fn upload(target: &Logged, framing: &str) {
    let mut client = target.connect().await;
    let begin = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
    let piece =
        if framing.starts_with("Content") { "x".repeat(4096) } else { format!("1000\r\n{}\r\n", "x".repeat(4096)) };
    client.put(begin + &piece.repeat(40)).await;
    let head = timeout(Duration::from_secs(5), client.head()).await.expect("at once");
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert_eq!(client.take(3).await, b"big");
    assert_eq!(timeout(Duration::from_secs(5), client.rest()).await.expect("it is closed"), b"");
}

/// The same over HTTP/2, where the connection goes on.
async fn upload_over_http2(client: &Client) {
    let request = Request::post("http://a/").body(endless(16 << 10, Arc::default())).unwrap();
    let answer = timeout(Duration::from_secs(5), async { whole(client.send(request).await).await }).await;
    let answer = answer.expect("at once");
    assert_eq!((answer.status.as_u16(), &answer.body), (413, &Bytes::from("big")));
}

#[tokio::test]
async fn an_upload_over_http_1_hears_the_early_answer_of_an_instance_that_leaves() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    for _ in 0..TIMES {
        for framing in ["Content-Length: 100000000", "Transfer-Encoding: chunked"] {
            tokio::join!(upload(&target, framing), refuse(&fake));
        }
    }
    let lines = target.first_lines(2 * TIMES).await;
    assert!(lines.iter().all(|line| line["status"] == 413 && line["cause"] == Value::Null), "{lines:?}");
}

#[tokio::test]
async fn an_upload_over_http_2_hears_the_early_answer_of_an_instance_of_http_1_that_leaves() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let client = Client::connect(target.address).await;
    for _ in 0..TIMES {
        tokio::join!(upload_over_http2(&client), refuse(&fake));
    }
    // The client's connection has taken no harm.
    let (answer, _) = tokio::join!(client.get("http://a/"), async { fake.accept().await.answer(OK).await });
    assert_eq!(answer.text(), "ok");
}

#[tokio::test]
async fn an_upload_hears_the_early_answer_of_an_instance_of_http_2_that_leaves() {
    let fake = Fake::new().await;
    let route = "[[route]]\nservice = \"orders\"\n";
    let service = format!("[service.orders]\ninstances = [\"{}\"]\nprotocol = \"h2c\"\n{route}", fake.address);
    let target = Logged::with(&service).await;
    let client = Client::connect(target.address).await;
    for _ in 0..TIMES {
        tokio::join!(upload(&target, "Content-Length: 100000000"), refuse_over_http2(&fake));
        tokio::join!(upload_over_http2(&client), refuse_over_http2(&fake));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_while_the_client_still_sends_is_visibly_broken() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let mut client = target.connect().await;
    client.put("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nbegin").await;
    let mut wire = fake.accept().await;
    wire.answer_head("HTTP/1.1 413 Content Too Large\r\nContent-Length: 30\r\n\r\nbig").await;
    drop(wire);
    assert!(client.head().await.starts_with("HTTP/1.1 413 "));
    assert_eq!(timeout(Duration::from_secs(5), client.rest()).await.expect("it is closed"), b"big");
    assert_eq!(target.line().await["cause"], "reset_after_headers");
}

#[tokio::test]
async fn a_request_that_is_answered_here_is_heard_to_no_end() {
    let target = Logged::with("[[route]]\nmatch = { path = \"/here\" }\nrespond = { body = \"here\" }\n").await;
    let hidden = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for (framing, body) in [
        (format!("Content-Length: {}", hidden.len()), hidden.to_owned()),
        ("Transfer-Encoding: chunked".into(), format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len())),
        ("Content-Length: 100000".into(), hidden.repeat(10)),
        ("Content-Length: 100000000".into(), hidden.repeat(10_000)),
        ("Transfer-Encoding: chunked".into(), format!("{:x}\r\n{hidden}\r\n", hidden.len()).repeat(10_000)),
    ] {
        let before = target.lines().await.len();
        let mut client = target.connect().await;
        let asking = client.try_put(format!("POST /here HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}")).await;
        if asking.is_ok() && body.len() < 1000 {
            let head = client.head().await;
            assert!(head.starts_with("HTTP/1.1 200 ") && client.take(4).await == b"here", "{framing}: {head}");
        }
        let _ = client.try_put("GET /here HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        timeout(Duration::from_secs(5), client.rest()).await.expect("it is closed, or answered to the end");
        let lines = target.lines().await.split_off(before);
        assert!(
            (1..=2).contains(&lines.len()) && lines.iter().all(|line| line["path"] == "/here"),
            "{framing}: {lines:?}"
        );
    }
}

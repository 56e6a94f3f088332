//! Answers before the answer, and clients that wait for one.

use std::process::Command;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use tokio::time::{Instant, timeout};

use super::support::http2::{Client, whole};
use super::support::speaker::*;
use super::*;

#[tokio::test]
async fn interim_answers_end_here_whoever_asked_and_whoever_answers() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nContent-Length: 5\r\n\r\n";
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let mut client = target.connect().await;
    client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    fake.accept().await.answer(&format!("{interim}{OK}")).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && header(&head, "link").is_none(), "{head}");
    assert_eq!(client.take(2).await, b"ok");

    let target = Logged::before(fake.address, "").await;
    let http2 = Client::connect(target.address).await;
    let answer = async { fake.accept().await.answer(&format!("{interim}{OK}")).await };
    let (answer, _) = tokio::join!(http2.get("http://a/"), answer);
    assert_eq!((answer.status.as_u16(), answer.text(), answer.headers.contains_key("link")), (200, "ok", false));
}

#[tokio::test]
async fn an_interim_answer_cannot_say_how_the_answer_is_framed() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    for framing in ["Transfer-Encoding: chunked", "Content-Length: 100"] {
        let mut client = target.connect().await;
        client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut wire = fake.accept().await;
        wire.answer(&format!("HTTP/1.1 103 Early Hints\r\n{framing}\r\n\r\n")).await;
        wire.put("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nx\nno size").await;
        client.head().await;
        assert_eq!(client.take(9).await, b"x\nno size");
    }
}

/// An upload over HTTP/1.1 that waits to be told.
const ASKS: &str = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";

#[tokio::test]
async fn only_the_word_of_the_instance_lets_a_body_go_whatever_else_it_says() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let mut client = target.connect().await;
    client.put(ASKS).await;
    let mut wire = fake.accept().await;
    wire.head().await;
    wire.put("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n").await;
    let early = timeout(Duration::from_millis(200), client.head()).await;
    assert!(early.is_err(), "{early:?}");
    wire.put("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.put("hello").await;
    assert_eq!(wire.take(5).await, b"hello");
    wire.put(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn what_else_is_expected_is_refused_and_goes_nowhere() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    for expected in ["200-ok", "100-continue, 200-ok", "100-continue\r\nExpect: x", "100-continue;q=1"] {
        let mut client = target.connect().await;
        client.put(format!("GET / HTTP/1.1\r\nHost: a\r\nExpect: {expected}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(refused(&mut client).await, (417, "bad_request".into()), "{expected:?}");
    }
    let http2 = Client::connect(target.address).await;
    let request = Request::post("http://a/").header("expect", "200-ok").body(Body::from("hello")).unwrap();
    assert_eq!(whole(http2.send(request).await).await.status.as_u16(), 417);
    assert!(!fake.is_wanted().await, "something went upstream");
    let lines = target.first_lines(5).await;
    assert!(lines.iter().all(|line| line["status"] == 417 && line["cause"] == "bad_request"), "{lines:?}");
    let notes: Vec<_> = lines.iter().map(|line| line["note"].as_str().unwrap().rsplit_once(": ").unwrap().1).collect();
    assert_eq!(notes, ["200-ok", "100-continue, 200-ok", "x", "100-continue;q=1", "200-ok"]);
}

#[tokio::test]
async fn http_1_0_and_http_2_wait_for_nobody() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let mut client = target.connect().await;
    client.put(ASKS.replace("HTTP/1.1", "HTTP/1.0") + "hello").await;
    let mut wire = fake.accept().await;
    let began = Instant::now();
    let head = wire.head().await;
    assert_eq!((header(&head, "expect"), wire.take(5).await), (None, b"hello".to_vec()), "{head}");
    wire.put("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
    // RFC 9110 §15.2: HTTP/1.0 knows no interim answers.
    assert!(String::from_utf8(client.rest().await).unwrap().starts_with("HTTP/1.0 200 "));

    // Over HTTP/2, a client that waits sees no interim answer, and sends its body when it has waited enough.
    let mut client = Speaker::connect(target.address).await;
    let fields = [asks("POST", "/"), vec![("content-length", "5"), ("expect", "100-continue")]].concat();
    client.put(frame(HEADERS, END_HEADERS, 1, block(&fields))).await;
    let mut wire = fake.accept().await;
    let head = wire.head().await;
    assert_eq!(header(&head, "expect"), None, "{head}");
    client.put(frame(DATA, END_STREAM, 1, "hello")).await;
    assert_eq!(wire.take(5).await, b"hello");
    wire.put(OK).await;
    assert_eq!(client.until(DATA).await.payload, b"ok");
    assert!(began.elapsed() < Duration::from_secs(1), "nobody waited");

    // One that is refused while it waits hears so, and need not send its body.
    let mut client = Speaker::connect(target.address).await;
    client.put(frame(HEADERS, END_HEADERS, 1, block(&fields))).await;
    wire.answer_head("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
    assert_eq!(client.until(DATA).await.payload, b"big");
    let reset = client.until(RST_STREAM).await;
    assert_eq!((reset.stream, reset.number(0)), (1, NO_ERROR));
}

#[tokio::test]
async fn curl_that_expects_to_be_told_gets_its_upload_through() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let url = format!("http://{}/", target.address);
    tokio::spawn(fake.answer(OK));
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let url = url.clone();
        let run = move || {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--show-error", "--max-time", "10", "--noproxy", "*", version]);
            curl.args(["--header", "Expect: 100-continue", "--data-binary", "hello", &url]).output().unwrap()
        };
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((String::from_utf8_lossy(&output.stdout).as_ref(), told.as_str()), ("ok", ""), "{version}");
    }
    let lines = target.first_lines(2).await;
    assert!(lines.iter().all(|line| line["status"] == 200 && line["bytes_in"] == 5), "{lines:?}");
}

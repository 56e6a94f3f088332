//! Bodies of answers that are malformed, end early or come slowly.

use std::io::ErrorKind;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use tokio::io::AsyncReadExt;

use super::support::http2::Client;
use super::*;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// What a client of HTTP/2 got: the status, and the body if it came whole.
async fn over_http2(target: &Logged, path: &str) -> (u16, Option<Vec<u8>>) {
    let client = Client::connect(target.address).await;
    let request = Request::get(format!("http://a{path}")).body(Body::empty()).unwrap();
    // An answer whose begin was not read before it broke has no status either.
    let Ok(answer) = client.try_send(request).await else { return (0, None) };
    let (head, body) = answer.into_parts();
    (head.status.as_u16(), body.collect().await.ok().map(|body| body.to_bytes().to_vec()))
}

/// What a client of HTTP/1.1 got, to the end of its connection.
async fn over_http1(target: &Logged, path: &str) -> String {
    let mut client = target.connect().await;
    client.put(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
    String::from_utf8(client.rest().await).unwrap()
}

#[tokio::test]
async fn a_malformed_chunk_breaks_an_answer_that_has_begun_and_ends_the_connection() {
    let long = format!("1;a={}\r\n", "b".repeat(1200));
    let many = format!("1;a={}\r\nx\r\n", "b".repeat(100)).repeat(12);
    let bad = [
        "x\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\n",
        " 1\r\n",
        "1 \r\n",
        "1\t\r\n",
        "1 ;a\r\n",
        "1\n",
        "1\r\r\n",
        "\r\n",
        "fffffffffffffffff\r\n",
        "8000000000000000\r\n",
        "1;\r\n",
        "1; a\r\n",
        "1;a=\r\n",
        "1;a=b c\r\n",
        "1;a=\"b\r\n",
        "1;a\rb\r\n",
        "1;a\n",
        "1\r\naa\r\n",
        "1\r\na\n",
        "1\r\n\r\n\r\n",
        "0\r\n\n",
        "0\r\nX: a\n\r\n",
        "0\r\nX: a\r\n\n",
        "0 \r\n\r\n",
        &long,
        &many,
    ];
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    for (count, bad) in bad.into_iter().enumerate() {
        let mut client = target.connect().await;
        client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut wire = fake.accept().await;
        wire.answer_head(&format!("{CHUNKED}2\r\nok\r\n")).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        client.take_until("2\r\nok\r\n").await;
        let _ = wire.try_put(bad).await;
        assert!(!String::from_utf8(client.rest().await).unwrap().contains("0\r\n\r\n"), "{bad:?} looks whole");
        assert_eq!(wire.rest().await, b"", "it is closed after {bad:?}");
        let line = target.first_lines(2 * count + 1).await.pop().unwrap();
        assert_eq!(
            (&line["status"], &line["cause"]),
            (&200.into(), &"bad_upstream_response".into()),
            "{bad:?}: {line}"
        );

        let asking = async {
            let mut wire = fake.accept().await;
            wire.answer_head(&format!("{CHUNKED}2\r\nok\r\n")).await;
            let _ = wire.try_put(bad).await;
            wire.rest().await
        };
        let ((status, body), _) = tokio::join!(over_http2(&target, "/"), asking);
        assert!(matches!((status, &body), (0 | 200, None) | (502, Some(_))), "{bad:?}: {status} {body:?}");
        target.first_lines(2 * count + 2).await;
    }
}

/// An instance that answers `/12` with the first twelve bytes of this, and leaves.
async fn cutting(answer: &'static str) -> SocketAddr {
    let fake = Fake::new().await;
    let address = fake.address;
    tokio::spawn(async move {
        loop {
            let mut wire = fake.accept().await;
            tokio::spawn(async move {
                let Some(head) = wire.try_head().await else { return };
                let end: usize = head.split(' ').nth(1).unwrap()[1..].parse().unwrap();
                wire.put(&answer[..end]).await;
                wire.shut_down().await;
                wire.rest().await;
            });
        }
    });
    address
}

#[tokio::test]
async fn an_answer_that_stops_anywhere_never_looks_whole() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nabcdefghijkl",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n",
    ] {
        let target = Logged::before(cutting(answer).await, "").await;
        let begin = answer.find("200 OK").map(|at| at + answer[at..].find("\r\n\r\n").unwrap() + 4).unwrap();
        for end in 0..=answer.len() {
            let part = &answer[..end];
            let path = format!("/{end}");
            let got = over_http1(&target, &path).await;
            let (status, body) = over_http2(&target, &path).await;
            let lines = target.first_lines(2 * end + 2).await;
            let causes = lines[2 * end..].iter().map(|line| &line["cause"]);
            if end < begin {
                assert!(got.starts_with("HTTP/1.1 502 ") && status == 502, "{part:?}: {got} {status}");
                causes.for_each(|cause| assert_eq!(cause, "reset_before_headers", "{part:?}"));
                continue;
            }
            let is_whole = end == answer.len();
            // Where nothing of the body has come, the head may not have gone on when the end is seen.
            assert!(got.starts_with("HTTP/1.1 200 ") || got.is_empty() && !is_whole, "{part:?}: {got}");
            let (head, sent) = got.split_once("\r\n\r\n").unwrap_or_default();
            let whole = match header(head, "content-length") {
                Some(length) => sent.len() == length.parse::<usize>().unwrap(),
                None => sent.ends_with("0\r\n\r\n"),
            };
            assert_eq!((whole, body.is_some()), (is_whole, is_whole), "{part:?}: {got}");
            assert!(status == 200 || status == 0 && !is_whole, "{part:?}: {status}");
            let wanted = if end == answer.len() { Value::Null } else { "reset_after_headers".into() };
            causes.for_each(|cause| assert_eq!(*cause, wanted, "{part:?}"));
        }
    }
}

#[tokio::test]
async fn an_answer_byte_by_byte_is_as_good_as_any() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    tokio::spawn(async move {
        loop {
            let mut wire = fake.accept().await;
            tokio::spawn(async move {
                while let Some(head) = wire.try_head().await {
                    let answer = match head.split(' ').nth(1).unwrap() {
                        "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
                        _ => {
                            "HTTP/1.1 200 OK\r\nTRANSFER-encoding: \t Chunked \r\n\r\n1\r\ng\r\n0000003;a;b=\"\\\"\"\r\nood\r\n0\r\nX: y\r\n\r\n"
                        }
                    };
                    for byte in answer.as_bytes() {
                        wire.put([*byte]).await;
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
    });
    for path in ["/length", "/chunks"] {
        for _ in 0..3 {
            assert_eq!(over_http2(&target, path).await, (200, Some(b"good".to_vec())), "{path}");
        }
    }
    let opened = target.number("portcullis_upstream_connections_opened_total{service=\"orders\"}");
    assert!(opened.is_none_or(|opened| opened == 1.0), "{opened:?}");
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_a_504() {
    let fake = Fake::new().await;
    let target = Logged::with(&format!(
        "[service.a]\ninstances = [\"{}\"]\ntimeouts = {{ first_byte = \"300ms\" }}\n[[route]]\nservice = \"a\"\n",
        fake.address
    ))
    .await;
    let trickle = async {
        let mut wire = fake.accept().await;
        wire.head().await;
        wire.put("HTTP/1.1 200 OK\r\nX: ").await;
        while wire.try_put("y").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let (got, ()) = tokio::join!(over_http1(&target, "/"), trickle);
    assert!(got.starts_with("HTTP/1.1 504 "), "{got}");
    assert_eq!(target.line().await["cause"], "first_byte_timeout");
}

#[tokio::test]
async fn a_client_of_http_1_0_sees_whether_an_answer_without_a_length_broke_off() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    for (end, expected) in [("", Err(ErrorKind::ConnectionReset)), ("0\r\n\r\n", Ok(0))] {
        let mut client = target.connect().await;
        client.put("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        let mut wire = fake.accept().await;
        wire.answer_head(&format!("{CHUNKED}5\r\nhello\r\n{end}")).await;
        drop(wire);
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.0 200 ") && header(&head, "connection").is_none(), "{head}");
        assert_eq!(client.take(5).await, b"hello", "what came before reaches it");
        let read = client.into_parts().0.read(&mut [0; 8]).await;
        assert_eq!(read.map_err(|error| error.kind()), expected, "{end:?}");
    }
    // What has no body ends with its head.
    for (method, status) in [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")] {
        let mut client = target.connect().await;
        client.put(format!("{method} / HTTP/1.0\r\nHost: a\r\n\r\n")).await;
        let framing = if status.starts_with("204") { "" } else { "Transfer-Encoding: chunked\r\n" };
        fake.accept().await.answer_head(&format!("HTTP/1.1 {status}\r\n{framing}\r\n")).await;
        assert!(client.head().await.contains(status));
        assert_eq!(client.into_parts().0.read(&mut [0; 8]).await.unwrap(), 0, "{method} {status}");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_sees_that_its_answer_was_cut_when_the_time_to_drain_was_over() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let mut client = target.connect().await;
    client.put("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let mut wire = fake.accept().await;
    wire.answer_head(&format!("{CHUNKED}5\r\nhello\r\n")).await;
    client.head().await;
    assert_eq!(client.take(5).await, b"hello");
    target.server.drain();
    target.server.cut();
    let read = client.into_parts().0.read(&mut [0; 8]).await;
    assert_eq!(read.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert_eq!(target.line().await["cause"], "draining");
}

//! Long answers and long requests: what moves is waited for, what does not is not, and nothing is kept.

mod support;

use std::time::Duration;

use axum::body::Body;
use http::Request;
use support::http2::{self, Client};
use support::logged::Logged;
use support::{Fake, header};
use tokio::time::{Instant, timeout};

#[tokio::test]
async fn a_client_that_reads_nothing_of_its_answer_is_given_up_and_one_that_reads_slowly_is_not() {
    let instance = Fake::new().await;
    let gateway = Logged::before(instance.address, "timeouts = { body_idle = \"400ms\" }").await;
    let length = 64 << 20;
    let answer = async {
        loop {
            let mut wire = instance.accept().await;
            tokio::spawn(async move {
                wire.head().await;
                wire.put(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")).await;
                let piece = vec![b'x'; 1 << 20];
                for _ in 0..64 {
                    if wire.try_put(&piece).await.is_err() {
                        return;
                    }
                }
            });
        }
    };
    let clients = async {
        let (mut slow, mut stuck) = (gateway.connect().await, gateway.connect().await);
        for client in [&mut slow, &mut stuck] {
            client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            client.head().await;
        }
        let begun = Instant::now();
        let mut read = 0;
        while begun.elapsed() < Duration::from_millis(1500) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            read += slow.take(1 << 20).await.len();
        }
        let line = gateway.line().await;
        assert_eq!((&line["cause"], &line["status"]), (&"idle_timeout".into(), &200.into()), "{line}");
        assert!(line["bytes_out"].as_u64().unwrap() < length, "{line}");
        slow.take(length as usize - read).await;
        assert!((stuck.rest().await.len() as u64) < length, "its connection is closed");
    };
    tokio::select! {
        () = answer => {}
        done = timeout(Duration::from_secs(30), clients) => done.expect("in time"),
    }
}

#[tokio::test]
async fn events_come_one_by_one_also_where_answers_are_compressed() {
    let instance = Fake::new().await;
    let gateway = Logged::with(&format!(
        "[service.a]\ninstances = [\"{}\"]\n[[route]]\nchain = [{{ type = \"compress\", min_size = \"1B\" }}]\nservice = \"a\"\n",
        instance.address
    ))
    .await;
    let mut client = gateway.connect().await;
    client.put("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n").await;
    let mut wire = instance.accept().await;
    wire.head().await;
    wire.put("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(header(&client.head().await, "content-encoding"), None);
    for number in 0..10 {
        wire.put(format!("9\r\ndata: {number}\n\n\r\n")).await;
        let came = timeout(Duration::from_millis(500), client.take_until("\n\n")).await.expect("at once");
        assert!(came.ends_with(&format!("data: {number}\n\n")), "{came}");
    }
}

#[tokio::test]
async fn an_answer_to_head_says_of_its_encoding_what_one_to_get_does() {
    let instance = Fake::new().await;
    let gateway = Logged::with(&format!(
        "[service.a]\ninstances = [\"{}\"]\n[[route]]\nchain = [\"compress\"]\nservice = \"a\"\n",
        instance.address
    ))
    .await;
    let answer =
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4000\r\nETag: \"v1\"\r\nDigest: x\r\n\r\n";
    let mut client = gateway.connect().await;
    let (mut wire, mut older, mut newer) = (None, Vec::new(), Vec::new());
    let http2 = Client::connect(gateway.address).await;
    for method in ["HEAD", "GET", "HEAD"] {
        let whole = if method == "GET" { format!("{answer}{}", "abcd".repeat(1000)) } else { answer.to_owned() };
        client.put(format!("{method} / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")).await;
        if wire.is_none() {
            wire = Some(instance.accept().await);
        }
        let wire = wire.as_mut().unwrap();
        wire.head().await;
        wire.put(&whole).await;
        let head = client.head().await;
        assert_eq!(
            (header(&head, "content-encoding"), header(&head, "vary")),
            (Some("gzip"), Some("accept-encoding")),
            "{head}"
        );
        assert_eq!((header(&head, "content-length"), header(&head, "digest")), (None, None), "{head}");
        older.push(header(&head, "etag").unwrap().to_owned());
        if method == "GET" {
            let size = client.take_until("\r\n").await;
            client.take(usize::from_str_radix(size.trim_end(), 16).unwrap() + "\r\n0\r\n\r\n".len()).await;
        }

        let request = Request::builder().method(method).uri("http://a/").header("accept-encoding", "gzip");
        let sent = async { http2::whole(http2.send(request.body(Body::empty()).unwrap()).await).await };
        let instance = async {
            wire.head().await;
            wire.put(&whole).await;
        };
        let (mut came, ()) = tokio::join!(sent, instance);
        assert_eq!(came.body.is_empty(), method == "HEAD");
        came.headers.remove("date");
        newer.push(came.headers);
    }
    assert_eq!(older, ["W/\"v1\""; 3]);
    assert!(newer[0] == newer[1] && newer[1] == newer[2], "{newer:?}");
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_hears_the_instances_refusal_and_sends_no_body() {
    let instance = Fake::new().await;
    let gateway = Logged::before(instance.address, "").await;
    for refusal in ["417 Expectation Failed", "401 Unauthorized"] {
        let mut client = gateway.connect().await;
        client.put("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
        let mut wire = instance.accept().await;
        wire.answer_head(&format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n")).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {refusal}\r\n")), "{head}");
        // Whether the body still comes nobody can know, so the connection ends here.
        assert_eq!(client.rest().await, b"");
    }
    // One that is told to go on by nobody but the gateway, since the instance never says so.
    let mut client = gateway.connect().await;
    client.put("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    let mut wire = instance.accept().await;
    wire.head().await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.put("hello").await;
    assert_eq!(wire.take(5).await, b"hello");
    wire.put("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn trailers_that_are_announced_pass_both_ways() {
    let instance = Fake::new().await;
    let gateway = Logged::before(instance.address, "").await;
    let mut client = gateway.connect().await;
    client.put("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n").await;
    let mut wire = instance.accept().await;
    let head = wire.head().await;
    assert_eq!((header(&head, "te"), header(&head, "trailer")), (Some("trailers"), Some("x-sum")), "{head}");
    let body = wire.take_until("\r\n\r\n").await;
    assert!(body.ends_with("0\r\nx-sum: 1\r\n\r\n"), "{body}");
    wire.put("HTTP/1.1 200 OK\r\nTrailer: x-end\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-end: 2\r\n\r\n")
        .await;
    client.head().await;
    let body = client.take_until("\r\n\r\n").await;
    assert!(body.ends_with("0\r\nx-end: 2\r\n\r\n"), "{body}");
}

#[tokio::test]
async fn an_answer_that_comes_while_the_client_still_sends_reaches_it_and_ends_the_connection() {
    let instance = Fake::new().await;
    let gateway = Logged::before(instance.address, "").await;
    let mut client = gateway.connect().await;
    client.put("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nthe begin").await;
    let mut wire = instance.accept().await;
    wire.head().await;
    wire.put("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert_eq!(client.take(3).await, b"big");
    assert_eq!(timeout(Duration::from_secs(5), client.rest()).await.expect("it is closed"), b"");
    assert!(timeout(Duration::from_secs(5), wire.rest()).await.is_ok(), "the instance hears of it");
}

#[tokio::test]
async fn a_client_that_leaves_or_closes_its_side_cancels_what_it_asked_for() {
    let instance = Fake::new().await;
    let gateway = Logged::before(instance.address, "").await;
    for only_its_side in [true, false] {
        let mut client = gateway.connect().await;
        client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut wire = instance.accept().await;
        wire.head().await;
        if only_its_side {
            client.shut_down().await;
        } else {
            drop(client);
        }
        let heard = timeout(Duration::from_millis(100), wire.rest()).await;
        assert_eq!(heard.expect("within 100 ms"), b"");
    }
    let lines = gateway.first_lines(2).await;
    assert!(lines.iter().all(|line| line["status"] == 499 && line["cause"] == "client_closed"), "{lines:?}");
}

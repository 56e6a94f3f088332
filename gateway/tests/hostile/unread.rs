//! Requests whose bodies are not read to their end: the client is told that its connection ends, or it does not end.

use std::time::Duration;

use tokio::time::timeout;

use super::*;

const MOMENT: Duration = Duration::from_millis(20);

/// What a route says besides its path, which is its name.
fn route(name: &str, rest: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\nmatch = {{ path = \"/{name}\" }}\n{rest}\n")
}

/// Sends this, and reads the head of the answer and all that comes before the connection ends.
async fn told(target: &Logged, asks: &str) -> (String, Vec<u8>) {
    let mut client = target.connect().await;
    client.put(asks).await;
    let head = timeout(Duration::from_secs(5), client.head()).await.unwrap_or_else(|_| panic!("no answer: {asks:.60}"));
    let rest = timeout(Duration::from_secs(5), client.rest()).await;
    (head, rest.unwrap_or_else(|_| panic!("it stays open: {asks:.60}")))
}

#[tokio::test]
async fn whoever_is_not_heard_to_the_end_is_told_that_the_connection_ends() {
    let fake = Fake::new().await;
    let target = Logged::with(
        &[
            "timeouts = { body_idle = \"200ms\" }\n[service.orders]\n",
            &format!("instances = [\"{}\"]\n", fake.address),
            &route("here", "respond = { body = \"here\" }"),
            &route("small", "chain = [{ type = \"body_limit\", max = \"10B\" }]\nservice = \"orders\""),
            &route("orders", "chain = [{ type = \"timeout\", total = \"100ms\" }]\nservice = \"orders\""),
        ]
        .concat(),
    )
    .await;
    let large = "Content-Length: 100000\r\n";
    for (what, path, headers, body, status, cause) in [
        ("more than is read for nothing", "here", large, "begin", 200, None),
        ("nobody knows how much", "here", "Transfer-Encoding: chunked\r\n", "5\r\nbegin\r\n", 200, None),
        ("it may come or not", "here", "Expect: 100-continue\r\nContent-Length: 5\r\n", "", 200, None),
        ("no route", "nowhere", large, "begin", 404, Some("no_route")),
        ("too large by its length", "small", large, "begin", 413, Some("body_too_large")),
        (
            "too large by what came",
            "small",
            "Transfer-Encoding: chunked\r\n",
            "b\r\n01234567890\r\n",
            413,
            Some("body_too_large"),
        ),
        (
            "no chunk",
            "orders",
            "Transfer-Encoding: chunked\r\n",
            "5\r\nbegin\r\nno chunk\r\n",
            400,
            Some("bad_request"),
        ),
        ("the instance takes too long", "orders", large, "begin", 504, Some("route_timeout")),
    ] {
        let (head, _) = told(&target, &format!("POST /{path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}")).await;
        assert_eq!(header(&head, "connection"), Some("close"), "{what}: {head}");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {head}");
        let line = target.lines().await.pop().unwrap();
        assert_eq!((&line["status"], line["cause"].as_str()), (&status.into(), cause), "{what}: {line}");
    }
}

#[tokio::test]
async fn a_client_whose_body_stands_still_is_told_that_the_connection_ends() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "timeouts = { body_idle = \"100ms\" }").await;
    let (head, _) = told(&target, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nbegin").await;
    assert!(head.starts_with("HTTP/1.1 408 ") && header(&head, "connection") == Some("close"), "{head}");
}

#[tokio::test]
async fn an_upload_that_its_instance_does_not_want_is_told_that_the_connection_ends() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let asks = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nbegin";
    let answer = async {
        let mut wire = fake.accept().await;
        wire.answer_head("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
        wire.rest().await;
    };
    let ((head, body), ()) = tokio::join!(told(&target, asks), answer);
    assert_eq!((header(&head, "connection"), &body[..]), (Some("close"), &b"big"[..]), "{head}");
}

#[tokio::test]
async fn a_short_body_that_nobody_wants_costs_no_connection_however_slowly_it_comes() {
    let target = Logged::with(&route("here", "respond = { body = \"here\" }")).await;
    let mut client = target.connect().await;
    let (begin, end) = ("x".repeat(30_000), "x".repeat(30_000));
    for path in ["here", "nowhere"] {
        client.put(format!("POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n")).await;
        let head = client.head().await;
        assert_eq!(header(&head, "connection"), None, "{head}");
        client.take(content_length(&head)).await;
        for part in [&begin, &end] {
            tokio::time::sleep(MOMENT).await;
            client.put(part).await;
        }
    }
    // What stands in a body is no request.
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = hidden.len();
    client.put(format!("POST /here HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")).await;
    assert_eq!(client.head().await.split(' ').nth(1), Some("200"));
    client.take(4).await;
    client.put(format!("{hidden}GET /here HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
    let rest = String::from_utf8(timeout(Duration::from_secs(5), client.rest()).await.expect("it is closed")).unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 ") && rest.ends_with("\r\n\r\nhere"), "{rest}");
    let paths: Vec<_> = target.first_lines(4).await.iter().map(|line| line["path"].to_string()).collect();
    assert_eq!(paths, ["\"/here\"", "\"/nowhere\"", "\"/here\"", "\"/here\""]);
}

#[tokio::test]
async fn a_short_body_that_never_comes_keeps_its_connection_for_its_time_and_no_longer() {
    let rest = route("here", "respond = { body = \"here\" }");
    let target = Logged::with(&format!("timeouts = {{ body_idle = \"100ms\" }}\n{rest}")).await;
    let (head, body) = told(&target, "POST /here HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nbegin").await;
    assert_eq!((header(&head, "connection"), &body[..]), (None, &b"here"[..]), "{head}");
}

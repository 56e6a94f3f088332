//! Heads without end, and many that are never finished.

use super::*;

const LIMITS: &str = "limits = { request_line = \"1KiB\", header_size = \"4KiB\", headers = 10 }";

#[tokio::test]
async fn what_is_over_a_limit_is_refused_as_soon_as_that_is_clear() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, LIMITS).await;
    let long = "a".repeat(8 << 10);
    for (bytes, status, cause) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414, "uri_too_long"),
        // No line's end ever comes.
        (format!("GET /{long}"), 414, "uri_too_long"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431, "header_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"), 431, "header_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(10)), 431, "header_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X: y\r\n".repeat(1000)), 431, "header_too_large"),
    ] {
        let mut client = target.connect().await;
        client.put(&bytes).await;
        assert_eq!(refused(&mut client).await, (status, cause.to_owned()), "{}", &bytes[..40]);
    }
    assert!(!fake.is_wanted().await, "something went upstream");
    let lines = target.lines().await;
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert!(lines[2..].iter().all(|line| line["path"] == "/"), "{lines:?}");
}

#[tokio::test]
async fn the_client_hears_the_refusal_though_it_has_more_to_say() {
    // A socket that is closed while bytes in it are unread sends a reset, and the answer before it is lost.
    let target = Logged::before(support::nobody().await, LIMITS).await;
    for _ in 0..20 {
        let mut client = target.connect().await;
        let _ = client.try_put(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(128 << 10))).await;
        assert_eq!(refused(&mut client).await.0, 414);
    }
}

#[tokio::test]
async fn what_is_just_within_the_limits_is_served() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, LIMITS).await;
    let mut client = target.connect().await;
    client.put(format!("GET /{} HTTP/1.1\r\nHost: a\r\n{}\r\n", "a".repeat(1000), "X: y\r\n".repeat(9))).await;
    client.take_until("\r\n\r\nok").await;
    let begin = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: ";
    client.put(format!("{begin}{}\r\n\r\n", "a".repeat(4096 - begin.len() - 4))).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
}

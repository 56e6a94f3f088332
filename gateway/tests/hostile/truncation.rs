//! Requests that stop in the middle, at every octet.

use super::*;

#[tokio::test]
async fn a_head_that_stops_anywhere_is_refused_and_goes_nowhere() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let head = "POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    for end in 1..head.len() {
        let mut client = target.connect().await;
        client.put(&head[..end]).await;
        client.shut_down().await;
        assert_eq!(refused(&mut client).await, (400, "bad_request".into()), "{:?}", &head[..end]);
    }
    assert!(!fake.is_wanted().await, "something went upstream");
    let lines = target.lines().await;
    assert_eq!(lines.len(), head.len() - 1);
    assert!(lines.iter().all(|line| line["note"] == "the connection ended in the middle of the head"), "{lines:?}");

    // Nothing at all is no request.
    let mut client = target.connect().await;
    client.shut_down().await;
    assert_eq!(client.rest().await, b"");
    assert_eq!(target.lines().await.len(), head.len() - 1);
}

#[tokio::test]
async fn a_body_that_stops_anywhere_never_looks_whole() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "").await;
    for (head, body) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n", "abcdefghijkl"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n",
        ),
    ] {
        for end in 0..body.len() {
            let mut client = target.connect().await;
            client.put(format!("{head}{}", &body[..end])).await;
            client.shut_down().await;
            let answer = String::from_utf8(client.rest().await).unwrap();
            assert!(!answer.contains(" 200 "), "{:?}: {answer}", &body[..end]);
        }
    }
    assert_eq!(witness.heads(), Vec::<String>::new());
    let lines = target.lines().await;
    assert!(lines.iter().all(|line| line["status"] != 200), "{lines:?}");
}

//! Requests that stop in the middle, at every octet.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::frames::Peer;
use super::support::pki::{Authority, TlsClient};
use super::*;

const BODIES: [(&str, &str); 2] = [
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n", "abcdefghijkl"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n"),
];

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
    for (head, body) in BODIES {
        for end in 0..body.len() {
            let mut client = target.connect().await;
            client.put(format!("{head}{}", &body[..end])).await;
            client.shut_down().await;
            // RFC 9112 §8: the client may listen still. It got `HTTP/1.1 499 <none>`, which is no status of HTTP.
            assert_eq!(refused(&mut client).await, (400, "client_closed".into()), "{:?}", &body[..end]);
        }
    }
    assert_eq!(witness.heads(), Vec::<String>::new());
    let lines = target.lines().await;
    assert!(lines.iter().all(|line| line["status"] == 400 && line["cause"] == "client_closed"), "{lines:?}");
    assert!(lines.iter().all(|line| line["note"] == "the connection ended in the middle of the body"), "{lines:?}");
}

#[tokio::test]
async fn a_body_that_stops_is_given_up_at_the_instance_whatever_that_speaks() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    for (head, body) in BODIES {
        let mut client = target.connect().await;
        client.put(format!("{head}{}", &body[..8])).await;
        let mut instance = fake.accept().await;
        instance.head().await;
        client.shut_down().await;
        assert!(!String::from_utf8(instance.rest().await).unwrap().ends_with("0\r\n\r\n"));
        assert_eq!(refused(&mut client).await.0, 400);
    }
    let service = format!("[service.calls]\ninstances = [\"{}\"]\nprotocol = \"h2c\"", fake.address);
    let target = Logged::with(&format!("{service}\n[[route]]\nservice = \"calls\"\n")).await;
    let mut peer = None;
    for (head, body) in BODIES {
        let mut client = target.connect().await;
        client.put(format!("{head}{}", &body[..8])).await;
        if peer.is_none() {
            peer = Some(Peer::new(fake.accept().await).await);
        }
        let mut stream = peer.as_mut().unwrap().next().await;
        client.shut_down().await;
        assert_eq!(stream.until_reset().await, h2::Reason::CANCEL);
        assert_eq!(refused(&mut client).await.0, 400);
    }
}

#[tokio::test]
async fn over_tls_a_body_that_stops_without_a_word_is_told_so_too() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("test authority"));
    let certificate = authority.issue(&["a"]).write(directory.path(), "a");
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, &format!("tls = {{ certificates = [{certificate}] }}")).await;
    let client = TlsClient::new(&authority).connect(target.address, "a").await.unwrap();
    let mut client = client.into_stream();
    client.write_all(format!("{}abc", BODIES[0].0).as_bytes()).await.unwrap();
    client.flush().await.unwrap();
    client.get_mut().0.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 400 Bad Request\r\n"), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(target.line().await["cause"], "client_closed");
    assert_eq!(witness.heads(), Vec::<String>::new());
}

#[tokio::test]
async fn a_client_that_breaks_its_connection_in_a_body_is_told_nothing() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let mut client = target.connect().await;
    client.put(format!("{}abc", BODIES[0].0)).await;
    let mut instance = fake.accept().await;
    instance.head().await;
    let (stream, _) = client.into_parts();
    stream.set_zero_linger().unwrap();
    drop(stream);
    instance.rest().await;
    let line = target.line().await;
    assert_eq!((&line["status"], &line["cause"]), (&499.into(), &"client_closed".into()), "{line}");
    // The length of the answer that it did not get stood there.
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&3.into(), &0.into()), "{line}");
}

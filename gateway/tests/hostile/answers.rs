//! Instances that answer what is no answer, or what could be read as two.

use super::support::frames::Raw;
use super::support::speaker::{CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Speaker, block, get};
use super::*;

/// An instance that answers `/bad/3` with the fourth of these, and everything else with what was asked for. It leaves connections
/// open, so that whatever it said too much is there when the next request comes.
async fn instance(bad: Vec<String>) -> SocketAddr {
    let fake = Fake::new().await;
    let address = fake.address;
    tokio::spawn(async move {
        loop {
            let (mut wire, bad) = (fake.accept().await, bad.clone());
            tokio::spawn(async move {
                while let Some(head) = wire.try_head().await {
                    let target = head.split(' ').nth(1).unwrap();
                    if let Some(number) = target.strip_prefix("/bad/") {
                        let _ = wire.try_put(&bad[number.parse::<usize>().unwrap()]).await;
                    } else {
                        let own = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{target}", target.len());
                        let _ = wire.try_put(own).await;
                    }
                }
            });
        }
    });
    address
}

/// A gateway before an instance that has not long to answer.
async fn before(instance: SocketAddr) -> Logged {
    Logged::with(&format!(
        "[service.orders]\ninstances = [\"{instance}\"]\ntimeouts = {{ first_byte = \"300ms\", idle = \"300ms\" }}\n\
         [[route]]\nmatch = {{ path = {{ prefix = \"/\" }} }}\nservice = \"orders\"\n"
    ))
    .await
}

/// What becomes of an answer: the status and the body as far as it came, and whether it came whole.
async fn outcome(wire: &mut Wire, path: &str) -> (u16, Vec<u8>, bool) {
    wire.put(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    let Some(head) = wire.try_head().await else { return (0, Vec::new(), false) };
    for line in head.trim_end().split("\r\n") {
        assert!(!line.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t'), "{head:?}");
    }
    let status = head[9..12].parse().unwrap();
    if matches!(status, 204 | 304) {
        assert!(status == 304 || header(&head, "content-length").is_none(), "{head}");
        return (status, Vec::new(), true);
    }
    if header(&head, "transfer-encoding").is_none() {
        let length = content_length(&head);
        return match wire.try_take(length).await {
            Some(body) => (status, body, true),
            None => (status, Vec::new(), false),
        };
    }
    let mut text = Vec::new();
    while !text.ends_with(b"0\r\n\r\n") {
        let Some(byte) = wire.try_take(1).await else { return (status, text, false) };
        text.extend(byte);
    }
    (status, text, true)
}

/// What an answer like this comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// A 502, and no byte of it.
    Bad,
    /// An answer that is visibly not whole: the connection breaks.
    Cut,
    /// A 200 that says `ok`.
    Fine,
    /// An answer without a body.
    Empty,
}
use Comes::{Bad, Cut, Empty, Fine};

const GADGETS: &[(&str, Comes)] = &[
    ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\n Content-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", Fine),
    ("HTTP/1.1 200 OK\r\nContent-Length: 02\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer_Encoding: chunked\r\nContent-Length: 2\r\n\r\nok", Fine),
    ("HTTP/1.1 200 OK\r\nContent_Length: 5\r\nContent-Length: 2\r\n\r\nok", Fine),
    ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nX: a\u{7f}b\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nX\0: a\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nX Y: a\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nX\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\n\"X\": a\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 000 Odd\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 1000 Odd\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 20 Odd\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 2x0 Odd\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1\t200 OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", Fine),
    ("HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", Fine),
    ("HTTP/1.1 200OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 \u{fc}ber\r\nContent-Length: 2\r\n\r\nok", Fine),
    ("HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("ICY 200 OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("<html>this is HTTP/0.9</html>\r\n\r\n", Bad),
    ("\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    (" HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("\r\n\r\n\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok", Bad),
    ("HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 100 Continue\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nanything", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more", Fine),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong", Fine),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong",
        Fine,
    ),
    ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nwrong", Empty),
    ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwrong\r\n0\r\n\r\n", Empty),
    ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nwrong", Empty),
    ("HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong", Empty),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n 2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\t\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 ;a=b\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=\"b\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8000000000000000\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0 \r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: a\nY: b\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=\"b\nc\"\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a\rb\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\n\r\n", Fine),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000002\r\nok\r\n0\r\n\r\n", Fine),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nContent-Length: 5\r\n\r\n", Fine),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: a\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX : a\r\n\r\n", Cut),
    ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Fine),
    ("HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Fine),
    ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Fine),
];

/// Asks for every one of these, and after each, over the same connection if it is still there, for something else.
async fn try_all(gadgets: Vec<String>, mut judge: impl FnMut(&str, Comes) -> Option<String>) {
    let target = before(instance(gadgets.clone()).await).await;
    let mut faults = Vec::new();
    let mut wire = target.connect().await;
    for (number, gadget) in gadgets.iter().enumerate() {
        let (status, body, whole) = outcome(&mut wire, &format!("/bad/{number}")).await;
        let comes = match (status, &*body, whole) {
            (502, _, true) if String::from_utf8_lossy(&body).contains("bad_upstream_response") => Bad,
            (200, b"ok" | b"2\r\nok\r\n0\r\n\r\n", true) => Fine,
            (204 | 304, b"", true) => Empty,
            (200, _, false) | (0, ..) => Cut,
            _ => panic!("{gadget:?} came to {status} {:?}", String::from_utf8_lossy(&body)),
        };
        faults.extend(judge(gadget, comes));
        if !whole {
            wire = target.connect().await;
        }
        let own = format!("/own/{number}");
        let next = outcome(&mut wire, &own).await;
        assert_eq!(next, (200, own.into_bytes(), true), "after {gadget:?}");
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn what_is_no_answer_is_a_502_and_the_next_request_gets_its_own_answer() {
    let mut wanted = GADGETS.iter().map(|(_, comes)| *comes);
    try_all(GADGETS.iter().map(|(gadget, _)| (*gadget).to_owned()).collect(), |gadget, comes| {
        let wanted = wanted.next().unwrap();
        (comes != wanted).then(|| format!("{comes:?}, not {wanted:?}: {gadget:?}"))
    })
    .await;
}

const LINES: &[&str] = &[
    "HTTP/1.1 200 OK",
    "HTTP/1.0 200 OK",
    "HTTP/1.1 200",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Fine",
    "HTTP/1.1 700 OK",
];

/// Framings, with a body that says `ok` to whoever reads it by them.
const FRAMINGS: &[(&str, &str)] = &[
    ("Content-Length: 2", "ok"),
    ("content-length:\t2 ", "ok"),
    ("Content-Length: 2\r\nContent-Length: 2", "ok"),
    ("Content-Length: 2,2", "ok"),
    ("Content-Length: 2 2", "ok"),
    ("Content-Length: 2\r\nContent-Length: 02", "ok"),
    ("Transfer-Encoding: chunked", "2\r\nok\r\n0\r\n\r\n"),
    ("Transfer-Encoding: Chunked", "2\r\nok\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked;q=1", "2\r\nok\r\n0\r\n\r\n"),
    ("Transfer-Encoding: \u{b}chunked", "2\r\nok\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\nContent-Length: 2", "2\r\nok\r\n0\r\n\r\n"),
    ("Content-Length: 2\r\nTransfer-Encoding: chunked", "2\r\nok\r\n0\r\n\r\n"),
    ("Content-Length: 2\r\nTransfer-Encoding: identity", "ok"),
    ("Content-Length: 2\r\nTransfer-Encoding : chunked", "ok"),
    ("Content-Length: 2\r\n Transfer-Encoding: chunked", "ok"),
    ("Content-Length: 2\r\nX: y\rTransfer-Encoding: chunked", "ok"),
];

/// Lines that stand beside, and bytes that stand behind.
const BESIDE: &[(&str, &str)] = &[
    ("", ""),
    ("X: y\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"),
    ("X: a\tb\u{fc}\r\n", "\r\n"),
    ("X : y\r\n", ""),
    ("X: \0\r\n", ""),
    ("Connection: keep-alive, content-length\r\n", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
];

#[tokio::test]
async fn no_combination_of_lines_makes_two_answers_of_one() {
    let mut gadgets = Vec::new();
    for line in LINES {
        for (framing, body) in FRAMINGS {
            for (beside, behind) in BESIDE {
                gadgets.push(format!("{line}\r\n{beside}{framing}\r\n\r\n{body}{behind}"));
            }
        }
    }
    let mut fine = 0;
    let count = gadgets.len();
    try_all(gadgets, |gadget, comes| {
        fine += usize::from(comes == Fine);
        (comes == Empty).then(|| format!("{comes:?}: {gadget:?}"))
    })
    .await;
    assert!(fine > 50 && fine < count / 2, "{fine} of {count} are fine");
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_reaches_nobody() {
    let fake = Fake::new().await;
    let target = before(fake.address).await;
    let mut client = target.connect().await;
    client.put("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut first = fake.accept().await;
    first.answer(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    client.take(2).await;
    // It comes while nobody has asked for anything; the next request must not take it for its own.
    first.put("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong").await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    client.put("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    fake.accept().await.answer(OK).await;
    client.head().await;
    assert_eq!(client.take(2).await, b"ok");
    assert_eq!(first.rest().await, b"", "nothing was asked of who had answered already");
}

#[tokio::test]
async fn interim_answers_without_end_are_a_502_at_once_and_hold_up_nobody() {
    let fake = Fake::new().await;
    let target = before(fake.address).await;
    let flood = tokio::spawn(async move {
        let mut wire = fake.accept().await;
        wire.head().await;
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".repeat(100);
        while wire.try_put(&hints).await.is_ok() {}
        fake
    });
    let mut client = target.connect().await;
    let (status, body, _) = outcome(&mut client, "/").await;
    assert_eq!((status, String::from_utf8_lossy(&body).contains("bad_upstream_response")), (502, true));
    let fake = flood.await.unwrap();
    tokio::spawn(fake.answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"));
    assert_eq!(outcome(&mut client, "/").await, (200, b"ok".to_vec(), true));
}

/// Asks an instance, of which this is the answer, over a connection of its own, and then anew: what the client got, and
/// how the line in the log has it.
async fn asked_anew(method: &str, answer: &str) -> (String, Value) {
    let fake = Fake::new().await;
    let target = before(fake.address).await;
    let mut client = target.connect().await;
    client.put(format!("{method} /first HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    let mut first = fake.accept().await;
    first.head().await;
    let _ = first.try_put(answer).await;
    let head = client.head().await;
    if method != "HEAD" && !matches!(&head[9..12], "204" | "304") {
        client.take(content_length(&head)).await;
    }
    assert_eq!(first.rest().await, b"", "it is closed after {answer:?}");
    client.put("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(fake.accept().await.answer(OK).await.starts_with("GET /next "));
    let next = client.head().await;
    assert!(next.starts_with("HTTP/1.1 200 "), "behind {answer:?} the client got {next:?}");
    assert_eq!(client.take(2).await, b"ok");
    (head, target.first_lines(2).await.remove(0))
}

#[tokio::test]
async fn too_many_headers_or_too_much_of_them_is_a_502_and_ends_the_connection() {
    let many = "X: y\r\n".repeat(99);
    let large = format!("X: {}\r\n", "y".repeat(1000)).repeat(66);
    for (lines, status) in [(many.clone(), 200), (format!("{many}X: y\r\n"), 502), (large, 502)] {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{lines}Connection: close\r\n\r\nok");
        let answer = if status == 200 { answer.replacen("X: y\r\n", "", 1) } else { answer };
        let (head, line) = asked_anew("GET", &answer).await;
        assert_eq!(line["status"], status, "{head}");
        if status == 502 {
            assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
            assert_eq!(line["cause"], "bad_upstream_response", "{line}");
        }
    }
}

#[tokio::test]
async fn a_body_where_none_can_be_reaches_nobody_and_ends_the_connection() {
    let other = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong";
    for (method, status, framing) in [
        ("HEAD", "200 OK", "Content-Length: 5\r\n"),
        ("HEAD", "200 OK", "Transfer-Encoding: chunked\r\n"),
        ("HEAD", "200 OK", ""),
        ("HEAD", "404 Not Found", "Content-Length: 5\r\n"),
        ("GET", "204 No Content", "Content-Length: 5\r\n"),
        ("GET", "204 No Content", "Transfer-Encoding: chunked\r\n"),
        ("GET", "204 No Content", ""),
        ("GET", "304 Not Modified", "Content-Length: 5\r\n"),
        ("GET", "304 Not Modified", "Transfer-Encoding: chunked\r\n"),
        ("GET", "304 Not Modified", ""),
    ] {
        for body in ["wrong", "5\r\nwrong\r\n0\r\n\r\n", "5 \nwrong", other] {
            let (head, line) = asked_anew(method, &format!("HTTP/1.1 {status}\r\n{framing}\r\n{body}")).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
            assert_eq!(line["bytes_out"], 0, "{line}");
        }
    }
}

/// RFC 9110 §15.3.6 has an instance send none. RFC 9112 §6.3 reads it like any other, so that nobody disagrees on its end.
#[tokio::test]
async fn the_body_of_a_205_passes_as_it_is_framed() {
    let head = "HTTP/1.1 205 Reset Content\r\n";
    for answer in [
        format!("{head}Content-Length: 5\r\n\r\nreset"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nreset\r\n0\r\n\r\n"),
    ] {
        let target = before(instance(vec![answer]).await).await;
        let mut older = target.connect().await;
        let (status, body, whole) = outcome(&mut older, "/bad/0").await;
        assert!(status == 205 && whole && [&b"reset"[..], b"5\r\nreset\r\n0\r\n\r\n"].contains(&&*body), "{body:?}");
        assert_eq!(outcome(&mut older, "/own").await, (200, b"/own".to_vec(), true));
        let mut newer = Speaker::connect(target.address).await;
        newer.put([get(1, "/bad/0"), get(3, "/own")].concat()).await;
        for (stream, body) in [(1, "reset"), (3, "/own")] {
            let data = newer.until_some(|frame| frame.stream == stream && frame.kind == DATA).await;
            assert_eq!(data.payload, body.as_bytes());
        }
    }

    let fake = Fake::new().await;
    let route = "[[route]]\nservice = \"orders\"\n";
    let service = format!("[service.orders]\ninstances = [\"{}\"]\nprotocol = \"h2c\"\n{route}", fake.address);
    let target = Logged::with(&service).await;
    let mut client = target.connect().await;
    client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut peer = Raw::begin(fake.accept().await).await;
    let (_, stream, _) = peer.until(HEADERS).await;
    peer.send(HEADERS, END_HEADERS, stream, &block(&[(":status", "205"), ("content-length", "5")])).await;
    peer.send(DATA, END_STREAM, stream, b"reset").await;
    assert!(client.head().await.starts_with("HTTP/1.1 205 "));
    assert_eq!(client.take(5).await, b"reset");
}

#[tokio::test]
async fn an_instance_of_http_2_with_too_many_headers_is_a_502() {
    let fake = Fake::new().await;
    let route = "[[route]]\nservice = \"orders\"\n";
    let service = format!("[service.orders]\ninstances = [\"{}\"]\nprotocol = \"h2c\"\n{route}", fake.address);
    let target = Logged::with(&service).await;
    let mut raw = None;
    for (headers, size, status) in [(100, 1, 200), (101, 1, 502), (90, 800, 502)] {
        let mut client = target.connect().await;
        client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut peer = match raw.take() {
            Some(peer) => peer,
            None => Raw::begin(fake.accept().await).await,
        };
        let (_, stream, _) = peer.until(HEADERS).await;
        let value = "y".repeat(size);
        let fields = [vec![(":status", "204")], vec![("x", value.as_str()); headers]].concat();
        let block = block(&fields);
        let mut parts = block.chunks(16_000).peekable();
        let mut kind = HEADERS;
        while let Some(part) = parts.next() {
            let end = if parts.peek().is_none() { END_HEADERS } else { 0 };
            peer.send(kind, if kind == HEADERS { end | END_STREAM } else { end }, stream, part).await;
            kind = CONTINUATION;
        }
        let head = client.head().await;
        let wanted = if status == 200 { 204 } else { status };
        assert!(head.starts_with(&format!("HTTP/1.1 {wanted} ")), "{headers} of {size}: {head}");
        raw = Some(peer);
    }
    let causes: Vec<_> = target.first_lines(3).await.iter().map(|line| line["cause"].clone()).collect();
    assert_eq!(causes, [Value::Null, "bad_upstream_response".into(), "bad_upstream_response".into()]);
}

#[tokio::test]
async fn after_an_answer_in_http_1_0_the_next_request_loses_nothing_of_its_body() {
    let fake = Fake::new().await;
    let target = before(fake.address).await;
    let mut client = target.connect().await;
    client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut first = fake.accept().await;
    first.answer("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello").await;
    client.head().await;
    client.take(5).await;
    client.put("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nABCDE\r\n0\r\n\r\n").await;
    let mut next = fake.accept().await;
    let head = next.head().await;
    assert!(head.starts_with("PUT / HTTP/1.1\r\n"), "{head}");
    assert!(next.take_until("0\r\n\r\n").await.contains("ABCDE"));
    assert_eq!(first.rest().await, b"", "it is not used again");
}

#[tokio::test]
async fn what_an_instance_said_before_it_broke_off_reaches_the_client() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (answer, body) in [
        (format!("{chunked}3\r\nabc\r\n"), "3\r\nabc\r\n"),
        (format!("{chunked}3\r\nabc\r\n0\r\nX Sum: 9\r\n\r\n"), "3\r\nabc\r\n"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_owned(), "abc"),
    ] {
        for _ in 0..10 {
            let fake = Fake::new().await;
            let target = before(fake.address).await;
            // Who gets not a byte takes the connection for one that had gone stale, and asks again.
            let mut older = target.connect().await;
            older.put("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
            let mut wire = fake.accept().await;
            wire.head().await;
            wire.take(1).await;
            wire.put(&answer).await;
            drop(wire);
            let head = older.head().await;
            assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
            assert_eq!(String::from_utf8(older.rest().await).unwrap(), body, "{answer}");

            let mut newer = Speaker::connect(target.address).await;
            newer.put(get(1, "/")).await;
            let mut wire = fake.accept().await;
            wire.head().await;
            wire.put(&answer).await;
            drop(wire);
            let head = newer.until(HEADERS).await;
            assert_eq!(head.flags & END_STREAM, 0);
            assert_eq!(newer.until(DATA).await.payload, b"abc", "{answer}");
            newer.until(RST_STREAM).await;
            let lines = target.first_lines(2).await;
            assert!(
                lines.iter().all(|line| (&line["status"], &line["bytes_out"]) == (&200.into(), &3.into())),
                "{lines:?}"
            );
        }
    }
}

#[tokio::test]
async fn nobody_is_promised_a_connection_that_ends_with_the_answer() {
    let fake = Fake::new().await;
    let target = before(fake.address).await;
    for (answer, keeps) in [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Some("keep-alive")),
    ] {
        let mut client = target.connect().await;
        client.put("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await;
        let mut wire = fake.accept().await;
        wire.answer(answer).await;
        drop(wire);
        let head = client.head().await;
        assert_eq!(header(&head, "connection"), keeps, "{head}");
        assert_eq!(client.take(2).await, b"ok");
    }
}

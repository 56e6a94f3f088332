//! A request within a request, by the hundred.
//!
//! In each of these one length covers everything, so that there is one request or none. For a reader who sees the other
//! framing, there is a second one, for `/smuggled`.

use super::*;

const HIDDEN: &str = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

const NAMES: &[&str] = &[
    "Transfer-Encoding:",
    "Transfer-Encoding :",
    "Transfer-Encoding\t:",
    "Transfer-Encoding\u{b}:",
    " Transfer-Encoding:",
    "\tTransfer-Encoding:",
    "X: y\nTransfer-Encoding:",
    "X: y\rTransfer-Encoding:",
    "X: y\r\r\nTransfer-Encoding:",
    "X:\r\n Transfer-Encoding:",
    "Transfer_Encoding:",
    "Transfer Encoding:",
    "Transfer-Encoding\0:",
    "Transfer-Encoding\u{a0}:",
    "transfer-encoding:",
    "TRANSFER-ENCODING:",
    "Transfer-Encodin\u{212b}:",
    "\u{feff}Transfer-Encoding:",
    "X-Transfer-Encoding:",
    "\"Transfer-Encoding\":",
    "Transfer-Encoding;:",
    "Transfer-Encoding",
    "Content-Encoding:",
    "TE:",
    "\0Transfer-Encoding:",
];

const VALUES: &[&str] = &[
    " chunked",
    "chunked",
    "\tchunked",
    " chunked ",
    " chunked\t",
    " Chunked",
    " CHUNKED",
    " chunked, identity",
    " identity",
    " identity, chunked",
    " chunked, chunked",
    " xchunked",
    " chunkedx",
    " chunk",
    " \"chunked\"",
    " chunked;a=b",
    " gzip, chunked",
    " \u{b}chunked",
    " chunked\u{b}",
    " chunked\0",
    "\r\n chunked",
    " x\r\nTransfer-Encoding: chunked",
    " ,chunked",
    "",
    " \u{212a}chunked",
];

#[tokio::test]
async fn no_obfuscated_coding_makes_two_requests_of_one() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "").await;
    let mut passed = 0;
    for name in NAMES {
        for value in VALUES {
            for coding_first in [true, false] {
                let (coding, length) = (format!("{name}{value}"), format!("Content-Length: {}", HIDDEN.len()));
                let lines = if coding_first { [coding, length] } else { [length, coding] }.join("\r\n");
                let mut client = target.connect().await;
                client
                    .put(format!("POST /shown HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n\r\n{HIDDEN}"))
                    .await;
                let answer = String::from_utf8(client.rest().await).unwrap();
                assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{lines:?}: {answer}");
                match &answer[9..12] {
                    "200" => passed += 1,
                    status => assert!(matches!(status, "400" | "501"), "{lines:?}: {answer}"),
                }
            }
        }
    }
    let heads = witness.heads();
    assert_eq!(heads.len(), passed);
    // What passes are names that mean nothing, with values that are clean.
    assert!((1..=5 * 2 * VALUES.len()).contains(&passed), "{passed}");
    for head in heads {
        assert!(head.starts_with("POST /shown "), "{head}");
        assert_eq!(content_length(&head), HIDDEN.len(), "{head}");
        assert_eq!(header(&head, "transfer-encoding"), None, "{head}");
    }
    assert_eq!(target.lines().await.len(), NAMES.len() * VALUES.len() * 2);
}

#[tokio::test]
async fn no_odd_length_makes_two_requests_of_one() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "").await;
    let whole = HIDDEN.len();
    let mut passed = 0;
    for lines in [
        format!("Content-Length: {whole}\r\nContent-Length: 0"),
        format!("Content-Length: 0\r\nContent-Length: {whole}"),
        format!("Content-Length: {whole}, 0"),
        format!("Content-Length: 0, {whole}"),
        format!("Content-Length: +{whole}"),
        format!("Content-Length: 0{whole}"),
        format!("Content-Length: {whole}abc"),
        format!("Content-Length: {whole}\0"),
        format!("Content-Length: {whole} 0"),
        format!("Content-Length: {whole}.0"),
        format!("Content-Length: 0x{whole:x}"),
        format!("Content-Length : {whole}"),
        format!("Content-Length\t: {whole}"),
        format!(" Content-Length: {whole}"),
        format!("X: y\nContent-Length: {whole}"),
        format!("X: y\rContent-Length: {whole}"),
        format!("Content_Length: {whole}"),
        format!("Content-Length:\r\n {whole}"),
        format!("Content-Length: {whole}\r\n Content-Length: 0"),
        format!("Content-Length: {}", u64::MAX),
        format!("Content-Length: {}{whole}", u64::MAX),
        format!("Content-Length: {whole}\r\nTransfer-Encoding: chunked"),
        // One reading.
        format!("Content-Length: {whole}"),
        format!("Content-Length: \t{whole} "),
        format!("Content-Length: {whole}\r\nContent-Length: {whole}"),
    ] {
        let mut client = target.connect().await;
        client.put(format!("POST /shown HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n\r\n{HIDDEN}")).await;
        let answer = String::from_utf8(client.rest().await).unwrap();
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{lines:?}: {answer}");
        passed += usize::from(answer.starts_with("HTTP/1.1 200"));
    }
    let heads = witness.heads();
    assert_eq!((heads.len(), passed), (3, 3), "{heads:?}");
    assert!(heads.iter().all(|head| head.starts_with("POST /shown ") && content_length(head) == whole), "{heads:?}");
}

#[tokio::test]
async fn a_body_nobody_wants_is_not_the_next_request() {
    // CL.0: a fixed answer reads no body, and the body must not be taken for what comes after it.
    let target = Logged::before(support::nobody().await, "").await;
    let mut client = target.connect().await;
    let hidden = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    client.put(format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len())).await;
    client.put("GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    client.rest().await;
    let lines = target.lines().await;
    assert!(lines.iter().all(|line| line["path"] != "/smuggled"), "{lines:?}");
}

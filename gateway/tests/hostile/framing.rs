//! Requests that could be read in two ways.

use super::support::speaker::*;
use super::*;

/// What is wrong with each of these is said by the last word.
const GADGETS: &[(&str, u16, &str)] = &[
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "exclude"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, "exclude"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", 400, "different"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, "malformed: -1"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "one chunked",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "only Transfer-Encoding"),
    ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "HTTP/1.0"),
    ("GET / HTTP/1.1\nHost: a\n\n", 400, "carriage return"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400, "white space"),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "white space"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400, "control byte"),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "`#`"),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request line"),
    ("GET / HTTP/1.3\r\nHost: a\r\n\r\n", 505, "HTTP/1.0 and HTTP/1.1"),
    ("\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2"),
    ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\na", 400, "another protocol"),
    ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}", 400, "TLS"),
    // These the gate lets through, for who is asked says nothing about where a request ends.
    ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 400, "no Host"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n", 400, "more than one Host header: b"),
    ("GET / HTTP/1.1\r\nHost: a:x\r\nConnection: close\r\n\r\n", 400, "Host header is malformed: a:x"),
    ("GET http://u:pw@a/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400, "authority is malformed: @a"),
    ("GET http://a:x/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400, "authority is malformed: a:x"),
    ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400, "nor https: ftp"),
];

#[tokio::test]
async fn each_is_refused_with_an_answer_and_one_line_and_goes_nowhere() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    for (number, (gadget, status, what)) in GADGETS.iter().enumerate() {
        let mut client = target.connect().await;
        client.put(gadget).await;
        let (answered, cause) = refused(&mut client).await;
        assert_eq!((answered, &*cause), (*status, "bad_request"), "{gadget:?}");

        let lines = target.lines().await;
        assert_eq!(lines.len(), number + 1, "{gadget:?}: {lines:?}");
        let line = &lines[number];
        assert_eq!((&line["status"], &line["cause"]), (&Value::from(*status), &Value::from("bad_request")), "{line}");
        assert!(line["note"].as_str().unwrap().contains(what), "{gadget:?}: {line}");
        assert_eq!(line["client"], "127.0.0.1", "{line}");
    }
    assert!(!fake.is_wanted().await, "something went upstream");
    assert_eq!(
        counted(&target, 400, "bad_request")
            + counted(&target, 505, "bad_request")
            + counted(&target, 501, "bad_request"),
        GADGETS.len() as f64
    );
}

/// An answer to a `HEAD` that was refused had a body, if its request line was.
#[tokio::test]
async fn a_head_that_is_refused_gets_the_head_of_the_refusal_and_nothing_behind_it() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "limits = { request_line = \"1KiB\", header_size = \"2KiB\" }").await;
    let (long, plenty) = ("x".repeat(1024), format!("X: {}\r\n", "y".repeat(900)).repeat(3));
    let cases = [
        (format!("HEAD /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (format!("\r\nHEAD /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        ("HEAD /a#b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("HEAD /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("HEAD / HTTP/1.1\nHost: a\n\n".to_owned(), 400),
        ("HEAD / HTTP/1.3\r\nHost: a\r\n\r\n".to_owned(), 505),
        (format!("HEAD / HTTP/1.1\r\nHost: a\r\n{plenty}\r\n"), 431),
        ("HEAD / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(), 400),
        ("HEAD /a%zz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(), 400),
        ("HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), 400),
    ];
    for (count, (head, status)) in cases.iter().enumerate() {
        let mut client = target.connect().await;
        client.put(head).await;
        let answer = client.head().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head:?}: {answer}");
        assert!(content_length(&answer) > 0, "it is as long as a GET's would be: {answer}");
        assert_eq!(String::from_utf8(client.rest().await).unwrap(), "", "{head:?}");
        let line = target.first_lines(count + 1).await.pop().unwrap();
        assert_eq!(
            (&line["method"], &line["status"], &line["bytes_out"]),
            (&"HEAD".into(), &(*status).into(), &0.into())
        );
    }
    assert!(!fake.is_wanted().await, "something went upstream");
}

#[tokio::test]
async fn a_byte_at_a_time_they_fare_no_better() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    for (gadget, status, _) in GADGETS {
        let mut client = target.connect().await;
        for byte in gadget.as_bytes() {
            // Refused half-way, the rest is for nobody.
            let _ = client.try_put([*byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(refused(&mut client).await.0, *status, "{gadget:?}");
    }
    assert!(!fake.is_wanted().await, "something went upstream");
}

#[tokio::test]
async fn behind_a_good_request_one_waits_for_its_answer_and_is_refused_then() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    for (gadget, status, _) in GADGETS {
        let mut client = target.connect().await;
        client.put(format!("GET /first HTTP/1.1\r\nHost: a\r\n\r\n{gadget}")).await;
        let mut instance = fake.accept().await;
        let head = instance.answer("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
        assert!(head.starts_with("GET /first "), "{head}");
        assert!(client.head().await.starts_with("HTTP/1.1 200"), "{gadget:?}");
        assert_eq!(client.take(2).await, b"ok");
        assert_eq!(refused(&mut client).await.0, *status, "{gadget:?}");
        assert_eq!(instance.rest().await, b"", "{gadget:?}");
    }
    assert!(!fake.is_wanted().await, "something went upstream");
    assert_eq!(target.lines().await.len(), 2 * GADGETS.len());
}

#[tokio::test]
async fn nothing_behind_the_last_answer_of_a_connection_is_answered() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "").await;
    let mut client = target.connect().await;
    client.put("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n\0garbage").await;
    let answer = String::from_utf8(client.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok"), "{answer}");
    assert_eq!(target.line().await["path"], "/last");
}

#[tokio::test]
async fn a_log_line_stays_one_line_whatever_was_sent() {
    let target = Logged::before(support::nobody().await, "").await;
    let mut client = target.connect().await;
    client.put("GET /\u{1b}[31m\"}\u{2028}{\"status\":200 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(refused(&mut client).await, (400, "bad_request".into()));
    let line = target.line().await;
    assert!(line["note"].as_str().unwrap().contains("\u{1b}[31m\"}\u{2028}"), "{line}");
    let text = std::fs::read_to_string(&target.log).unwrap();
    assert!(!text.contains(['\u{1b}', '\u{2028}']), "{text:?}");
}

#[tokio::test]
async fn a_chunk_that_is_malformed_breaks_the_request_at_both_ends() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    for broken in
        ["0x5\r\n", "5 \r\nabcde\r\n", "5;\r\nabcde\r\n", "5\nabcde\r\n", "5\r\nabcdeX", "0\r\nHost: b\r\n\r\n"]
    {
        let mut client = target.connect().await;
        client
            .put(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n{broken}"))
            .await;
        let mut instance = fake.accept().await;
        instance.head().await;
        let came = String::from_utf8(instance.rest().await).unwrap();
        assert!(!came.ends_with("0\r\n\r\n"), "it looks whole to the instance: {came:?}");
        let answer = String::from_utf8(client.rest().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"bad_request\""), "{broken:?}: {answer}");
    }
    let lines = target.lines().await;
    let tells =
        |line: &Value| line["note"].as_str().is_some_and(|note| note.contains("chunk") || note.contains("trailer"));
    assert!(lines.iter().all(|line| line["cause"] == "bad_request" && tells(line)), "{lines:?}");
}

#[tokio::test]
async fn who_asks_for_another_protocol_and_gets_an_answer_goes_on_in_this_one() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "").await;
    let mut client = target.connect().await;
    let asks = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.put(format!("{asks}GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
    let answers = String::from_utf8(client.rest().await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    let paths: Vec<String> = witness.heads().iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(paths, ["/chat", "/next"]);
}

/// RFC 3986 §3.2.3 lets a port be empty. It was a 400.
#[tokio::test]
async fn an_empty_port_is_none_to_everybody() {
    let witness = Witness::new().await;
    let target = Logged::with(&format!(
        "[service.orders]\ninstances = [\"{}\"]\n[[route]]\nmatch = {{ hosts = [\"x.test\"] }}\nservice = \"orders\"\n",
        witness.address
    ))
    .await;
    for head in [
        "GET / HTTP/1.1\r\nHost: x.test:",
        "GET http://x.test:/ HTTP/1.1\r\nHost: b",
        "GET / HTTP/1.0\r\nHost: x.test:",
    ] {
        let mut client = target.connect().await;
        client.put(format!("{head}\r\nConnection: close\r\n\r\n")).await;
        assert!(client.head().await.contains(" 200 OK\r\n"), "{head:?}");
    }
    for fields in [[(":authority", "x.test:"), (":path", "/")], [(":path", "/"), ("host", "x.test:")]] {
        let mut client = Speaker::connect(target.address).await;
        let fields = [&[(":method", "GET"), (":scheme", "http")], &fields[..]].concat();
        client.put(frame(HEADERS, END_HEADERS | END_STREAM, 1, block(&fields))).await;
        assert_eq!(client.until(DATA).await.payload, b"ok", "{fields:?}");
    }
    assert!(target.first_lines(5).await.iter().all(|line| line["host"] == "x.test"));
    let heads = witness.heads();
    let told = |head: &String| ["host", "x-forwarded-host"].iter().all(|name| header(head, name) == Some("x.test"));
    assert!(heads.len() == 5 && heads.iter().all(told), "{heads:?}");
}

#[tokio::test]
async fn a_query_passes_as_it_is_but_for_what_no_browser_leaves_in_one() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "").await;
    let text = (0x21..=0x7e).map(char::from).chain(['é', '\u{2028}']).map(|c| c.to_string().into_bytes());
    // The last is a letter for who reads Latin-1, and nothing in UTF-8.
    let mut refused = Vec::new();
    for query in text.chain([vec![0xe9]]) {
        let mut client = target.connect().await;
        client.put([b"GET /?a=", &query[..], b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"].concat()).await;
        let passes = client.head().await.starts_with("HTTP/1.1 200 ");

        let mut client = Speaker::connect(target.address).await;
        let path = [b"/?a=", &query[..]].concat();
        let fields = [block(&asks("GET", "/")[..3]), field(b":path", &path)].concat();
        client.put(frame(HEADERS, END_HEADERS | END_STREAM, 1, fields)).await;
        let kind = client.until_some(|frame| frame.stream == 1 || frame.kind == GOAWAY).await.kind;
        let wanted = match &query[..] {
            // There it is cut off.
            b"#" => HEADERS,
            b"\xe9" => GOAWAY,
            _ if passes => HEADERS,
            _ => RST_STREAM,
        };
        assert_eq!(kind, wanted, "{query:?}");

        let line = [b"GET ", &path[..], b" HTTP/1.1"].concat();
        let heads = std::mem::take(&mut *witness.heads.lock().unwrap());
        match passes {
            true => {
                assert!(heads.len() == 2 && heads.iter().all(|head| head.as_bytes().starts_with(&line)), "{heads:?}")
            }
            false => refused.push(query),
        }
    }
    assert_eq!(refused, [&b"\""[..], b"#", b"<", b">", b"\xe9"]);
}

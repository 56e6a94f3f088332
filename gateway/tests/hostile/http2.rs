//! HTTP/2 that is malformed, and what becomes of it: an answer, a reset stream, or the end of the connection.

use super::support::http2::{Client, whole};
use super::support::speaker::*;
use super::*;

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// The gateway answers with this status.
    Answered(u16),
    /// The stream is reset with this code.
    Reset(u32),
    /// The connection is closed with this code.
    Closed(u32),
}
use Fate::{Answered, Closed, Reset};

/// A whole request with these fields behind `:method` and `:scheme`.
fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = [&[(":method", "GET"), (":scheme", "http")], fields].concat();
    frame(HEADERS, END_HEADERS | END_STREAM, 1, block(&fields))
}

/// A request like any, with something more.
fn with(name: &str, value: &str) -> Vec<u8> {
    request(&[(":authority", "a.example"), (":path", "/"), (name, value)])
}

/// A `POST` with this length, and behind it DATA.
fn upload(length: &str, data: &[u8]) -> Vec<u8> {
    let fields = [asks("POST", "/"), vec![("content-length", length)]].concat();
    [frame(HEADERS, END_HEADERS, 1, block(&fields)), frame(DATA, END_STREAM, 1, data)].concat()
}

/// A `POST` with a trailer.
fn trailed(name: &str, value: &str) -> Vec<u8> {
    trailed_with(&[(name, value)])
}

fn trailed_with(trailers: &[(&str, &str)]) -> Vec<u8> {
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, block(trailers));
    [frame(HEADERS, END_HEADERS, 1, block(&asks("POST", "/"))), frame(DATA, 0, 1, "abc"), trailers].concat()
}

fn malformed() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let plain = [(":authority", "a.example"), (":path", "/")];
    let raw = |fields: &[(&[u8], &[u8])]| {
        let fields = fields.iter().flat_map(|(name, value)| field(name, value));
        let begin = block(&asks("GET", "/"));
        frame(HEADERS, END_HEADERS | END_STREAM, 1, begin.into_iter().chain(fields).collect::<Vec<u8>>())
    };
    vec![
        // What a header block may not have in it, h2 finds.
        ("a carriage return in a value", raw(&[(b"x", b"a\rb")]), Closed(PROTOCOL_ERROR)),
        ("a line feed in a value", raw(&[(b"x", b"a\r\nx-injected: b")]), Closed(PROTOCOL_ERROR)),
        ("NUL in a value", raw(&[(b"x", b"a\0b")]), Closed(PROTOCOL_ERROR)),
        ("capitals in a name", raw(&[(b"X-Upper", b"a")]), Closed(PROTOCOL_ERROR)),
        ("a space in a name", raw(&[(b"x y", b"a")]), Closed(PROTOCOL_ERROR)),
        ("a colon in a name", raw(&[(b"x:y", b"a")]), Closed(PROTOCOL_ERROR)),
        ("an empty name", raw(&[(b"", b"a")]), Closed(PROTOCOL_ERROR)),
        ("an unknown pseudo header", raw(&[(b":x", b"a")]), Closed(PROTOCOL_ERROR)),
        ("a line feed in the path", request(&[(":authority", "a"), (":path", "/\r\nx: y")]), Reset(PROTOCOL_ERROR)),
        ("a space in the path", request(&[(":authority", "a"), (":path", "/a b")]), Reset(PROTOCOL_ERROR)),
        ("no path", request(&[(":authority", "a")]), Reset(PROTOCOL_ERROR)),
        ("no path, and no authority", request(&[("host", "a")]), Answered(400)),
        ("an empty path", request(&[(":authority", "a"), (":path", "")]), Reset(PROTOCOL_ERROR)),
        (
            "no method",
            frame(HEADERS, 5, 1, block(&[(":scheme", "http"), (":authority", "a"), (":path", "/")])),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "no scheme",
            frame(HEADERS, 5, 1, block(&[(":method", "GET"), (":authority", "a"), (":path", "/")])),
            Reset(PROTOCOL_ERROR),
        ),
        ("two paths", request(&[(":authority", "a"), (":path", "/"), (":path", "/admin")]), Reset(PROTOCOL_ERROR)),
        ("two methods", request(&[(":method", "POST"), (":authority", "a"), (":path", "/")]), Reset(PROTOCOL_ERROR)),
        (
            "a pseudo header behind a header",
            request(&[(":authority", "a"), ("x", "y"), (":path", "/")]),
            Reset(PROTOCOL_ERROR),
        ),
        ("a status", request(&[(":status", "200"), (":authority", "a"), (":path", "/")]), Reset(PROTOCOL_ERROR)),
        ("another protocol", with(":protocol", "websocket"), Reset(PROTOCOL_ERROR)),
        ("Connection", with("connection", "x-forwarded-for"), Reset(PROTOCOL_ERROR)),
        ("Keep-Alive", with("keep-alive", "timeout=5"), Reset(PROTOCOL_ERROR)),
        ("Proxy-Connection", with("proxy-connection", "close"), Reset(PROTOCOL_ERROR)),
        ("Transfer-Encoding", with("transfer-encoding", "chunked"), Reset(PROTOCOL_ERROR)),
        ("Upgrade", with("upgrade", "h2c"), Reset(PROTOCOL_ERROR)),
        ("a te that is not trailers", with("te", "gzip"), Reset(PROTOCOL_ERROR)),
        ("a length that is no number", upload("+3", b"abc"), Reset(PROTOCOL_ERROR)),
        ("two lengths", upload_twice("3", "4"), Reset(PROTOCOL_ERROR)),
        ("a length and no body", with("content-length", "3"), Reset(PROTOCOL_ERROR)),
        // What h2 lets through, we refuse.
        ("a path without a slash", request(&[(":authority", "a"), (":path", "admin")]), Reset(PROTOCOL_ERROR)),
        (
            "a path without a slash, and no authority",
            request(&[(":path", "admin"), ("host", "a")]),
            Reset(PROTOCOL_ERROR),
        ),
        ("a whole URL for a path", request(&[(":path", "http://b/"), ("host", "a")]), Reset(PROTOCOL_ERROR)),
        ("a star that is for OPTIONS", request(&[(":authority", "a"), (":path", "*")]), Answered(400)),
        ("a Host beside another authority", with("host", "b.example"), Answered(400)),
        ("nobody to ask", request(&[(":path", "/")]), Answered(400)),
        ("two hosts", request(&[(":path", "/"), ("host", "a"), ("host", "b")]), Answered(400)),
        ("user information", request(&[(":authority", "user@a.example"), (":path", "/")]), Answered(400)),
        ("an empty authority", request(&[(":authority", ""), (":path", "/")]), Reset(PROTOCOL_ERROR)),
        ("a port that is none", request(&[(":authority", "a:99999"), (":path", "/")]), Answered(400)),
        ("a comma in the authority", request(&[(":authority", "a,b"), (":path", "/")]), Answered(400)),
        (
            "another scheme",
            frame(HEADERS, 5, 1, block(&[&[(":method", "GET"), (":scheme", "ftp")], &plain[..]].concat())),
            Answered(400),
        ),
        ("white space before a value", with("x-env", " canary"), Answered(400)),
        ("white space behind a value", with("x-env", "canary\t"), Answered(400)),
        ("a name like one that frames", with("content_length", "3"), Answered(400)),
        ("a name like the other one that frames", with("transfer_encoding", "chunked"), Answered(400)),
        ("a length with zeros in front", upload("003", b"abc"), Answered(400)),
        ("a length that says nothing", upload("", b""), Answered(400)),
        (
            "CONNECT",
            frame(HEADERS, 5, 1, block(&[(":method", "CONNECT"), (":authority", "a.example:443")])),
            Answered(405),
        ),
        (
            "CONNECT with a length",
            frame(HEADERS, END_HEADERS, 1, block(&connect_with_a_length())),
            Closed(PROTOCOL_ERROR),
        ),
        ("TRACE", frame(HEADERS, 5, 1, block(&asks("TRACE", "/"))), Answered(405)),
        ("a header too many", request(&[&plain[..], &[("x", "y"); 101]].concat()), Answered(431)),
        ("a header list too large", in_two(&with("x", &"y".repeat(17 << 10))), Answered(431)),
        ("a frame too short", frame(PING, 0, 0, [0; 7]), Closed(PROTOCOL_ERROR)),
        ("a setting out of range", frame(SETTINGS, 0, 0, [0, 4, 0x80, 0, 0, 0]), Closed(PROTOCOL_ERROR)),
        ("a block that cannot be unpacked", frame(HEADERS, 5, 1, [0xff, 0xff]), Closed(PROTOCOL_ERROR)),
        ("a frame too large", with("x", &"y".repeat(17 << 10)), Closed(FRAME_SIZE_ERROR)),
    ]
}

fn connect_with_a_length() -> [(&'static str, &'static str); 3] {
    [(":method", "CONNECT"), (":authority", "a.example:443"), ("content-length", "3")]
}

/// A header block in two frames.
fn in_two(whole: &[u8]) -> Vec<u8> {
    let (first, rest) = whole[9..].split_at(16_000);
    [frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 1, rest)].concat()
}

fn upload_twice(one: &str, other: &str) -> Vec<u8> {
    let fields = [asks("POST", "/"), vec![("content-length", one), ("content-length", other)]].concat();
    [frame(HEADERS, END_HEADERS, 1, block(&fields)), frame(DATA, END_STREAM, 1, "abc")].concat()
}

/// What becomes of the request on stream 1.
async fn fate(client: &mut Speaker) -> Fate {
    let ours = |frame: &Frame| matches!((frame.kind, frame.stream), (HEADERS | RST_STREAM, 1) | (GOAWAY, 0));
    let frame = client.until_some(ours).await;
    match frame.kind {
        GOAWAY => Closed(frame.number(4)),
        RST_STREAM => Reset(frame.number(0)),
        // `:status` is in the static table: 8 to 14, and any other is written with one of these names.
        _ => match frame.payload[0] {
            0x8c => Answered(400),
            0x8d => Answered(404),
            0x88 => Answered(200),
            _ => Answered(status(&frame.payload)),
        },
    }
}

/// A status that is not in the static table: its digits, packed by Huffman's code, in which `0`, `1` and `2` have five
/// bits and the other digits six.
fn status(block: &[u8]) -> u16 {
    let (length, rest) = (usize::from(block[1] & 0x7f), &block[2..]);
    if block[1] & 0x80 == 0 {
        return std::str::from_utf8(&rest[..length]).unwrap().parse().unwrap();
    }
    let bits: String = rest[..length].iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut at, mut number) = (0, 0);
    while number < 100 {
        let five = u16::from_str_radix(&bits[at..at + 5], 2).unwrap();
        let (digit, width) =
            if five < 3 { (five, 5) } else { (u16::from_str_radix(&bits[at..at + 6], 2).unwrap() - 0b011001 + 3, 6) };
        (number, at) = (number * 10 + digit, at + width);
    }
    number
}

#[tokio::test]
async fn each_has_its_fate_and_one_line_and_goes_nowhere() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    for (count, (what, bytes, expected)) in malformed().into_iter().enumerate() {
        let mut client = Speaker::connect(target.address).await;
        let _ = client.wire.try_put(&bytes).await;
        assert_eq!(fate(&mut client).await, expected, "{what}");
        let lines = target.first_lines(count + 1).await;
        let line = lines.last().unwrap();
        let status = match expected {
            Answered(status) => status,
            Reset(_) | Closed(_) => 400,
        };
        assert_eq!((&line["status"], &line["protocol"]), (&status.into(), &"HTTP/2".into()), "{what}: {line}");
        if !matches!(expected, Closed(_)) {
            // The connection has taken no harm.
            client.put(frame(PING, 0, 0, b"alive???")).await;
            client.until_some(|frame| frame.kind == PING && frame.flags == ACK).await;
        }
    }
    assert!(!fake.is_wanted().await, "something went upstream");
}

#[tokio::test]
async fn a_body_that_is_longer_or_shorter_than_it_says_never_becomes_a_whole_one() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "").await;
    let begin = |length: &str| {
        let fields = [asks("POST", "/"), vec![("content-length", length)]].concat();
        frame(HEADERS, END_HEADERS, 1, block(&fields))
    };
    let open = frame(HEADERS, END_HEADERS, 1, block(&asks("POST", "/")));
    for (what, bytes, cause) in [
        ("longer", [begin("3"), frame(DATA, END_STREAM, 1, "abcd")].concat(), "bad_request"),
        ("shorter", [begin("5"), frame(DATA, END_STREAM, 1, "abcd")].concat(), "bad_request"),
        ("longer, in parts", [begin("3"), frame(DATA, 0, 1, "ab"), frame(DATA, 0, 1, "cd")].concat(), "bad_request"),
        ("a trailer that frames", trailed("content-length", "3"), "bad_request"),
        ("a trailer that routes", trailed("host", "b"), "bad_request"),
        ("white space before a trailer's value", trailed("x-sum", " 9"), "bad_request"),
        ("white space behind a trailer's value", trailed("x-sum", "9\t"), "bad_request"),
        ("a pseudo header behind a trailer", trailed_with(&[("x-sum", "9"), (":path", "/b")]), "bad_request"),
        // hyper takes the first for the end of a body, and an instance would take half a request for a whole one.
        (
            "given up in peace",
            [open.clone(), frame(DATA, 0, 1, "half"), numbered(RST_STREAM, 1, NO_ERROR)].concat(),
            "client_closed",
        ),
        ("given up", [open, frame(DATA, 0, 1, "half"), numbered(RST_STREAM, 1, CANCEL)].concat(), "client_closed"),
    ] {
        let before = target.lines().await.len();
        let mut client = Speaker::connect(target.address).await;
        client.put(bytes).await;
        let lines = target.first_lines(before + 1).await;
        assert_eq!(lines.last().unwrap()["cause"], cause, "{what}: {lines:?}");
        client.put(frame(PING, 0, 0, b"alive???")).await;
        client.until_some(|frame| frame.kind == PING && frame.flags == ACK).await;
    }
    assert_eq!(witness.heads().len(), 0, "an instance took one of them for whole");
}

/// RFC 9113 §8.1 calls it malformed. h2 lets go of it before anybody could see it, so it does no more than that.
#[tokio::test]
async fn a_pseudo_header_in_front_of_trailers_reaches_nobody() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let mut client = Speaker::connect(target.address).await;
    client.put(trailed_with(&[(":path", "/b"), (":authority", "b"), (":method", "PUT"), ("x-sum", "9")])).await;
    let mut wire = fake.accept().await;
    let head = wire.head().await;
    assert!(head.starts_with("POST / HTTP/1.1\r\n") && header(&head, "host") == Some("a.example"), "{head}");
    let body = wire.take_until("0\r\n\r\n").await;
    assert!(body.contains("abc"), "{body}");
    wire.put(OK).await;
    assert_eq!(client.until(DATA).await.payload, b"ok");
    assert_eq!(target.line().await["path"], "/");
}

#[tokio::test]
async fn a_head_that_is_refused_gets_the_head_of_the_refusal_and_nothing_behind_it() {
    let target = Logged::before(support::nobody().await, "limits = { request_line = \"1KiB\" }").await;
    let long = format!("/{}", "x".repeat(1024));
    let crowded = [asks("HEAD", "/"), vec![("x", "y"); 101]].concat();
    for fields in [asks("HEAD", &long), asks("HEAD", "/%zz"), asks("HEAD", "*"), crowded] {
        let mut client = Speaker::connect(target.address).await;
        client.put(frame(HEADERS, END_HEADERS | END_STREAM, 1, block(&fields))).await;
        let head = client.until_some(|frame| frame.stream == 1).await;
        assert_eq!((head.kind, head.flags & END_STREAM), (HEADERS, END_STREAM), "{fields:?}");
    }
    let lines = target.first_lines(4).await;
    let statuses: Vec<_> = lines.iter().map(|line| line["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [414, 400, 400, 431]);
}

#[tokio::test]
async fn a_body_of_another_length_is_refused_whoever_answers() {
    // h2 resets the stream while the request is answered, and the log said that its client had left in the middle of a 200.
    let respond = |path: &str, answer: &str| format!("[[route]]\nmatch = {{ path = \"{path}\" }}\n{answer}\n");
    let fake = Fake::new().await;
    let target = Logged::with(&format!(
        "[service.orders]\ninstances = [\"{0}\"]\n[service.calls]\ninstances = [\"{0}\"]\nprotocol = \"h2c\"\n{1}{2}{3}{4}",
        fake.address,
        respond("/full", "respond = { body = \"hello\" }"),
        respond("/empty", "respond = { status = 204 }"),
        respond("/orders", "service = \"orders\""),
        respond("/calls", "service = \"calls\""),
    ))
    .await;
    let mut count = 0;
    for path in ["/full", "/empty", "/nowhere", "/orders", "/calls"] {
        for (length, parts) in [("10", &["abc"][..]), ("2", &["abc"]), ("2", &["a", "bc"]), ("10", &["a", "bc"])] {
            let mut client = Speaker::connect(target.address).await;
            let fields = [asks("POST", path), vec![("content-length", length)]].concat();
            let mut bytes = frame(HEADERS, END_HEADERS, 1, block(&fields));
            for (at, part) in parts.iter().enumerate() {
                bytes.extend(frame(DATA, if at + 1 == parts.len() { END_STREAM } else { 0 }, 1, part));
            }
            client.put(bytes).await;
            assert_eq!(fate(&mut client).await, Reset(PROTOCOL_ERROR), "{path}: {parts:?} of {length}");
            count += 1;
            let line = target.first_lines(count).await.remove(count - 1);
            assert_eq!((&line["status"], &line["cause"]), (&400.into(), &"bad_request".into()), "{line}");
            assert!(line["note"].as_str().unwrap().contains("Content-Length"), "{line}");
            assert_eq!((&line["path"], &line["bytes_out"]), (&path.into(), &0.into()), "{line}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_its_client_has_no_room_for_and_gives_up_is_no_success() {
    let body = "x".repeat(40_000);
    let route = |path: &str, body: &str| {
        format!("[[route]]\nmatch = {{ path = \"{path}\" }}\nrespond = {{ body = \"{body}\" }}\n")
    };
    let target = Logged::with(&(route("/small", "hello") + &route("/large", &body))).await;
    // The window, and what of the answer was sent when the client gives it up. More than a piece may wait within h2.
    for (count, (path, window, sent)) in
        [("/small", 0, 0), ("/large", 0, 0), ("/large", 16 << 10, 16 << 10)].into_iter().enumerate()
    {
        let mut client = Speaker::with(target.address, &[(4, window)]).await;
        client.put(get(1, path)).await;
        client.until(HEADERS).await;
        for _ in 0..window >> 14 {
            client.until(DATA).await;
        }
        client.put(numbered(RST_STREAM, 1, CANCEL)).await;
        let line = target.first_lines(count + 1).await.remove(count);
        assert_eq!((&line["status"], &line["cause"]), (&200.into(), &"client_closed".into()), "{line}");
        assert_eq!(line["bytes_out"], sent, "{line}");
    }
}

#[tokio::test]
async fn a_length_that_is_said_twice_reaches_an_instance_once() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "").await;
    let mut client = Speaker::connect(target.address).await;
    client.put(upload_twice("3", "3")).await;
    assert_eq!(client.until(DATA).await.payload, b"ok");
    let head = witness.heads().remove(0);
    assert_eq!(head.matches("content-length").count(), 1, "{head}");
}

#[tokio::test]
async fn who_agreed_on_it_and_speaks_something_else_is_told_so() {
    let target = Logged::before(support::nobody().await, "").await;
    let mut client = target.connect().await;
    client.put("PRI * HTTP/2.0\r\n\r\nGET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(refused(&mut client).await, (400, "bad_request".into()));
    assert!(target.line().await["note"].as_str().unwrap().contains("preface"));
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_may_be_sent_again() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "limits = { streams = 3 }").await;
    let mut client = Speaker::connect(target.address).await;
    for stream in [1, 3, 5, 7] {
        client.put(get(stream, "/")).await;
    }
    let reset = client.until(RST_STREAM).await;
    assert_eq!((reset.stream, reset.number(0)), (7, REFUSED_STREAM));
    let line = target.line().await;
    assert!(line["note"].as_str().unwrap().contains("more streams"), "{line}");
}

#[tokio::test]
async fn a_call_of_grpc_is_refused_at_the_door_in_its_own_words() {
    let target = Logged::with("[[route]]\nrespond = { body = \"here\" }\n").await;
    let client = Client::connect(target.address).await;
    for kind in ["application/grpc", "Application/gRPC+proto"] {
        let request = http::Request::post("http://a/orders.Orders/List").header("content-type", kind);
        let request = request.header("content_length", "5").body(axum::body::Body::empty()).unwrap();
        let answer = whole(client.send(request).await).await;
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        assert_eq!((answer.status.as_u16(), header("content-type")), (200, Some("application/grpc")), "{kind}");
        assert_eq!((header("grpc-status"), header("grpc-message")), (Some("3"), Some("bad_request")), "{kind}");
    }
}

#[tokio::test]
async fn a_connection_whose_first_frame_is_not_settings_is_ended() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let mut client = Speaker { wire: target.connect().await };
    client.put([PREFACE, &get(1, "/"), &frame(SETTINGS, 0, 0, "")].concat()).await;
    let frames = client.rest().await;
    let goodbye = frames.iter().find(|frame| frame.kind == GOAWAY).map(|frame| frame.number(4));
    assert_eq!(goodbye, Some(PROTOCOL_ERROR), "{frames:?}");
    assert!(!fake.is_wanted().await, "it was served");
    let line = target.line().await;
    assert_eq!((&line["status"], &line["note"]), (&400.into(), &"the connection breaks the rules of HTTP/2".into()));
}

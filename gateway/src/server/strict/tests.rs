//! The gate against a table, against itself in pieces, and against hyper as the second reader.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::*;

const LIMITS: Limits = Limits { request_line: 512, head: 2048, headers: 8 };

/// What was read: the length of each request's body, and whether it was there to its end.
type Reading = Vec<(u64, bool)>;

/// Feeds a gate in pieces as the network might, and holds back what it holds back.
fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Gate, Vec<u8>, Option<Refusal>) {
    let (mut gate, mut held, mut passed) = (Gate::new(LIMITS), Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            let verdict = gate.judge(&held);
            passed.extend(held.drain(..verdict.pass));
            if verdict.refusal.is_some() {
                return (gate, passed, verdict.refusal);
            }
            if !matches!(gate.state, State::Asks) {
                break;
            }
            // Nobody here speaks anything else.
            gate.answered(false);
        }
    }
    (gate, passed, None)
}

/// What the gate takes the requests in `bytes` for. It passed them before.
fn read_by_gate(bytes: &[u8]) -> Reading {
    let (mut gate, mut requests, mut held) = (Gate::new(LIMITS), Reading::new(), Vec::new());
    for byte in bytes {
        let data = match &gate.state {
            State::Length(_) => true,
            State::Chunks(chunks) => chunks.is_in_data(),
            _ => false,
        };
        held.push(*byte);
        let (before, verdict) = (gate.requests(), gate.judge(&held));
        assert_eq!(verdict.refusal, None, "it was let through before");
        held.drain(..verdict.pass);
        gate.answered(false);
        if gate.requests() > before {
            requests.push((0, false));
        }
        if let Some((length, whole)) = requests.last_mut() {
            *length += u64::from(data);
            *whole = *whole || matches!(gate.state, State::Head(_));
        }
    }
    requests
}

/// What hyper takes them for, or what it has against them.
fn read_by_hyper(bytes: &[u8]) -> Result<Reading, hyper::Error> {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(read_over_memory(bytes)))
}

async fn read_over_memory(bytes: &[u8]) -> Result<Reading, hyper::Error> {
    let (mut client, server) = tokio::io::duplex(bytes.len().max(1 << 14));
    client.write_all(bytes).await.expect("there is room");
    client.shutdown().await.expect("it closes");
    let reading = Arc::new(Mutex::new(Reading::new()));
    let service = service_fn(|request: http::Request<Incoming>| {
        let reading = reading.clone();
        async move {
            // As to every request here, the answer to one for a tunnel is no.
            let status = if request.method() == http::Method::CONNECT { 405 } else { 200 };
            let (mut body, mut length) = (request.into_body(), 0);
            let whole = loop {
                match body.frame().await {
                    Some(Ok(frame)) => length += frame.data_ref().map_or(0, Bytes::len) as u64,
                    Some(Err(_)) => break false,
                    None => break true,
                }
            };
            reading.lock().expect("no panic").push((length, whole));
            http::Response::builder().status(status).body(Empty::<Bytes>::new())
        }
    });
    let connection = http1::Builder::new()
        .half_close(true)
        .max_headers(LIMITS.headers)
        .max_header_size(LIMITS.head + 64)
        .serve_connection(TokioIo::new(server), service);
    let ended = connection.await;
    let reading = reading.lock().expect("no panic").clone();
    match ended {
        Err(error) if error.is_parse() => Err(error),
        _ => Ok(reading),
    }
}

/// Whatever the gate lets through, hyper reads the same.
fn assert_one_reading(bytes: &[u8]) {
    let (_, passed, _) = feed([bytes]);
    let ours = read_by_gate(&passed);
    // After `Connection: close` hyper reads no further, which nobody can exploit.
    let theirs = read_by_hyper(&passed)
        .unwrap_or_else(|error| panic!("hyper: {error}: {:?}", passed.escape_ascii().to_string()));
    assert!(ours.starts_with(&theirs), "{ours:?} {theirs:?} {:?}", passed.escape_ascii().to_string());
    let closes = passed.windows(5).any(|word| word.eq_ignore_ascii_case(b"close"))
        || passed.windows(8).any(|word| word == b"HTTP/1.0");
    assert!(closes || ours == theirs, "{ours:?} {theirs:?} {:?}", passed.escape_ascii().to_string());
}

#[track_caller]
fn refused(bytes: &[u8]) -> Refusal {
    let (_, _, refusal) = feed([bytes]);
    refusal.unwrap_or_else(|| panic!("it was let through: {}", bytes.escape_ascii()))
}

/// A request with these header lines, and with something behind it that is one too.
fn with(lines: &str) -> Vec<u8> {
    format!("POST /a?secret HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        .into()
}

#[test]
fn what_frames_a_request_has_one_reading_or_is_refused() {
    for (lines, fault) in [
        ("Content-Length: -1", Fault::Length),
        ("Content-Length: +5", Fault::Length),
        ("Content-Length: 0x5", Fault::Length),
        ("Content-Length: 05", Fault::Length),
        ("Content-Length: 5 5", Fault::Length),
        ("Content-Length: 5, 5", Fault::Length),
        ("Content-Length: 5,6", Fault::Length),
        ("Content-Length: 1_0", Fault::Length),
        ("Content-Length:", Fault::Length),
        ("Content-Length: 5;", Fault::Length),
        ("Content-Length: 9223372036854775808", Fault::Length),
        ("Content-Length: 99999999999999999999", Fault::Length),
        ("Content-Length: 18446744073709551621", Fault::Length),
        ("Content-Length: 5\r\nContent-Length: 6", Fault::Lengths),
        ("Content-Length: 5\r\ncontent-length: 0", Fault::Lengths),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", Fault::LengthAndCoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", Fault::LengthAndCoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0", Fault::LengthAndCoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Fault::Coding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", Fault::Coding),
        ("Transfer-Encoding: identity", Fault::Coding),
        ("Transfer-Encoding: xchunked", Fault::Coding),
        ("Transfer-Encoding: chunked, chunked", Fault::Coding),
        ("Transfer-Encoding: chunked, identity", Fault::Coding),
        ("Transfer-Encoding: chunked;q=1", Fault::Coding),
        ("Transfer-Encoding: \"chunked\"", Fault::Coding),
        ("Transfer-Encoding: chunked,", Fault::Coding),
        ("Transfer-Encoding: ,chunked", Fault::Coding),
        ("Transfer-Encoding:", Fault::Coding),
        ("Transfer-Encoding: gzip, chunked", Fault::UnknownCoding),
        ("Transfer-Encoding: chunked\x0b", Fault::Control),
        ("Transfer-Encoding: \x00chunked", Fault::Control),
        ("Transfer-Encoding : chunked", Fault::SpaceBeforeColon),
        ("Transfer-Encoding\t: chunked", Fault::SpaceBeforeColon),
        (" Transfer-Encoding: chunked", Fault::Folded),
        ("Transfer-Encoding:\r\n chunked", Fault::Coding),
        ("X: y\r\n\tTransfer-Encoding: chunked", Fault::Folded),
        ("X: y\nTransfer-Encoding: chunked", Fault::BareLineFeed),
        ("X: y\rTransfer-Encoding: chunked", Fault::BareReturn),
        ("X: y\r\r\nTransfer-Encoding: chunked", Fault::BareReturn),
        ("Transfer_Encoding: chunked", Fault::LikeFraming),
        ("Content_Length: 5", Fault::LikeFraming),
        ("content-length : 5", Fault::SpaceBeforeColon),
        ("Content-Length: 5\r\nUpgrade: websocket", Fault::UpgradeWithBody),
        ("Upgrade: h2c, websocket\r\nTransfer-Encoding: chunked", Fault::UpgradeWithBody),
        ("Transfer Encoding: chunked", Fault::HeaderName),
        ("Transfer-Encoding", Fault::NoColon),
        (": chunked", Fault::HeaderName),
        ("Transfer-Encoding\u{a0}: chunked", Fault::HeaderName),
        ("X\x00: y", Fault::Control),
        ("X: y\x00", Fault::Control),
        ("X: y\x7f", Fault::Control),
        ("X\r: y", Fault::BareReturn),
    ] {
        let refusal = refused(&with(lines));
        assert_eq!(refusal.fault, fault, "{lines:?}");
        let asked = refusal.asked.expect("the request line was in order");
        assert_eq!((&*asked.method, &*asked.path), ("POST", "/a"), "{lines:?}");
    }
    assert_eq!(refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").fault, Fault::CodingBefore11);
    assert_eq!(refused(b"CONNECT a:80 HTTP/1.1\r\nContent-Length: 1\r\n\r\n").fault, Fault::UpgradeWithBody);
}

#[test]
fn a_request_line_has_three_words_or_is_refused() {
    for (line, fault) in [
        ("GET  / HTTP/1.1", Fault::RequestLine),
        ("GET /  HTTP/1.1", Fault::RequestLine),
        ("GET / HTTP/1.1 ", Fault::RequestLine),
        ("GET / x HTTP/1.1", Fault::RequestLine),
        ("GET\t/ HTTP/1.1", Fault::Method),
        ("GET /\tHTTP/1.1", Fault::RequestLine),
        ("GET /", Fault::RequestLine),
        ("GET", Fault::RequestLine),
        (" GET / HTTP/1.1", Fault::RequestLine),
        ("GET / http/1.1", Fault::RequestLine),
        ("GET / HTTP/1.10", Fault::RequestLine),
        ("GET / HTTP/1,1", Fault::RequestLine),
        ("GET / HTTP/11", Fault::RequestLine),
        ("GET / HTTP/1.2", Fault::Version),
        ("GET / HTTP/0.9", Fault::Version),
        ("GET / HTTP/3.0", Fault::Version),
        ("PRI * HTTP/2.0", Fault::Http2),
        ("GE(T / HTTP/1.1", Fault::Method),
        ("GET /a#b HTTP/1.1", Fault::Fragment),
        ("GET http://a/#b HTTP/1.1", Fault::Fragment),
        ("GET /a\x00b HTTP/1.1", Fault::Control),
        ("GET /a\rb HTTP/1.1", Fault::BareReturn),
        ("GET /\x7f HTTP/1.1", Fault::Control),
        ("GET a HTTP/1.1", Fault::Target),
        ("GET a:80 HTTP/1.1", Fault::Target),
        ("GET * HTTP/1.1", Fault::Target),
        ("GET ?a HTTP/1.1", Fault::Target),
        ("GET http:// HTTP/1.1", Fault::Target),
        ("GET http://[::1 HTTP/1.1", Fault::Target),
        ("GET /<a> HTTP/1.1", Fault::Target),
        ("CONNECT / HTTP/1.1", Fault::Target),
        ("CONNECT http://a/ HTTP/1.1", Fault::Target),
        ("(ET / HTTP/1.1", Fault::NotHttp),
        ("\u{16}\u{3}\u{1}\u{2}", Fault::Tls),
    ] {
        let bytes = format!("{line}\r\nHost: a\r\n\r\n");
        assert_eq!(refused(bytes.as_bytes()).fault, fault, "{line:?}");
    }
    assert_eq!(refused(b"GET /\xff HTTP/1.1\r\n").fault, Fault::Target);
    assert_eq!(refused(b"\nGET / HTTP/1.1\r\n").fault, Fault::BareLineFeed);
    assert_eq!(refused(b"GET / HTTP/1.1\n").fault, Fault::BareLineFeed);
    assert_eq!(refused(b"\r\n\r\n\r\nGET / HTTP/1.1\r\n").fault, Fault::BlankLines);
    assert_eq!(refused(b"\rGET / HTTP/1.1\r\n").fault, Fault::BareReturn);
}

#[test]
fn chunks_are_what_they_say_or_are_refused() {
    for (body, fault) in [
        ("x", Fault::ChunkSize),
        ("-1\r\n", Fault::ChunkSize),
        ("+1\r\n", Fault::ChunkSize),
        ("0x1\r\n", Fault::ChunkSize),
        (" 1\r\n", Fault::ChunkSize),
        ("1 \r\n", Fault::ChunkSize),
        ("1\t;a\r\n", Fault::ChunkSize),
        ("\r\n", Fault::ChunkSize),
        ("1\n", Fault::ChunkSize),
        ("1\r\r\n", Fault::ChunkSize),
        ("FFFFFFFFFFFFFFFF1\r\n", Fault::ChunkSize),
        ("8000000000000000\r\n", Fault::ChunkSize),
        (&"0".repeat(1100), Fault::ChunkSize),
        ("1;\r\n", Fault::ChunkExtension),
        ("1; a\r\n", Fault::ChunkExtension),
        ("1;a=\r\n", Fault::ChunkExtension),
        ("1;a\n", Fault::ChunkExtension),
        ("1;a\rX", Fault::ChunkSize),
        ("1;a=\"b\r\n", Fault::ChunkExtension),
        ("1;a=\"b\"c\r\n", Fault::ChunkExtension),
        ("1\r\naX", Fault::ChunkEnd),
        ("1\r\na\n", Fault::ChunkEnd),
        ("1\r\na\rX", Fault::ChunkEnd),
        ("1\r\n\r\n\r\n", Fault::ChunkEnd),
        ("0\r\nContent-Length: 5\r\n\r\n", Fault::Trailer),
        ("0\r\nHost: b\r\n\r\n", Fault::Trailer),
        ("0\r\n a: b\r\n\r\n", Fault::Folded),
        ("0\r\na: b\n\r\n", Fault::BareLineFeed),
        ("0\r\na : b\r\n\r\n", Fault::SpaceBeforeColon),
        ("0\r\nX", Fault::NoColon),
    ] {
        let body = if body == "0\r\nX" { "0\r\nX\r\n" } else { body };
        let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert_eq!(refused(bytes.as_bytes()).fault, fault, "{body:?}");
        assert_one_reading(bytes.as_bytes());
    }
    let many = format!(
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n".repeat(40)
    );
    assert_eq!(refused(many.as_bytes()).fault, Fault::ChunkExtensions);
}

#[test]
fn limits_hold_to_the_byte() {
    let request = |target: usize, value: usize| {
        format!("GET /{} HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(target), "b".repeat(value)).into_bytes()
    };
    let line = LIMITS.request_line - "GET / HTTP/1.1\r\n".len();
    assert_eq!(feed([&*request(line, 1)]).2, None);
    assert_eq!(refused(&request(line + 1, 1)).fault, Fault::UriTooLong);
    let head = LIMITS.head - request(1, 0).len();
    assert_eq!(feed([&*request(1, head)]).2, None);
    let refusal = refused(&request(1, head + 1));
    assert_eq!((refusal.fault, refusal.fault.status().as_u16()), (Fault::HeadTooLarge, 431));
    assert!(refusal.asked.is_some());
    // Endless lines are not waited for.
    assert_eq!(refused(&[b'a'; LIMITS.request_line + 1]).fault, Fault::UriTooLong);
    assert_eq!(feed([&[b'a'; LIMITS.request_line][..]]).2, None);

    let headers = |number: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(number)).into_bytes();
    assert_eq!(feed([&*headers(LIMITS.headers)]).2, None);
    assert_eq!(refused(&headers(LIMITS.headers + 1)).fault, Fault::TooManyHeaders);
}

#[test]
fn what_people_send_gets_through_and_reads_the_same_behind() {
    for (bytes, reading) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], vec![(0, true)]),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", vec![(0, true)]),
        (b"GET /a?b=c&d[]={\"e\"} HTTP/1.1\r\nHost: a\r\n\r\n", vec![]),
        (b"GET /a?b=c&d[]={e}|'^` HTTP/1.1\r\nHost: a\r\n\r\n", vec![(0, true)]),
        (b"GET /\xc3\xbc HTTP/1.1\r\nHost: a\r\n\r\n", vec![(0, true)]),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", vec![(0, true)]),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", vec![(0, true)]),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", vec![(0, true)]),
        (b"M-SEARCH / HTTP/1.1\r\nHost: a\r\nX: \xe4\t b \r\nEmpty:\r\n\r\n", vec![(0, true)]),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n", vec![(3, true), (0, true)]),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length:3\t\r\n\r\nabc", vec![(3, true)]),
        (b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n", vec![(0, true), (0, true)]),
        (b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabc", vec![(3, false)]),
        (b"POST / HTTP/1.1\r\ntransfer-encoding:CHUNKED\r\n\r\n3\r\nabc\r\n00\r\n\r\nGET / HTTP/1.1\r\n\r\n", vec![(3, true), (0, true)]),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nA;b;c=d;e=\"f\\\"\"\r\n0123456789\r\n0\r\na: b\r\n\r\n", vec![(10, true)]),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c\r\n\r\n0\r\n\r\n", vec![(0, true)]),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", vec![(2, false)]),
        (b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nGET / HTTP/1.1\r\n\r\n", vec![(0, true), (0, true)]),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n", vec![(0, true), (0, true)]),
    ] {
        let (_, passed, refusal) = feed([bytes]);
        if reading.is_empty() {
            assert_eq!(refusal.map(|refusal| refusal.fault), Some(Fault::Target), "{}", bytes.escape_ascii());
            continue;
        }
        assert_eq!(refusal, None, "{}", bytes.escape_ascii());
        assert_eq!(passed.len(), bytes.len(), "{}", bytes.escape_ascii());
        assert_eq!(read_by_gate(&passed), reading, "{}", bytes.escape_ascii());
        assert_eq!(read_by_hyper(&passed).expect("hyper takes it"), reading, "{}", bytes.escape_ascii());
    }
}

#[test]
fn every_single_byte_in_every_place_is_refused_or_read_the_same() {
    for byte in 0..=u8::MAX {
        for request in [
            &b"G_T / HTTP/1.1\r\n\r\n"[..],
            b"GET /_ HTTP/1.1\r\n\r\n",
            b"GET /?_ HTTP/1.1\r\n\r\n",
            b"GET http://_/ HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1._\r\n\r\n",
            b"GET / HTTP/1.1_\r\n\r\n",
            b"GET / HTTP/1.1\r\nA_: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nA:_b\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\n_\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length:_1_\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding:_chunked_\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1_\r\nabcdefghijklmnopqrst\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;a=_\r\na\r\n0\r\n_\r\n",
        ] {
            let bytes: Vec<u8> = request.iter().map(|&b| if b == b'_' { byte } else { b }).collect();
            assert_one_reading(&bytes);
        }
    }
}

#[test]
fn a_head_is_held_back_until_it_is_whole() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut gate = Gate::new(LIMITS);
    assert_eq!(gate.place(b""), Place::Rest);
    assert_eq!(gate.judge(b"\r\n").pass, 0);
    assert_eq!(gate.place(b"\r\n"), Place::Rest, "an empty line begins nothing");
    for end in 1..head.len() {
        let held = [b"\r\n", &head[..end]].concat();
        assert_eq!(gate.judge(&held), Verdict { pass: 0, refusal: None });
        assert_eq!(gate.place(&held), Place::Head);
    }
    assert_eq!(gate.judge(&[b"\r\n", &head[..]].concat()).pass, head.len() + 2);
    assert_eq!((gate.requests(), gate.place(b"")), (1, Place::Rest));
}

#[test]
fn nothing_passes_between_the_question_for_another_protocol_and_its_answer() {
    let asks = b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for switched in [true, false] {
        let mut gate = Gate::new(LIMITS);
        let bytes = [&asks[..], b"\x81\x05hello"].concat();
        assert_eq!(gate.judge(&bytes), Verdict { pass: asks.len(), refusal: None });
        assert_eq!(gate.judge(b"\x81\x05hello"), Verdict { pass: 0, refusal: None });
        gate.answered(switched);
        let verdict = gate.judge(b"\x81\x05hello");
        if switched {
            assert_eq!(verdict, Verdict { pass: 7, refusal: None });
        } else {
            assert_eq!(verdict.refusal.expect("it is no request").fault, Fault::NotHttp);
        }
    }
    // An answer to anything else opens nothing.
    let mut gate = Gate::new(LIMITS);
    gate.judge(b"GET / HTTP/1.1\r\n\r\n");
    gate.answered(true);
    assert!(gate.judge(b"\x81").refusal.is_some());
}

#[test]
fn a_refusal_says_what_was_wrong_and_keeps_secrets() {
    let refusal = refused(b"GET /a?token=1 HTTP/1.1\r\nAuthorization: Basic \x01secret\r\n\r\n");
    assert_eq!(refusal.note(), "there is a control byte in the head: Authorization");
    let asked = refusal.asked.expect("the request line was in order");
    assert_eq!((&*asked.method, &*asked.path), ("GET", "/a"));
    assert_eq!(refused(b"GET /a?token=\x01 HTTP/1.1\r\n").note(), "there is a control byte in the head: GET /a");
    assert_eq!(refused(&with("Content-Length: 1, 1")).note(), "the Content-Length is malformed: 1, 1");
    let long = format!("{}: x", "é".repeat(500));
    assert!(refused(&with(&long)).excerpt.expect("the name").len() <= 64);
}

#[test]
fn what_gets_through_costs_no_allocation() {
    let bytes = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
        POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\na: b\r\n\r\n";
    let mut gate = Gate::new(LIMITS);
    let cost = allocation_counter::measure(|| {
        assert_eq!(gate.judge(bytes), Verdict { pass: bytes.len(), refusal: None });
    });
    assert_eq!((cost.count_total, gate.requests()), (0, 2));
}

#[test]
fn what_was_refused_stays_refused() {
    let mut gate = Gate::new(LIMITS);
    assert!(gate.judge(b"\0").refusal.is_some());
    assert_eq!(gate.judge(b"GET / HTTP/1.1\r\n\r\n").pass, 0);
    assert_eq!(gate.place(b""), Place::Refused);
}

/// One of these texts; the first, which is as it should be, the most often by far.
fn mostly(usual: &'static str, odd: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop_oneof![(12 * odd.len() as u32) => Just(usual), (odd.len() as u32) => prop::sample::select(odd)]
}

/// A header line that says how a message is framed, or something beside it; with a flaw at times.
fn framing_line() -> impl Strategy<Value = String> {
    let any = |names: &'static [&'static str]| prop::sample::select(names);
    let names_and_values = prop_oneof![
        (
            mostly(
                "Transfer-Encoding",
                &["TRANSFER-ENCODING", "Transfer_Encoding", "Transfer Encoding", "Transfer-Encoding\u{ff}"]
            ),
            any(&[
                "chunked",
                "chunked",
                "chunked",
                "chunked",
                "Chunked",
                "chunked, identity",
                "identity, chunked",
                "identity",
                "gzip",
                "chunked, chunked",
                "xchunked",
                "chunked;x",
                "\"chunked\"",
                "",
            ]),
        ),
        (
            mostly("Content-Length", &["content-length", "Content_Length", "Content-Length\0", "Content-Length\u{a0}"]),
            any(&["0", "5", "5", "6", "12", "44", "+5", "-1", "5, 5", "05", "0x5", "5 ", "18446744073709551616", ""]),
        ),
        (
            any(&["X", "Host", "Expect", "Connection", "Upgrade", ""]),
            any(&["a", "100-continue", "close", "Host", "websocket", "h2c"])
        ),
    ];
    let before = || mostly("", &[" ", "\t", "\0", "\r", "\n"]);
    let space = mostly(" ", &["", "\t", "  ", "\x0b", "\x0c", "\r\n ", "\u{a0}"]);
    let end = mostly("\r\n", &["\n", "\r", "\r\r\n", "\n\r\n", " \r\n", "\r\n ", "\0\r\n"]);
    (before(), names_and_values, before(), space, end)
        .prop_map(|(before, (name, value), after, space, end)| format!("{before}{name}{after}:{space}{value}{end}"))
}

/// Requests, one behind the other, of the kind that smuggle another past a reader.
fn gadget() -> impl Strategy<Value = Vec<u8>> {
    let line = mostly(
        "POST / HTTP/1.1\r\n",
        &[
            "GET / HTTP/1.1\r\n",
            "HEAD / HTTP/1.1\r\n",
            "POST / HTTP/1.0\r\n",
            "POST / HTTP/1.1\n",
            "POST http://a/ HTTP/1.1\r\n",
            "\r\nPOST / HTTP/1.1\r\n",
            "POST  / HTTP/1.1\r\n",
            "POST / HTTP/1.1 \r\n",
            "CONNECT a:1 HTTP/1.1\r\n",
            "POST /#x HTTP/1.1\r\n",
        ],
    );
    let body = prop_oneof![
        2 => Just("abcde"),
        4 => Just("0\r\n\r\n"),
        4 => Just("5\r\nabcde\r\n0\r\n\r\n"),
        4 => Just("5\r\nabcde\r\n1\r\na\r\n0\r\nX: y\r\n\r\n"),
        2 => Just("2c\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\nX: abcdef\r\n\r\n0\r\n\r\n"),
        4 => prop::sample::select(&[
            "5;a=b\r\nabcde\r\n0\r\n\r\n", "5;a\nabcde\r\n", "05\r\nabcde\r\n00\r\n\r\n", "5 \r\nabcde\r\n", "5\nabcde\n", "0x5\r\nabcde\r\n",
            "-5\r\n", "5\r\nabcdefg\r\n", "2\r\n\r\n\r\n0\r\n\r\n", "0\r\nTransfer-Encoding: chunked\r\n\r\n", "00000000000000000005\r\nabcde\r\n0\r\n\r\n",
            "0\n\n", "0\r\n\n", "5;\r\nabcde\r\n", "fffffffffffffffff\r\n", "5\r\nabc", "1;a=\"\r\n\"\r\na\r\n0\r\n\r\n",
        ][..]),
        2 => Just(""),
    ];
    let request = (line, prop::collection::vec(framing_line(), 0..3), mostly("\r\n", &["\n", "", "\r\n\r\n"]), body)
        .prop_map(|(line, headers, end, body)| format!("{line}Host: a\r\n{}{end}{body}", headers.concat()));
    let flaw = prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()));
    (prop::collection::vec(request, 1..4), flaw).prop_map(|(requests, flaw)| {
        let mut bytes = requests.concat().into_bytes();
        if let Some((index, byte)) = flaw {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_gadget_is_refused_or_read_the_same_behind_the_gate(bytes in gadget()) {
        assert_one_reading(&bytes);
    }

    #[test]
    fn pieces_are_judged_like_the_whole(bytes in gadget(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let (whole, passed, refusal) = feed([&bytes[..]]);
        let (_, in_pieces, why) = feed(cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]));
        prop_assert_eq!((&passed, &refusal), (&in_pieces, &why));
        let (single, by_bytes, why) = feed(bytes.chunks(1));
        prop_assert_eq!((&passed, &refusal), (&by_bytes, &why));
        prop_assert_eq!(whole.requests(), single.requests());
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
        assert_one_reading(&bytes);
    }
}

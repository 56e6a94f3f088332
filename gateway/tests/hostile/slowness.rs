//! Clients that take their time.

use std::io::{Read, Write};
use std::time::Duration;

use tokio::time::{Instant, advance, sleep};

use super::support::pki::Authority;
use super::*;

const HALF: &str = "GET /half HTTP/1.1\r\nHost: a\r\nX: ";

#[tokio::test(start_paused = true)]
async fn half_a_head_is_answered_with_408_when_its_time_is_over() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "timeouts = { header = \"10s\" }").await;
    let begin = Instant::now();
    let mut client = target.connect().await;
    client.put(HALF).await;
    assert_eq!(refused(&mut client).await, (408, "header_timeout".into()));
    assert!((10..12).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    let line = target.line().await;
    assert_eq!(
        (&line["cause"], &line["method"], &line["path"]),
        (&"header_timeout".into(), &"GET".into(), &"/half".into()),
        "{line}"
    );
    assert_eq!(counted(&target, 408, "header_timeout"), 1.0);
    assert!(!fake.is_wanted().await, "something went upstream");
}

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_buys_no_time() {
    let target = Logged::before(support::nobody().await, "timeouts = { header = \"10s\" }").await;
    let begin = Instant::now();
    let mut client = target.connect().await;
    client.put(HALF).await;
    let drip = async {
        while client.try_put("x").await.is_ok() && begin.elapsed() < Duration::from_secs(60) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    drip.await;
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!(target.line().await["status"], 408);
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_is_let_go_without_a_word() {
    let target = Logged::before(support::nobody().await, "timeouts = { header = \"10s\", idle = \"30s\" }").await;
    for said in ["", "\r\n"] {
        let begin = Instant::now();
        let mut client = target.connect().await;
        client.put(said).await;
        assert_eq!(client.rest().await, b"");
        assert_eq!(begin.elapsed().as_secs(), 30);
    }
    assert_eq!(target.lines().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_rests_after_an_answer_is_closed_too() {
    // The clock of idle connections was set when somebody asked for bytes, and after an answer from upstream nobody did.
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "timeouts = { idle = \"30s\" }").await;
    let mut client = target.connect().await;
    for _ in 0..3 {
        client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.take_until("\r\n\r\nok").await;
        // Less than the clock allows, so that it rings in vain.
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    let begin = Instant::now();
    assert_eq!(client.rest().await, b"");
    assert_eq!(begin.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn half_a_head_behind_a_request_waits_for_the_answer_and_is_timed_then() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "timeouts = { header = \"10s\", idle = \"30s\" }").await;
    let mut client = target.connect().await;
    client.put(format!("GET /first HTTP/1.1\r\nHost: a\r\n\r\n{HALF}")).await;
    let mut instance = fake.accept().await;
    instance.head().await;
    advance(Duration::from_secs(20)).await;
    instance.put(OK).await;
    client.take_until("\r\n\r\nok").await;
    assert_eq!(refused(&mut client).await, (408, "header_timeout".into()));
    assert_eq!(target.lines().await.len(), 2);
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_in_time_is_as_good_as_any() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "").await;
    let mut client = target.connect().await;
    let requests = "\r\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
                    POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n\
                    GET /c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for byte in requests.as_bytes() {
        client.put([*byte]).await;
        tokio::task::yield_now().await;
    }
    let answers = String::from_utf8(client.rest().await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3, "{answers}");
    assert_eq!(witness.heads().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_wakes_a_connection_with_half_a_head_is_timed_as_anybody() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "timeouts = { header = \"10s\", idle = \"60s\" }").await;
    let mut client = target.connect().await;
    for _ in 0..2 {
        client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.take_until("\r\n\r\nok").await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let begin = Instant::now();
    client.put(HALF).await;
    assert_eq!(refused(&mut client).await, (408, "header_timeout".into()));
    assert!((10..12).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn line_ends_between_requests_keep_no_connection_open() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "timeouts = { idle = \"30s\" }").await;
    let mut client = target.connect().await;
    client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.take_until("\r\n\r\nok").await;
    let begin = Instant::now();
    for byte in [b"\r", b"\n", b"\r", b"\n", b"\r"] {
        client.put(byte).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(client.rest().await, b"");
    assert!((30..32).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    // One too many is one too many, however long they take.
    let mut client = target.connect().await;
    for _ in 0..3 {
        client.put("\r\n").await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(refused(&mut client).await, (400, "bad_request".into()));
}

#[tokio::test(start_paused = true)]
async fn a_line_end_before_a_request_may_come_in_two_pieces_whenever_they_come() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "").await;
    let mut client = target.connect().await;
    for _ in 0..2 {
        // It rests before each piece.
        for piece in ["\r", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
            tokio::time::sleep(Duration::from_secs(5)).await;
            client.put(piece).await;
        }
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        client.take(2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_asked_for_nothing_yet_keeps_no_drain_waiting() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("test authority"));
    let certificate = authority.issue(&["a"]).write(directory.path(), "a");
    let secure = format!("tls = {{ certificates = [{certificate}] }}");
    let hello = "[[route]]\nmatch = { path = \"/\" }\nrespond = { body = \"hello\" }\n";
    for (what, settings, said) in [
        ("nothing in clear", "", &b""[..]),
        ("an empty line", "", b"\r\n"),
        ("no PROXY protocol header", "proxy_protocol = true", b""),
        ("half a PROXY protocol header", "proxy_protocol = true", b"PROXY TCP4"),
        ("no handshake", &secure, b""),
        ("half a handshake", &secure, b"\x16\x03\x01"),
        ("half a preface of HTTP/2", "", b"PRI * HTTP/2.0\r\n\r\n"),
    ] {
        let target = Logged::trusting(&["127.0.0.1"], &format!("{settings}\n{hello}")).await;
        let mut client = target.connect().await;
        client.put(said).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begin = Instant::now();
        target.server.drain();
        target.server.closed().await;
        assert!(begin.elapsed() < Duration::from_secs(3), "{what}: {:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn a_head_that_has_begun_when_a_drain_begins_is_served_and_is_the_last() {
    // The client saw the end of its connection and no answer, and the log knew nothing of it.
    for asked_before in [false, true] {
        let witness = Witness::new().await;
        let target = Logged::before(witness.address, "").await;
        let mut client = target.connect().await;
        if asked_before {
            client.put("GET /first HTTP/1.1\r\nHost: a\r\n\r\n").await;
            client.take_until("\r\n\r\nok").await;
        }
        client.put(HALF).await;
        sleep(Duration::from_millis(50)).await;
        target.server.drain();
        sleep(Duration::from_millis(50)).await;
        client.put("x\r\n\r\n").await;
        let answer = String::from_utf8(client.rest().await).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        assert!(head.starts_with("HTTP/1.1 200 ") && body == "ok", "{answer}");
        assert_eq!(header(head, "connection"), Some("close"), "{answer}");
        target.server.closed().await;
        let line = target.lines().await.pop().unwrap();
        assert_eq!((&line["path"], &line["status"]), (&"/half".into(), &200.into()), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_never_whole_keeps_no_drain_for_longer_than_its_own_time() {
    let target = Logged::before(support::nobody().await, "timeouts = { header = \"10s\" }").await;
    let (mut client, begin) = (target.connect().await, Instant::now());
    client.put(HALF).await;
    sleep(Duration::from_secs(4)).await;
    target.server.drain();
    assert_eq!(refused(&mut client).await, (408, "header_timeout".into()));
    assert!((10..12).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    drop(client);
    target.server.closed().await;
}

#[tokio::test]
async fn a_head_that_a_drain_cuts_is_answered_and_remembered() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "").await;
    let mut client = target.connect().await;
    client.put(HALF).await;
    sleep(Duration::from_millis(50)).await;
    target.server.drain();
    sleep(Duration::from_millis(50)).await;
    target.server.cut();
    assert_eq!(refused(&mut client).await, (503, "draining".into()));
    drop(client);
    target.server.closed().await;
    let line = target.line().await;
    assert_eq!(
        (&line["status"], &line["cause"], &line["path"]),
        (&503.into(), &"draining".into(), &"/half".into()),
        "{line}"
    );
    assert!(!fake.is_wanted().await, "something went upstream");
}

#[tokio::test]
async fn a_request_that_waits_in_the_queue_when_a_drain_begins_is_answered() {
    for settings in ["", "proxy_protocol = true"] {
        let route = "[[route]]\nmatch = { path = \"/\" }\nrespond = { body = \"hello\" }\n";
        let target = Logged::trusting(&["127.0.0.1"], &format!("{settings}\n{route}")).await;
        // The gateway shares this thread, and has had no turn since.
        let mut client = std::net::TcpStream::connect(target.address).unwrap();
        let header = if settings.is_empty() { "" } else { "PROXY TCP4 203.0.113.9 192.0.2.1 1 2\r\n" };
        client.write_all(format!("{header}GET / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        target.server.drain();
        target.server.closed().await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{settings}: {answer:?}");
    }
}

/// The longest that the file takes.
const LONGEST: &str = "365d";

#[tokio::test(start_paused = true)]
async fn the_longest_clocks_that_the_file_takes_are_clocks_as_any() {
    use support::speaker::*;
    let fake = Fake::new().await;
    let clock = |name: &&str| format!("{name} = \"{LONGEST}\"");
    let clocks = |names: &[&str]| names.iter().map(clock).collect::<Vec<_>>().join(", ");
    let target = Logged::with(&format!(
        "timeouts = {{ {} }}\n[service.orders]\ninstances = [\"{}\"]\ntimeouts = {{ {} }}\nconnections = {{ {} }}
         retry = {{ {} }}\n[[route]]\nservice = \"orders\"\ntimeouts = {{ {} }}\n",
        clocks(&["header", "idle", "body_idle", "handshake", "ping"]),
        fake.address,
        clocks(&["connect", "first_byte", "idle", "tunnel"]),
        clocks(&["wait", "keep"]),
        format_args!("attempts = 2, on = [\"connect\"], {}", clocks(&["backoff"])),
        clocks(&["attempt", "total"]),
    ))
    .await;
    let answer = async |expected: &str| {
        let mut instance = fake.accept().await;
        assert!(instance.head().await.starts_with(expected));
        if expected == "POST" {
            instance.take_until("whole").await;
        }
        instance.put("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\no").await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        instance.put("k").await;
    };
    // Half a head, half a body, a rest, and half an answer: each of them waits for a while.
    let mut client = target.connect().await;
    for piece in ["POST / HTTP/1.1\r\nHost: a\r\n", "Content-Length: 5\r\n\r\nwh", "ole"] {
        client.put(piece).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    answer("POST").await;
    client.take_until("ok").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    answer("GET").await;
    client.take_until("ok").await;

    let mut client = Speaker::with(target.address, &[(4, 0)]).await;
    let whole = get(1, "/");
    for piece in [&whole[..12], &whole[12..]] {
        tokio::time::sleep(Duration::from_secs(5)).await;
        client.put(piece).await;
    }
    answer("GET").await;
    client.put(numbered(WINDOW_UPDATE, 1, 2)).await;
    assert_eq!(client.until(DATA).await.payload[..1], b"o"[..]);
}

#[tokio::test(start_paused = true)]
async fn no_other_version_begins_in_the_middle_of_a_connection() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "").await;
    let mut client = target.connect().await;
    client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.take_until("\r\n\r\nok").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    client.put("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert_eq!(refused(&mut client).await.0, 505);
    assert_eq!(witness.heads().len(), 1);
}

#[tokio::test]
async fn a_client_that_reads_slowly_and_never_rests_is_no_client_that_does_not_read() {
    const STEP: usize = 100_000;
    let instance = Fake::new().await;
    let target = Logged::before(instance.address, "timeouts = { body_idle = \"500ms\" }").await;
    let mut client = target.connect().await;
    client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tokio::spawn(async move {
        let mut wire = instance.accept().await;
        wire.head().await;
        let _ = wire.try_put(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 64 << 20)).await;
        while wire.try_put(vec![b'x'; 1 << 20]).await.is_ok() {}
    });
    client.head().await;
    // A megabyte a second, and more of them than the kernel would keep for it: 4 MiB, of which it would have to take a third
    // before the kernel has room again.
    for step in 0..60 {
        sleep(Duration::from_millis(100)).await;
        assert!(client.try_take(STEP).await.is_some(), "cut after {step} steps");
    }
    // Who rests is cut.
    sleep(Duration::from_secs(2)).await;
    let line = target.line().await;
    assert_eq!(line["cause"], "idle_timeout", "{line}");
}

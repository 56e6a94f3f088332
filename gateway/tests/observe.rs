//! What is remembered of requests: the access log's lines and the numbers, driven from the file to the bytes.

mod support;
use support::Fake;
use support::logged::Logged;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_request_is_one_line_with_everything_in_it() {
    let fake = Fake::new().await;
    let gateway = Logged::before(fake.address, "").await;
    let mut client = gateway.connect().await;
    client.put("POST /cart?secret=1 HTTP/1.1\r\nhost: Shop.example:81\r\ncontent-length: 4\r\n\r\nbody").await;
    fake.accept().await.answer(OK).await;
    client.take_until("ok").await;

    let line = gateway.line().await;
    for (key, want) in [
        ("client", "127.0.0.1"),
        ("client_origin", "peer"),
        ("listener", "web"),
        ("method", "POST"),
        ("scheme", "http"),
        ("host", "Shop.example:81"),
        ("path", "/cart"),
        ("protocol", "HTTP/1.1"),
        ("route", "all"),
        ("service", "orders"),
        ("instance", fake.address.to_string().as_str()),
    ] {
        assert_eq!(line[key], want, "{key} in {line}");
    }
    for (key, want) in [("attempts", 1), ("status", 200), ("bytes_in", 4), ("bytes_out", 2)] {
        assert_eq!(line[key], want, "{key} in {line}");
    }
    assert!(line.get("cause").is_none() && line.get("tries").is_none(), "{line}");
    let time = |key: &str| line["ms"][key].as_f64().unwrap_or_else(|| panic!("no {key} in {line}"));
    assert!(time("total") >= time("first_byte") + time("body"), "{line}");
    assert!(time("first_byte") >= time("connect") && time("chain") >= 0.0, "{line}");
    assert_eq!(line["request_id"].as_str().unwrap().len(), 32);
    assert_eq!(line["time"].as_str().unwrap().len(), "2026-11-22T08:30:00.000Z".len());

    let labels = r#"listener="web",route="all",service="orders",method="POST",code="200",cause="""#;
    assert_eq!(gateway.number(&format!("portcullis_requests_total{{{labels}}}")), Some(1.0));
    let route = r#"route="all",service="orders""#;
    assert_eq!(gateway.number(&format!("portcullis_body_bytes_total{{{route},direction=\"in\"}}")), Some(4.0));
    assert_eq!(gateway.number(&format!("portcullis_request_duration_seconds_count{{{route}}}")), Some(1.0));
    assert_eq!(
        gateway.number(&format!("portcullis_request_duration_seconds_bucket{{le=\"+Inf\",{route}}}")),
        Some(1.0)
    );
    assert_eq!(gateway.number(r#"portcullis_attempts_total{service="orders",outcome="2xx"}"#), Some(1.0));
    assert_eq!(gateway.number("portcullis_requests_in_flight"), Some(0.0));
    assert!(gateway.number("process_resident_memory_bytes").unwrap() > 1e6);
    assert!(gateway.number("process_open_fds").unwrap() >= 3.0);
    assert!(gateway.gateway.metrics().ends_with("# EOF\n"));
}

#[tokio::test]
async fn whatever_a_request_contains_its_line_is_one_line() {
    let gateway = Logged::with("[[route]]\nmatch = { path = \"/only\" }\nrespond = { status = 200 }\n").await;
    let mut client = gateway.connect().await;
    client.put("GET /%0a{\"status\":200}%22,\u{e4}\u{2028}\\ HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.head().await;
    let line = gateway.line().await;
    // The note has the backslash as well.
    assert_eq!((&line["status"], &line["cause"]), (&400.into(), &"path_rejected".into()), "{line}");
    let text = std::fs::read_to_string(&gateway.log).unwrap();
    assert!(!text.trim_end().contains(['\n', '\r', '\u{2028}']), "{text}");
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_is_remembered_once() {
    let fake = Fake::new().await;
    let gateway = Logged::before(fake.address, "").await;
    let mut client = gateway.connect().await;
    client.put("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut wire = fake.accept().await;
    wire.answer("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    client.take_until("half").await;
    drop(client);
    assert_eq!(wire.rest().await, b"");
    let line = gateway.line().await;
    assert_eq!(
        (&line["status"], &line["cause"], &line["bytes_out"]),
        (&200.into(), &"client_closed".into(), &4.into())
    );
    assert_eq!(line["tries"][0]["cause"], "client_closed", "{line}");
    assert_eq!(gateway.number("portcullis_requests_in_flight"), Some(0.0));
}

#[tokio::test]
async fn an_attempt_that_the_routes_time_ended_is_not_put_down_to_the_client() {
    let fake = Fake::new().await;
    let gateway = Logged::with(&format!(
        "[service.orders]\ninstances = [\"{}\"]\n[[route]]\nmatch = {{ path = {{ prefix = \"/\" }} }}\n{}",
        fake.address, "chain = [{ type = \"timeout\", total = \"50ms\" }]\nservice = \"orders\"\n"
    ))
    .await;
    for (answer, status) in [("", 504), ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", 200)] {
        let before = gateway.lines().await.len();
        let mut client = gateway.connect().await;
        client.put("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        let mut wire = fake.accept().await;
        wire.answer(answer).await;
        client.rest().await;
        let line = gateway.first_lines(before + 1).await.pop().unwrap();
        assert_eq!((&line["status"], &line["cause"]), (&status.into(), &"route_timeout".into()), "{line}");
        assert_eq!(line["tries"][0]["cause"], "route_timeout", "{line}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_is_a_499() {
    let fake = Fake::new().await;
    let gateway = Logged::before(fake.address, "").await;
    let mut client = gateway.connect().await;
    client.put("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut wire = fake.accept().await;
    wire.head().await;
    assert_eq!(gateway.number("portcullis_requests_in_flight"), Some(1.0));
    drop(client);
    assert_eq!(wire.rest().await, b"");
    let line = gateway.line().await;
    assert_eq!((&line["status"], &line["cause"]), (&499.into(), &"client_closed".into()), "{line}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_says_why_and_breaks_for_the_client() {
    let fake = Fake::new().await;
    let gateway = Logged::before(fake.address, "").await;
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let mut client = gateway.connect().await;
        client.put("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut wire = fake.accept().await;
        wire.answer(answer).await;
        client.take_until("half").await;
        drop(wire);
        let rest = client.rest().await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "it must not end well");
    }
    for line in gateway.first_lines(2).await {
        assert_eq!((&line["status"], &line["cause"]), (&200.into(), &"reset_after_headers".into()), "{line}");
    }
}

#[tokio::test]
async fn every_try_is_listed_if_there_was_more_than_one() {
    let (gone, fake) = (support::nobody().await, Fake::new().await);
    let route = "[[route]]\nmatch = { path = \"/\" }\nservice = \"orders\"\n";
    let gateway =
        Logged::with(&format!("[service.orders]\ninstances = [\"{gone}\", \"{}\"]\n{route}", fake.address)).await;
    let address = fake.address.to_string();
    tokio::spawn(fake.answer(OK));
    for _ in 0..2 {
        let mut client = gateway.connect().await;
        client.put("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        client.take_until("ok").await;
    }
    let lines = gateway.first_lines(2).await;
    assert!(lines.iter().all(|line| line["instance"] == *address && line["status"] == 200), "{lines:?}");
    let line = lines.iter().find(|line| line["attempts"] == 2).unwrap();
    assert_eq!(line["tries"][0]["cause"], "connect_refused", "{line}");
    assert_eq!((&line["tries"][1]["status"], &line["tries"][1]["reused"]), (&200.into(), &false.into()), "{line}");
}

#[tokio::test]
async fn answers_without_a_body_are_complete() {
    let fake = Fake::new().await;
    let gateway = Logged::before(fake.address, "").await;
    let mut client = gateway.connect().await;
    client.put("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut wire = fake.accept().await;
    wire.answer("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
    assert_eq!(support::content_length(&client.head().await), 1000);
    // The connection goes on, so nobody took the next answer for the body.
    client.put("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    wire.answer("HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\netag: \"x\"\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 304 Not Modified\r\n"));
    client.put("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    wire.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 204 No Content\r\n"));
    for line in gateway.first_lines(3).await {
        assert!(line.get("cause").is_none() && line["bytes_out"] == 0, "{line}");
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_trailers_is_complete() {
    // The server does not ask for more after trailers: these answers were logged as `client_closed`, and the
    // connections to the instance were thrown away.
    let fake = Fake::new().await;
    let gateway = Logged::before(fake.address, "").await;
    let mut client = gateway.connect().await;
    let chunked =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 9\r\n\r\n";
    client.put("GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\n\r\n").await;
    let mut wire = fake.accept().await;
    wire.answer(chunked).await;
    client.take_until("x-sum: 9\r\n\r\n").await;
    client.put("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    wire.answer(chunked).await;
    client.take_until("0\r\n\r\n").await;
    for line in gateway.first_lines(2).await {
        assert!(line.get("cause").is_none() && line["bytes_out"] == 2, "{line}");
    }
}

#[tokio::test]
async fn methods_that_nobody_knows_share_a_label() {
    let gateway =
        Logged::with("[[route]]\nname = \"it\"\nmatch = { path = \"/\" }\nrespond = { status = 200 }\n").await;
    for method in ["BREW", "X-1", "PATCH"] {
        let mut client = gateway.connect().await;
        client.put(format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        client.head().await;
    }
    let methods: Vec<_> = gateway.first_lines(3).await.into_iter().map(|line| line["method"].clone()).collect();
    assert_eq!(methods, ["BREW", "X-1", "PATCH"]);
    let labels = |method| {
        format!(
            "portcullis_requests_total{{listener=\"web\",route=\"it\",service=\"\",method=\"{method}\",code=\"200\",cause=\"\"}}"
        )
    };
    assert_eq!(gateway.number(&labels("other")), Some(2.0));
    assert_eq!(gateway.number(&labels("PATCH")), Some(1.0));
}

#[tokio::test]
async fn what_a_client_names_in_connection_cannot_undo_what_we_add() {
    let fake = Fake::new().await;
    let gateway = Logged::before(fake.address, "").await;
    let mut client = gateway.connect().await;
    client.put("GET / HTTP/1.1\r\nhost: a\r\nconnection: x-forwarded-for, x-real-ip, close\r\nx-forwarded-for: 1.1.1.1\r\n\r\n").await;
    let head = fake.accept().await.answer(OK).await;
    assert_eq!(support::header(&head, "x-forwarded-for"), Some("127.0.0.1"), "{head}");
    assert_eq!(support::header(&head, "x-real-ip"), Some("127.0.0.1"), "{head}");
    assert_eq!(support::header(&head, "connection"), None, "{head}");
    client.take_until("ok").await;
}

#[tokio::test]
async fn every_number_and_every_key_is_documented() {
    let page = include_str!("../../docs/observing.md");
    let fake = Fake::new().await;
    let gateway = Logged::before(fake.address, "").await;
    let mut client = gateway.connect().await;
    client.put("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    fake.accept().await.answer(OK).await;
    client.take_until("ok").await;

    for key in gateway.line().await.as_object().unwrap().keys() {
        assert!(page.contains(&format!("`{key}`")), "the log's `{key}` is not documented");
    }
    for line in gateway.gateway.metrics().lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        assert!(page.contains(&format!("`{name}{suffix}`")), "{name}{suffix} is not documented");
    }
}

//! Other protocols over connections that began with HTTP: when a tunnel opens, what passes, and how it ends.

mod support;

use std::time::Duration;

use portcullis::Gateway;
use support::gateway::Running;
use support::logged::Logged;
use support::pki::{Authority, SecureInstance, TlsClient};
use support::{Fake, Wire, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

const ASKS: &str = "GET /chat HTTP/1.1\r\nHost: shop.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const AGREES: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A route to this instance, with a chain and a service's settings.
fn route(instance: &Fake, chain: &str, settings: &str) -> String {
    format!(
        "[service.chat]\ninstances = [\"{}\"]\n{settings}\n[[route]]\nname = \"chat\"\nmatch = {{ path = {{ prefix = \"/\" }} }}\nchain = [{chain}]\nservice = \"chat\"\n",
        instance.address
    )
}

/// Both ends of a tunnel that is open.
async fn tunnel(client: &mut Wire, instance: &Fake) -> Wire {
    client.put(ASKS).await;
    let mut wire = instance.accept().await;
    wire.head().await;
    wire.put(AGREES).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    wire
}

/// Whether nothing comes for a while.
async fn is_quiet(wire: &mut Wire) -> bool {
    timeout(Duration::from_millis(100), wire.take(1)).await.is_err()
}

#[tokio::test]
async fn a_tunnel_passes_every_byte_both_ways_also_those_right_behind_the_heads() {
    let instance = Fake::new().await;
    let gateway = Logged::before(instance.address, "").await;
    let mut client = gateway.connect().await;
    // What is not HTTP would be refused if anybody looked at it.
    client.put([ASKS.as_bytes(), b"\0early"].concat()).await;
    let mut wire = instance.accept().await;
    wire.head().await;
    assert!(is_quiet(&mut wire).await, "nothing passes before the instance has agreed");
    wire.put([AGREES.as_bytes(), b"\r\n\0hello"].concat()).await;

    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert_eq!((header(&head, "connection"), header(&head, "upgrade")), (Some("upgrade"), Some("WebSocket")));
    assert_eq!(header(&head, "sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(client.take(8).await, b"\r\n\0hello");
    assert_eq!(wire.take(6).await, b"\0early");

    let many: Vec<u8> = (0..3_000_000_u32).map(|number| (number / 7) as u8).collect();
    let (mut far, _) = wire.into_parts();
    let (mut near, _) = client.into_parts();
    let (mut far_read, mut far_write) = far.split();
    let (mut near_read, mut near_write) = near.split();
    let (mut up, mut down) = (vec![0; many.len()], vec![0; many.len()]);
    let (first, second, third, fourth) = tokio::join!(
        near_write.write_all(&many),
        far_write.write_all(&many),
        far_read.read_exact(&mut up),
        near_read.read_exact(&mut down)
    );
    first.and(second).and(third).and(fourth).unwrap();
    assert!(up == many && down == many);

    assert_eq!(gateway.number("portcullis_tunnels{service=\"orders\"}"), Some(1.0));
    assert_eq!(gateway.number("portcullis_requests_in_flight"), Some(1.0));
    assert!(gateway.lines().await.is_empty(), "the line is written when the tunnel ends");
    drop((near, far));
    let line = gateway.line().await;
    assert_eq!((&line["status"], &line["attempts"]), (&101.into(), &1.into()), "{line}");
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&3_000_006.into(), &3_000_008.into()), "{line}");
    assert!(line["ms"]["total"].as_f64().unwrap() >= 100.0, "{line}");
    assert_eq!(gateway.number("portcullis_tunnels{service=\"orders\"}"), Some(0.0));
    let closed = "portcullis_upstream_connections_closed_total{service=\"orders\",reason=\"tunnel\"}";
    assert_eq!(gateway.number(closed), Some(1.0));
}

#[tokio::test]
async fn either_side_may_end_first_and_the_other_goes_on() {
    let instance = Fake::new().await;
    let gateway = Logged::before(instance.address, "").await;
    for client_first in [true, false] {
        let mut client = gateway.connect().await;
        let mut wire = tunnel(&mut client, &instance).await;
        let (first, second) = if client_first { (&mut client, &mut wire) } else { (&mut wire, &mut client) };
        first.put("the last of mine").await;
        first.shut_down().await;
        assert_eq!(second.rest().await, b"the last of mine");
        second.put("and much of mine").await;
        assert_eq!(first.take(16).await, b"and much of mine");
        assert!(is_quiet(first).await, "the tunnel stays open");
        second.shut_down().await;
        assert_eq!(first.rest().await, b"");
    }
    for line in gateway.first_lines(2).await {
        assert_eq!(line.get("cause"), None, "both sides had their say: {line}");
    }
}

#[tokio::test]
async fn an_instance_is_asked_anew_and_middlewares_see_a_clean_request() {
    let instance = Fake::new().await;
    let gateway = Logged::with(&route(
        &instance,
        "{ type = \"headers\", request = { set = { x-seen = \"yes\" } }, response = { set = { x-answered = \"yes\" } } }",
        "",
    ))
    .await;
    let mut client = gateway.connect().await;
    let asks = ASKS.replace(
        "Connection: keep-alive, Upgrade",
        "TE: trailers\r\nKeep-Alive: 5\r\nX-Secret: 1\r\nConnection: upgrade, X-Secret, X-Forwarded-For, te",
    );
    client.put(asks).await;
    let mut wire = instance.accept().await;
    let head = wire.head().await;
    assert_eq!((header(&head, "connection"), header(&head, "upgrade")), (Some("upgrade"), Some("WebSocket")), "{head}");
    assert_eq!((header(&head, "x-seen"), header(&head, "x-forwarded-for")), (Some("yes"), Some("127.0.0.1")), "{head}");
    for gone in ["te", "keep-alive", "x-secret"] {
        assert_eq!(header(&head, gone), None, "{head}");
    }
    wire.put(AGREES.replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n")).await;
    let head = client.head().await;
    assert_eq!((header(&head, "x-answered"), header(&head, "content-length")), (Some("yes"), None), "{head}");
}

#[tokio::test]
async fn no_tunnel_opens_without_the_instances_word_for_this_very_protocol() {
    let instance = Fake::new().await;
    let gateway = Logged::before(instance.address, "").await;
    let early = "GET /admin HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
    ] {
        let mut client = gateway.connect().await;
        client.put(ASKS).await;
        let mut wire = instance.accept().await;
        wire.head().await;
        // Bytes that the instance would take for a request, if it still speaks HTTP.
        client.put("POST /hidden HTTP/1.1\r\n").await;
        wire.put(answer).await;
        assert!(client.head().await.starts_with("HTTP/1.1 502 "), "{answer}");
        assert_eq!(wire.rest().await, b"", "{answer}");
    }
    // An ordinary answer is one, and what follows is a request like any other: routed, and over another exchange.
    for (answer, told) in [
        (
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nno",
            Some("websocket"),
        ),
        ("HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nno", None),
    ] {
        let mut client = gateway.connect().await;
        client.put([ASKS, early].concat()).await;
        let mut wire = instance.accept().await;
        wire.head().await;
        assert!(is_quiet(&mut wire).await, "what was sent early waits");
        wire.put(answer).await;
        let head = client.head().await;
        let said = (header(&head, "upgrade"), header(&head, "connection"));
        assert_eq!(said, (told, told.map(|_| "upgrade")), "{head}");
        assert_eq!(client.take(2).await, b"no");
        let next = wire.head().await;
        assert!(next.starts_with("GET /admin "), "{next}");
        assert_eq!(header(&next, "x-forwarded-for"), Some("127.0.0.1"), "the gateway has routed it: {next}");
        wire.put("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 404 "));
    }
    let lines = gateway.first_lines(9).await;
    assert!(lines[..5].iter().all(|line| line["cause"] == "bad_upstream_response"), "{lines:?}");
}

#[tokio::test]
async fn what_is_no_request_behind_an_ordinary_answer_is_refused_like_any() {
    let instance = Fake::new().await;
    let gateway = Logged::before(instance.address, "").await;
    for (early, status) in [("BAD\r\n\r\n", 400), ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)] {
        for wait in [false, true] {
            let before = gateway.lines().await.len();
            let mut client = gateway.connect().await;
            client.put(if wait { ASKS.to_owned() } else { format!("{ASKS}{early}") }).await;
            let mut wire = instance.accept().await;
            wire.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno").await;
            client.head().await;
            client.take(2).await;
            if wait {
                client.put(early).await;
            }
            let rest = String::from_utf8(client.rest().await).unwrap();
            assert!(rest.starts_with(&format!("HTTP/1.1 {status} ")), "{early} {wait}: {rest:?}");
            assert_eq!(gateway.first_lines(before + 2).await[before + 1]["status"], status);
        }
    }
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_no_answer() {
    let instance = Fake::new().await;
    let gateway = Logged::before(instance.address, "").await;
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: TLS/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c, websocket\r\n\r\n",
    ] {
        let mut client = gateway.connect().await;
        client.put(request).await;
        let mut wire = instance.accept().await;
        let head = wire.head().await;
        for gone in ["connection", "upgrade", "http2-settings"] {
            assert_eq!(header(&head, gone), None, "{request}");
        }
        wire.put(AGREES).await;
        assert!(client.head().await.starts_with("HTTP/1.1 502 "), "{request}");
        assert_eq!(wire.rest().await, b"");
    }
}

#[tokio::test]
async fn what_cannot_become_a_tunnel_is_refused_and_goes_nowhere() {
    let instance = Fake::new().await;
    let gateway = Logged::before(instance.address, "").await;
    for (request, status) in [
        (ASKS.replace("Host:", "Content-Length: 3\r\nHost:") + "abc", 400),
        (ASKS.replace("Host:", "Transfer-Encoding: chunked\r\nHost:") + "0\r\n\r\n", 400),
        ("CONNECT inside:22 HTTP/1.1\r\nHost: inside:22\r\n\r\n".to_owned(), 405),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405),
    ] {
        let mut client = gateway.connect().await;
        client.put(&request).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}\n{head}");
    }
    let causes: Vec<_> = gateway.first_lines(4).await.into_iter().map(|line| line["cause"].clone()).collect();
    assert_eq!(causes, ["bad_request", "bad_request", "method_not_allowed", "method_not_allowed"]);
    assert!(!instance.is_wanted().await);
}

#[tokio::test]
async fn guards_decide_before_anybody_is_asked() {
    let instance = Fake::new().await;
    let gateway = Logged::with(&route(&instance, "{ type = \"ip_whitelist\", allow = [\"192.0.2.0/24\"] }", "")).await;
    let mut client = gateway.connect().await;
    client.put(ASKS).await;
    assert!(client.head().await.starts_with("HTTP/1.1 403 "));
    assert!(!instance.is_wanted().await);
}

#[tokio::test]
async fn no_middleware_ends_or_changes_a_tunnel() {
    let (instance, other) = (Fake::new().await, Fake::new().await);
    let chain = "\"request_id\", \"compress\", { type = \"timeout\", total = \"300ms\" }, { type = \"body_limit\", max = \"10B\" }, { type = \"mirror\", service = \"other\" }, { type = \"cors\", origins = [\"https://a.example\"] }";
    let text = route(&instance, chain, "timeouts = { first_byte = \"300ms\" }");
    let text = text
        .replace("service = \"chat\"\n", "service = \"chat\"\ntimeouts = { total = \"300ms\", attempt = \"300ms\" }\n");
    let gateway = Logged::with(&format!("[service.other]\ninstances = [\"{}\"]\n{text}", other.address)).await;
    let mut client = gateway.connect().await;
    client.put(ASKS.replace("Host:", "Accept-Encoding: gzip\r\nOrigin: https://a.example\r\nHost:")).await;
    let mut wire = instance.accept().await;
    wire.head().await;
    wire.put(AGREES.replace("\r\n\r\n", "\r\nContent-Type: text/plain\r\n\r\n")).await;
    assert_eq!(header(&client.head().await, "content-encoding"), None);
    sleep(Duration::from_millis(500)).await;
    client.put("more than ten bytes").await;
    assert_eq!(wire.take(19).await, b"more than ten bytes");
    wire.put("and as many back").await;
    assert_eq!(client.take(16).await, b"and as many back");
    assert!(!other.is_wanted().await, "a tunnel is not mirrored");
}

#[tokio::test]
async fn a_tunnel_that_rests_too_long_is_closed_and_one_that_moves_is_not() {
    let instance = Fake::new().await;
    let settings = "timeouts = { tunnel = \"400ms\", idle = \"100ms\" }";
    let gateway = Logged::with(&route(&instance, "", settings)).await;
    let mut client = gateway.connect().await;
    let mut wire = tunnel(&mut client, &instance).await;
    let begun = Instant::now();
    for turn in 0..8 {
        sleep(Duration::from_millis(100)).await;
        let (from, to) = if turn % 2 == 0 { (&mut client, &mut wire) } else { (&mut wire, &mut client) };
        from.put("x").await;
        assert_eq!(to.take(1).await, b"x");
    }
    assert!(begun.elapsed() > Duration::from_millis(700));
    assert_eq!((client.rest().await, wire.rest().await), (vec![], vec![]));
    let line = gateway.line().await;
    assert_eq!(
        (&line["cause"], &line["tries"][0]["cause"]),
        (&"idle_timeout".into(), &"idle_timeout".into()),
        "{line}"
    );

    // Once one side is done, the other has only as long as a body would have.
    let mut client = gateway.connect().await;
    let mut wire = tunnel(&mut client, &instance).await;
    client.shut_down().await;
    let begun = Instant::now();
    assert_eq!((wire.rest().await, client.rest().await), (vec![], vec![]));
    assert!(begun.elapsed() < Duration::from_millis(350), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_end_may_be_answered_however_long_a_tunnel_was_silent_before() {
    let instance = Fake::new().await;
    let settings = "timeouts = { tunnel = \"5s\", idle = \"500ms\" }";
    let gateway = Logged::with(&route(&instance, "", settings)).await;
    for client_ends in [true, false] {
        let mut client = gateway.connect().await;
        let mut wire = tunnel(&mut client, &instance).await;
        sleep(Duration::from_millis(700)).await;
        let (ends, answers) = if client_ends { (&mut client, &mut wire) } else { (&mut wire, &mut client) };
        ends.shut_down().await;
        assert_eq!(answers.rest().await, b"");
        sleep(Duration::from_millis(100)).await;
        answers.put("goodbye").await;
        answers.shut_down().await;
        assert_eq!(ends.rest().await, b"goodbye");
    }
    let lines = gateway.first_lines(2).await;
    assert!(lines.iter().all(|line| line.get("cause").is_none()), "{lines:?}");
}

#[tokio::test]
async fn whoever_breaks_off_breaks_the_other_end_at_once() {
    let instance = Fake::new().await;
    let gateway = Logged::before(instance.address, "").await;
    for client_breaks in [true, false] {
        let mut client = gateway.connect().await;
        let wire = tunnel(&mut client, &instance).await;
        let (breaks, mut hears) = if client_breaks { (client, wire) } else { (wire, client) };
        let (stream, _) = breaks.into_parts();
        stream.set_zero_linger().unwrap();
        drop(stream);
        let heard = timeout(Duration::from_millis(100), hears.rest()).await;
        assert_eq!(heard.expect("within 100 ms"), b"");
    }
    let causes: Vec<_> = gateway.first_lines(2).await.into_iter().map(|line| line["cause"].clone()).collect();
    assert_eq!(causes, ["client_closed", "reset_after_headers"]);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_opens_no_tunnel() {
    let instance = Fake::new().await;
    let gateway = Logged::before(instance.address, "").await;
    let mut client = gateway.connect().await;
    client.put(ASKS).await;
    let mut wire = instance.accept().await;
    wire.head().await;
    drop(client);
    assert_eq!(timeout(Duration::from_millis(100), wire.rest()).await.expect("within 100 ms"), b"");
    assert_eq!(gateway.line().await["cause"], "client_closed");
}

#[tokio::test]
async fn an_instance_that_cannot_be_reached_is_passed_over_and_one_that_was_asked_is_not() {
    let (first, second, down) = (Fake::new().await, Fake::new().await, support::nobody().await);
    let settings = "retry = { attempts = 3, on = [\"connect\", \"reset\", 503] }";
    let text = route(&first, "", settings);
    let two = |one, two| text.replace(&format!("[\"{}\"]", first.address), &format!("[\"{one}\", \"{two}\"]"));
    let gateway = Logged::with(&two(down, first.address)).await;
    for _ in 0..2 {
        let mut client = gateway.connect().await;
        let _wire = tunnel(&mut client, &first).await;
    }
    assert!(gateway.first_lines(2).await.iter().any(|line| line["attempts"] == 2));

    let gateway = Logged::with(&two(first.address, second.address)).await;
    let mut client = gateway.connect().await;
    client.put(ASKS).await;
    let mut wire = tokio::select! { wire = first.accept() => wire, wire = second.accept() => wire };
    wire.head().await;
    drop(wire);
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
    assert!(!first.is_wanted().await && !second.is_wanted().await);
}

#[tokio::test]
async fn a_tunnel_goes_on_while_its_route_its_service_and_its_listener_are_taken_away() {
    let instance = Fake::new().await;
    let gateway = Running::start(&route(&instance, "", "")).await;
    let mut client = Wire::connect(gateway.address).await;
    let mut wire = tunnel(&mut client, &instance).await;
    let (status, body) = gateway.reload("[[route]]\nmatch = { path = \"/\" }\nrespond = {}\n").await;
    assert_eq!(status, 200, "{body}");
    gateway.until_status("/chat", 404).await;
    client.put("still").await;
    assert_eq!(wire.take(5).await, b"still");

    let elsewhere = "access_log = { output = \"off\" }\n[listener.other]\naddress = \"127.0.0.2:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n";
    let (status, body) = gateway.reload_whole(elsewhere).await;
    assert_eq!(status, 200, "{body}");
    wire.put("there").await;
    assert_eq!(client.take(5).await, b"there");
    wire.shut_down().await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_tunnel_through_tls_on_both_sides_has_its_farewells() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("internal"));
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let certificate = authority.issue(&["a.example"]).write(directory.path(), "site");
    let instance = SecureInstance::agreeing(&authority.issue(&[]), AGREES).await;
    let settings = format!(
        "tls = {{ certificates = [{certificate}] }}\n[service.chat]\ninstances = [\"{instance}\"]\ntls = {{ ca = \"{}\" }}\nprotocol = \"auto\"\n",
        ca.display()
    );
    let gateway =
        Logged::with(&format!("{settings}[[route]]\nmatch = {{ path = {{ prefix = \"/\" }} }}\nservice = \"chat\"\n"))
            .await;
    let client = TlsClient::new(&authority).connect(gateway.address, "a.example").await.unwrap();
    let mut client = client.into_stream();
    client.write_all(ASKS.replace("shop.example", "a.example").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    let many: Vec<u8> = (0..500_000_u32).map(|number| (number / 3) as u8).collect();
    let (mut from, mut to) = tokio::io::split(&mut client);
    let sending = async {
        to.write_all(&many).await.unwrap();
        // TLS' own farewell, and then the connection's end.
        to.shutdown().await.unwrap();
    };
    let mut came = Vec::new();
    // An end without a farewell would be an error.
    let (_, read) = tokio::join!(sending, from.read_to_end(&mut came));
    read.unwrap();
    assert!(came == many);
    let line = gateway.line().await;
    assert_eq!((&line["bytes_in"], line.get("cause")), (&500_000.into(), None), "{line}");
}

#[tokio::test]
async fn a_tunnel_in_an_axum_application_is_one_too() {
    let instance = Fake::new().await;
    let text = format!(
        "access_log = {{ output = \"off\" }}\n[listener.web]\naddress = \"127.0.0.1:0\"\n{}",
        route(&instance, "", "")
    );
    let gateway = Gateway::from_toml("gateway.toml", &text, portcullis::plugins()).unwrap();
    let service = gateway.router("web").unwrap().into_make_service_with_connect_info::<std::net::SocketAddr>();
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(socket, service).await });
    let mut client = Wire::connect(address).await;
    let mut wire = tunnel(&mut client, &instance).await;
    client.put("there").await;
    assert_eq!(wire.take(5).await, b"there");
    wire.put("and back").await;
    assert_eq!(client.take(8).await, b"and back");
    client.shut_down().await;
    assert_eq!(wire.rest().await, b"");
}

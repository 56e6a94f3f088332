//! The PROXY protocol over real sockets: what load balancers tell the gateway, and what it tells instances.

mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::echo::{echo, got};
use support::gateway::{Running, routes_by_client};
use support::pki::{Authority, SecureInstance, TlsClient, replace};
use support::{Fake, Wire, header};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const LINE: &[u8] = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 8443\r\n";
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\xc0\0\x02\x01\x12\x67\x20\xfb";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n";

/// A gateway that takes headers from loopback, and a route to an instance that tells what it got.
async fn gateway(trusted: &str, keys: &str) -> Running {
    let routes = routes_by_client(echo("orders").await);
    let file = format!(
        r#"
        trusted_proxies = [{trusted}]
        access_log = {{ output = "off" }}
        [admin]
        address = "127.0.0.1:0"
        [listener.web]
        address = "127.0.0.1:0"
        proxy_protocol = true
        {keys}
        {routes}
        "#
    );
    Running::start_whole(&file).await
}

/// How many headers came to this end.
async fn counted(gateway: &Running, result: &str) -> u64 {
    let page = portcullis::admin::client::send(gateway.admin, "GET", "/metrics", &[], String::new()).await.unwrap().1;
    let line = format!("portcullis_proxy_protocol_headers_total{{result=\"{result}\"}} ");
    page.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

/// The head and the body of the next answer.
async fn answer(wire: &mut Wire) -> (String, String) {
    let head = wire.head().await;
    let body = wire.take(support::content_length(&head)).await;
    (head, String::from_utf8(body).unwrap())
}

/// Whom the instance was told of.
async fn client_of(wire: &mut Wire, request: &[u8]) -> String {
    wire.put(request).await;
    let (_, body) = answer(wire).await;
    let told: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}"));
    got(&told, "x-forwarded-for").join("; ")
}

/// A load balancer that passes connections on to the gateway, each after a header.
async fn balancer(gateway: SocketAddr, header: &'static [u8]) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = socket.accept().await.unwrap();
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(gateway).await.unwrap();
                stream.write_all(header).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut stream).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn the_client_is_whom_the_header_names_for_every_request_of_the_connection() {
    let gateway = gateway("\"127.0.0.1\"", "").await;
    for header in [LINE, BINARY] {
        let mut wire = Wire::connect(gateway.address).await;
        wire.put(header).await;
        for _ in 0..2 {
            assert_eq!(client_of(&mut wire, REQUEST).await, "203.0.113.9");
        }
        wire.put("GET /office HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(answer(&mut wire).await.1, "office");
        wire.put("GET /secure HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(
            support::header(&answer(&mut wire).await.0, "location"),
            Some("http://a:8443/there"),
            "the port is the one that the client connected to"
        );
    }
    assert_eq!(counted(&gateway, "relayed").await, 2);
}

#[tokio::test]
async fn what_the_named_client_wrote_itself_is_not_believed_unless_it_is_a_trusted_proxy_too() {
    let gateway = gateway("\"127.0.0.1\", \"10.0.0.0/8\"", "").await;
    let spoofed = b"GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 198.51.100.1\r\n\r\n";
    let mut wire = Wire::connect(gateway.address).await;
    wire.put(LINE).await;
    assert_eq!(client_of(&mut wire, spoofed).await, "203.0.113.9");
    let mut wire = Wire::connect(gateway.address).await;
    wire.put(b"PROXY TCP4 10.0.0.9 192.0.2.1 1 2\r\n").await;
    assert_eq!(client_of(&mut wire, spoofed).await, "198.51.100.1, 10.0.0.9");
    let mut wire = Wire::connect(gateway.address).await;
    wire.put(b"PROXY TCP6 ::ffff:203.0.113.9 ::ffff:192.0.2.1 1 2\r\n").await;
    wire.put("GET /office HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(answer(&mut wire).await.1, "office", "a mapped address is the IPv4 address it maps");
}

#[tokio::test]
async fn a_header_may_come_in_any_two_pieces() {
    let gateway = gateway("\"127.0.0.1\"", "").await;
    for header in [LINE, BINARY] {
        let whole = [header, REQUEST].concat();
        for cut in 1..=header.len() + 1 {
            let mut wire = Wire::connect(gateway.address).await;
            wire.put(&whole[..cut]).await;
            // The gateway runs here as well; it reads the piece before the next one comes.
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            assert_eq!(client_of(&mut wire, &whole[cut..]).await, "203.0.113.9", "cut after {cut}");
        }
    }
}

#[tokio::test]
async fn a_header_and_requests_in_one_piece_lose_nothing() {
    let gateway = gateway("\"127.0.0.1\"", "").await;
    let brought_along = [&BINARY[..14], &[0x0c, 0x0c], &BINARY[16..], b"\x04\x0b\xfd", &[0; 0xbfd]].concat();
    for header in [LINE, BINARY, &brought_along] {
        let mut wire = Wire::connect(gateway.address).await;
        wire.put([header, REQUEST, REQUEST].concat()).await;
        assert!(answer(&mut wire).await.0.starts_with("HTTP/1.1 200 "));
        assert_eq!(client_of(&mut wire, b"").await, "203.0.113.9");
    }
}

#[tokio::test]
async fn who_is_not_trusted_is_closed_unheard() {
    let gateway = gateway("\"10.0.0.0/8\"", "").await;
    for header in [LINE, BINARY, b""] {
        let mut wire = Wire::connect(gateway.address).await;
        let _ = wire.try_put([header, REQUEST].concat()).await;
        assert_eq!(wire.rest().await, b"");
    }
    assert_eq!(counted(&gateway, "untrusted").await, 3);
}

#[tokio::test]
async fn a_connection_without_a_good_header_is_closed_and_nothing_of_it_is_served() {
    let gateway = gateway("\"127.0.0.1\"", "").await;
    for (bytes, result) in [
        (REQUEST.to_vec(), "missing"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), "missing"),
        (b"\x16\x03\x01\x02\0\x01\0".to_vec(), "missing"),
        ([b" ", LINE, REQUEST].concat(), "missing"),
        ([b"PROXY TCP4 203.0.113.9 192.0.2.1 4711\r\n", REQUEST].concat(), "malformed"),
        ([b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\n", REQUEST].concat(), "malformed"),
        ([&BINARY[..13], b"\x31\0\xd8", &[0; 216], REQUEST].concat(), "malformed"),
        ([&b"PROXY UNKNOWN "[..], &[b'x'; 5000]].concat(), "malformed"),
    ] {
        let before = counted(&gateway, result).await;
        let mut wire = Wire::connect(gateway.address).await;
        let _ = wire.try_put(&bytes).await;
        assert_eq!(wire.rest().await, b"", "{}", bytes.escape_ascii());
        assert_eq!(counted(&gateway, result).await, before + 1, "{}", bytes.escape_ascii());
    }
    // Half of one, and then nothing more.
    let mut wire = Wire::connect(gateway.address).await;
    wire.put(&LINE[..20]).await;
    wire.shut_down().await;
    assert_eq!(wire.rest().await, b"");
    assert_eq!(counted(&gateway, "closed").await, 1);
}

#[tokio::test]
async fn a_second_header_is_a_request_like_any_other_and_no_good_one() {
    let gateway = gateway("\"127.0.0.1\"", "").await;
    for header in [LINE, BINARY] {
        let mut wire = Wire::connect(gateway.address).await;
        wire.put([LINE, header, REQUEST].concat()).await;
        assert!(answer(&mut wire).await.0.starts_with("HTTP/1.1 400 "), "{}", header.escape_ascii());
        assert_eq!(wire.rest().await, b"", "and what came behind it is not read");
    }
}

#[tokio::test]
async fn a_header_that_dawdles_is_not_waited_for() {
    let gateway = gateway("\"127.0.0.1\"", "timeouts = { header = \"200ms\" }").await;
    for begin in [&b""[..], &LINE[..1], &BINARY[..15]] {
        let mut wire = Wire::connect(gateway.address).await;
        wire.put(begin).await;
        let rest = tokio::time::timeout(Duration::from_secs(10), wire.rest()).await;
        assert_eq!(rest.expect("it is closed at its deadline"), b"");
    }
    // A piece now and then does not prolong it.
    let mut wire = Wire::connect(gateway.address).await;
    for byte in LINE {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if wire.try_put([*byte]).await.is_err() {
            break;
        }
    }
    assert_eq!(wire.rest().await, b"");
    assert_eq!(counted(&gateway, "timeout").await, 4);
}

#[tokio::test]
async fn a_balancer_that_speaks_for_itself_is_the_client() {
    let gateway = gateway("\"127.0.0.1\"", "").await;
    let local = [&BINARY[..12], b"\x20\0\0\0"].concat();
    let local_with_addresses = [&BINARY[..12], b"\x20", &BINARY[13..]].concat();
    for header in [local, local_with_addresses] {
        let mut wire = Wire::connect(gateway.address).await;
        wire.put(header).await;
        assert_eq!(client_of(&mut wire, REQUEST).await, "127.0.0.1");
    }
    assert_eq!(counted(&gateway, "local").await, 2);
}

#[tokio::test]
async fn whom_a_balancer_cannot_name_has_no_address_and_chooses_none() {
    // They were taken for the balancer itself, and so was what they had written into `X-Forwarded-For`.
    let gateway = gateway("\"127.0.0.1\"", "").await;
    let (no_family, with_addresses) =
        ([&BINARY[..12], b"\x21\0\0\0"].concat(), [&BINARY[..12], b"\x21\0", &BINARY[14..]].concat());
    for header in
        [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN 203.0.113.9 192.0.2.1 1 2\r\n", &no_family, &with_addresses]
    {
        let mut wire = Wire::connect(gateway.address).await;
        wire.put(header).await;
        for claim in ["x-forwarded-for: 203.0.113.9", "forwarded: for=203.0.113.9", "x-nothing: at-all"] {
            wire.put(format!("GET /office HTTP/1.1\r\nhost: a\r\n{claim}\r\n\r\n")).await;
            let (head, _) = answer(&mut wire).await;
            assert!(head.starts_with("HTTP/1.1 403 "), "{}, {claim}: {head}", header.escape_ascii());
            let request = format!("GET / HTTP/1.1\r\nhost: a\r\n{claim}\r\n\r\n");
            assert_eq!(client_of(&mut wire, request.as_bytes()).await, "unknown");
        }
    }
    assert_eq!((counted(&gateway, "unnamed").await, counted(&gateway, "local").await), (4, 0));
}

#[tokio::test]
async fn a_header_comes_before_tls() {
    let (directory, authority) = (TempDir::new().unwrap(), Authority::new("test authority"));
    let certificate = authority.issue(&["shop.example"]).write(directory.path(), "shop");
    let gateway = gateway("\"127.0.0.1\"", &format!("tls = {{ certificates = [{certificate}] }}")).await;
    let client = TlsClient::new(&authority);
    for header in [LINE, BINARY] {
        let balancer = balancer(gateway.address, header).await;
        let told = client.get(balancer, "shop.example", "/").await.unwrap();
        assert!(told.contains("[\"x-forwarded-for\",\"203.0.113.9\"]"), "{told}");
        assert!(told.contains("[\"x-forwarded-proto\",\"https\"]"), "{told}");
        let office = client.get(balancer, "shop.example", "/office").await.unwrap();
        assert!(office.ends_with("office"), "{office}");
    }
    assert!(client.get(gateway.address, "shop.example", "/").await.is_err(), "TLS without a header is refused");
}

#[tokio::test]
async fn curl_says_what_we_read() {
    let gateway = gateway("\"127.0.0.1\"", "").await;
    let url = format!("http://{}/", gateway.address);
    let curl = tokio::task::spawn_blocking(move || {
        Command::new("curl").args(["--silent", "--show-error", "--max-time", "10", "--haproxy-protocol", &url]).output()
    });
    let output = curl.await.unwrap().expect("curl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(got(&told, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(counted(&gateway, "relayed").await, 1);
}

/// A file with a service that wants to be told of the client.
fn outgoing(instance: SocketAddr, keys: &str) -> String {
    format!(
        r#"
        trusted_proxies = ["127.0.0.1"]
        access_log = {{ output = "off" }}
        [admin]
        address = "127.0.0.1:0"
        [listener.web]
        address = "127.0.0.1:0"
        [service.orders]
        instances = ["{instance}"]
        {keys}
        [[route]]
        service = "orders"
        "#
    )
}

#[tokio::test]
async fn an_instance_is_told_of_the_client_first_and_byte_by_byte() {
    let fake = Fake::new().await;
    for version in ["v1", "v2"] {
        let gateway = Running::start_whole(&outgoing(fake.address, &format!("proxy_protocol = \"{version}\""))).await;
        let mut client = Wire::connect(gateway.address).await;
        for named in [false, true] {
            let forwarded = if named { "x-forwarded-for: 203.0.113.9\r\n" } else { "" };
            client.put(format!("GET / HTTP/1.1\r\nhost: a\r\n{forwarded}\r\n")).await;
            let mut wire = fake.accept().await;
            let port = gateway.address.port();
            if version == "v1" {
                let line = wire.take_until("\r\n").await;
                let (ip, from) = if named { ("203.0.113.9", Some("0")) } else { ("127.0.0.1", None) };
                let words: Vec<_> = line.trim_end().split(' ').collect();
                assert_eq!(words[..4], ["PROXY", "TCP4", ip, "127.0.0.1"], "{line}");
                assert_eq!(words[5], port.to_string(), "{line}");
                assert!(from.map_or(words[4] != "0", |from| words[4] == from), "{line}");
            } else {
                let header = wire.take(28).await;
                let ip = if named { [203, 0, 113, 9] } else { [127, 0, 0, 1] };
                let fixed = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &ip, &[127, 0, 0, 1]].concat();
                assert_eq!(&header[..24], fixed, "{}", header.escape_ascii());
                assert_eq!(named, header[24..26] == [0, 0], "a forwarding header names no port");
                assert_eq!(header[26..], port.to_be_bytes());
            }
            assert!(wire.answer(OK).await.starts_with("GET / HTTP/1.1\r\n"));
            assert_eq!(answer(&mut client).await.1, "ok");
            // It is this client's alone.
            assert_eq!(wire.rest().await, b"");
        }
    }
}

#[tokio::test]
async fn connections_from_before_and_after_a_reload_are_not_confused() {
    let fake = Fake::new().await;
    let (plain, told) = (outgoing(fake.address, ""), outgoing(fake.address, "proxy_protocol = \"v1\""));
    let gateway = Running::start_whole(&plain).await;
    let mut client = Wire::connect(gateway.address).await;
    client.put(REQUEST).await;
    let mut before = fake.accept().await;
    assert!(before.answer(OK).await.starts_with("GET "));
    answer(&mut client).await;

    assert_eq!(gateway.reload_whole(&told).await.0, 200);
    client.put(REQUEST).await;
    let mut wire = fake.accept().await;
    assert!(wire.take_until("\r\n").await.starts_with("PROXY TCP4 127.0.0.1 "));
    wire.answer(OK).await;
    answer(&mut client).await;

    assert_eq!(gateway.reload_whole(&plain).await.0, 200);
    client.put(REQUEST).await;
    assert!(before.answer(OK).await.starts_with("GET "), "the one that is nobody's is used again");
    answer(&mut client).await;
}

#[tokio::test]
async fn a_header_goes_out_before_tls_and_with_every_try() {
    let (directory, authority) = (TempDir::new().unwrap(), Authority::new("internal"));
    let ca = directory.path().join("ca.pem");
    replace(&ca, &authority.pem);
    let secure = SecureInstance::start(&authority.issue(&["localhost"]), rustls::DEFAULT_VERSIONS, None).await;
    // In front of the instance, somebody who takes the header. The first time, nobody is there.
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let seen = tokio::spawn(async move {
        let mut lines = Vec::new();
        for _ in 0..2 {
            let mut wire = Wire::new(socket.accept().await.unwrap().0);
            lines.push(wire.take_until("\r\n").await);
            if lines.len() == 1 {
                continue;
            }
            let (mut stream, ahead) = wire.into_parts();
            let mut instance = TcpStream::connect(secure.address).await.unwrap();
            instance.write_all(&ahead).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut instance).await;
        }
        lines
    });
    let keys = format!("proxy_protocol = \"v1\"\ntls = {{ ca = \"{}\", server_name = \"localhost\" }}", ca.display());
    let gateway = Running::start_whole(&outgoing(address, &keys)).await;
    let (status, told) = gateway.get("/x").await;
    assert_eq!(status, 200, "{told}");
    assert!(told.starts_with("GET /x HTTP/1.1\r\n"), "{told}");
    let lines = seen.await.unwrap();
    assert!(lines.iter().all(|line| line.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ")), "{lines:?}");
    assert_eq!(header(&told, "x-forwarded-for"), Some("127.0.0.1"));
}

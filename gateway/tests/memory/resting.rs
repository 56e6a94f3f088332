//! Connections that nothing happens on.

use std::time::Duration;

use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use support::http2::Client;
use support::pki::{Authority, TlsClient};
use support::speaker::{END_HEADERS, END_STREAM, HEADERS, Speaker, field, frame, get};
use support::{Wire, content_length};

const MANY: usize = 100;

/// As many set up what all share, and stay as long as those that are counted.
const FIRST: usize = 5;

/// A connection is left by the parser when it has rested for a second.
const WHILE: Duration = Duration::from_millis(1300);

const ASKED: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Opens many connections that say this much, and leaves them alone for a while.
async fn open(address: SocketAddr, said: &'static str, count: usize) -> Vec<Wire> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let mut client = Wire::connect(address).await;
        client.put(said).await;
        if said == ASKED {
            let head = client.head().await;
            client.take(content_length(&head)).await;
        }
        clients.push(client);
    }
    sleep(WHILE).await;
    clients
}

#[test]
fn a_connection_that_rests_holds_less_than_12_kib_and_a_half_sent_head_less_than_24() {
    let gateway = Weighed::answering();
    let half = "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: somebody who does not go on";
    for (what, said, most) in [("idle", "", 12), ("half of a head", half, 24), ("after an answer", ASKED, 12)] {
        let _first = gateway.during(open(gateway.address, said, FIRST));
        let (clients, weight) = gateway.during(open(gateway.address, said, MANY));
        let each = each(&weight, clients.len());
        println!("{each} bytes for each connection, {what}");
        assert!(each <= most * KIB, "{each} bytes for each connection, {what}");
    }
}

#[test]
fn a_connection_with_tls_that_rests_holds_less_than_12_kib() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new("test authority"));
    let certificate = authority.issue(&["a.example"]).write(folder.path(), "a");
    let listener = format!("tls = {{ certificates = [{certificate}] }}");
    let gateway = Weighed::with(others(), &listener, "[[route]]\nrespond = {}\n");
    for (name, version) in [("1.2", &rustls::version::TLS12), ("1.3", &rustls::version::TLS13)] {
        let open = |http2: bool, count: usize| {
            let (client, address) = (TlsClient::speaking(&authority, version), gateway.address);
            let client = if http2 { client.offering(&["h2"]) } else { client };
            async move {
                let (mut one, mut many) = (Vec::new(), Vec::new());
                for _ in 0..count {
                    let mut connection = client.connect(address, "a.example").await.unwrap();
                    if http2 {
                        let shared = Client::secure(connection).await;
                        shared.get("https://a.example/").await;
                        many.push(shared);
                    } else {
                        connection.get("a.example", "/").await.unwrap();
                        one.push(connection);
                    }
                }
                sleep(WHILE).await;
                (one, many)
            }
        };
        for (what, http2, most) in [("HTTP/1.1", false, 12), ("HTTP/2", true, 20 + H2)] {
            let _first = gateway.during(open(http2, FIRST));
            let (_clients, weight) = gateway.during(open(http2, MANY));
            let each = each(&weight, MANY);
            println!("{each} bytes for each connection of {what} over TLS {name}");
            assert!(each <= most * KIB, "{each} bytes for each connection of {what} over TLS {name}");
        }
    }
}

/// What h2 holds for a connection as long as it lasts, whatever it is told, in KiB: 16 to write frames into, 8 to read them
/// into, 4 to unpack headers into.
const H2: usize = 28;

#[test]
fn a_connection_of_http_2_that_rests_holds_less_than_12_kib_beside_h2s_buffers() {
    let gateway = Weighed::answering();
    let open = |requests: u32, count: usize| {
        let address = gateway.address;
        async move {
            let mut clients = Vec::with_capacity(count);
            for _ in 0..count {
                let mut client = Speaker::connect(address).await;
                for number in 0..requests {
                    client.put(get(2 * number + 1, "/")).await;
                    client.until(HEADERS).await;
                }
                clients.push(client);
            }
            sleep(WHILE).await;
            clients
        }
    };
    for requests in [1, 50] {
        let _first = gateway.during(open(requests, FIRST));
        let (clients, weight) = gateway.during(open(requests, MANY));
        let each = each(&weight, clients.len());
        println!("{each} bytes for each connection of HTTP/2 after {requests} requests");
        assert!(each <= (12 + H2) * KIB, "{each} bytes for each connection of HTTP/2 after {requests} requests");
    }
}

#[test]
fn a_tunnel_that_rests_holds_less_than_12_kib() {
    const TUNNELS: usize = 200;
    const ASKS: &str =
        "GET /chat HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
    const AGREES: &str =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello yourself";
    let (gateway, instance) = Weighed::before_an_instance("");
    gateway.others.spawn(async move {
        let mut wires = Vec::new();
        loop {
            let mut wire = instance.accept().await;
            wire.head().await;
            wire.put(AGREES).await;
            wire.take_until("hello").await;
            wires.push(wire);
        }
    });
    let open = |count: usize| {
        let address = gateway.address;
        async move {
            let mut clients = Vec::with_capacity(count);
            for _ in 0..count {
                let mut client = Wire::connect(address).await;
                client.put(ASKS).await;
                client.head().await;
                client.take_until("hello yourself").await;
                clients.push(client);
            }
            sleep(WHILE).await;
            clients
        }
    };
    let _first = gateway.during(open(FIRST));
    let (clients, weight) = gateway.during(open(TUNNELS));
    let each = each(&weight, clients.len());
    println!("{each} bytes for each of {TUNNELS} tunnels");
    assert!(each <= 12 * KIB, "{each} bytes for each tunnel");
}

#[test]
fn what_a_client_of_http_2_has_kept_in_its_header_table_is_bounded_and_gone_with_it() {
    const REQUESTS: u32 = 400;
    const MOST: usize = MIB;
    let gateway = Weighed::answering();
    // Each has its path kept, which the table counts as 38 bytes, and brings as much of other things as a read takes.
    let asks = |number: u32| {
        let block =
            [&[0x82, 0x86, 0x44, 1, b'/'][..], &field(b":authority", b"a"), &field(b"x", &[b'y'; 8000])].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, block)
    };
    let keep = |count: usize| {
        let address = gateway.address;
        async move {
            let mut clients = Vec::with_capacity(count);
            for _ in 0..count {
                let mut client = Speaker::connect(address).await;
                for number in 0..REQUESTS {
                    client.put(asks(number)).await;
                    assert_eq!(client.until(HEADERS).await.stream, 2 * number + 1);
                }
                clients.push(client);
            }
            sleep(WHILE).await;
            clients
        }
    };
    let _first = gateway.during(keep(1));
    let (clients, weight) = gateway.during(keep(3));
    let each = each(&weight, clients.len());
    println!("{each} bytes for each connection that has {REQUESTS} paths kept");
    assert!(each <= MOST, "{each} bytes for each connection");
    // Nobody else is the worse for it.
    let _others = gateway.during(open(gateway.address, ASKED, FIRST));
    let (others, weight) = gateway.during(open(gateway.address, ASKED, MANY));
    let one = self::each(&weight, others.len());
    assert!(one <= 12 * KIB, "{one} bytes for each connection beside them");
    let ((), weight) = gateway.during(async move {
        drop(clients);
        sleep(WHILE).await;
    });
    assert!(weight.bytes_current < 0, "{} bytes", weight.bytes_current);
    let given_back = usize::try_from(-weight.bytes_current).unwrap();
    assert!(given_back >= 3 * each / 10 * 9, "{given_back} of {}", 3 * each);
}

//! Many connections that nothing happens on, of each kind, and what is left once they are gone.

use super::slowness::as_many_as_allowed;
use super::*;
use support::speaker::{HEADERS, Speaker, get};

const ASKS: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const AGREES: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// A client of each kind, whose connection is to rest.
enum Resting {
    Asked(#[allow(dead_code, reason = "it is held open")] Wire),
    Tunnel(#[allow(dead_code, reason = "it is held open")] Wire),
    Shared(#[allow(dead_code, reason = "it is held open")] Speaker),
}

impl Resting {
    async fn open(kind: &str, gateway: &Child) -> Self {
        if kind == "HTTP/2" {
            let mut client = Speaker::connect(gateway.address).await;
            client.put(get(1, "/good")).await;
            client.until(HEADERS).await;
            return Self::Shared(client);
        }
        let mut client = Wire::connect(gateway.address).await;
        if kind == "tunnel" {
            client.put(ASKS).await;
            assert!(client.head().await.starts_with("HTTP/1.1 101 "));
            return Self::Tunnel(client);
        }
        client.put("GET /good HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.head().await;
        client.take(content_length(&head)).await;
        Self::Asked(client)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_of_each_kind_rest_in_little_memory_and_leave_nothing_behind() {
    let _turn = alone().await;
    let many = as_many_as_allowed(4 * scaled(1000)) / 4;
    let instance = Fake::new().await;
    let service = format!(
        "[service.chat]\ninstances = [\"{}\"]\nconnections = {{ open = 1000000 }}\n\
         [[route]]\nmatch = {{ path = \"/chat\" }}\nservice = \"chat\"\n",
        instance.address
    );
    let gateway = Child::start("limits = { connections = 1000000 }", &service).await;
    let others = tokio::spawn(async move {
        let mut wires = Vec::new();
        loop {
            let mut wire = instance.accept().await;
            wire.answer_head(AGREES).await;
            wires.push(wire);
        }
    });
    let descriptors = gateway.descriptors();
    let mut clients = Vec::new();
    // What the system gives is whole pages, and what is free between them stays; so these are not the bytes that
    // connections hold, which are counted elsewhere.
    for (kind, most) in [("HTTP/1.1", 16), ("tunnel", 32), ("HTTP/2", 64)] {
        let before = gateway.resident();
        for _ in 0..many {
            clients.push(Resting::open(kind, &gateway).await);
        }
        // A parser leaves a connection that has rested for a second.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let each = gateway.resident().saturating_sub(before) / many;
        println!("{each} bytes resident for each of {many} that rest: {kind}");
        assert!(each <= most << 10, "{each} bytes for each: {kind}");
    }
    assert_eq!(gateway.number("portcullis_tunnels", "").await, many as f64);
    assert!(gateway.descriptors() >= descriptors + 4 * many, "each has its own, and a tunnel two");

    // A tunnel is over when both sides are.
    others.abort();
    drop(clients);
    until("their descriptors are closed", Duration::from_secs(20), async || gateway.descriptors() <= descriptors + 8)
        .await;
    assert_eq!(gateway.number("portcullis_tunnels", "").await, 0.0);
    assert_eq!(gateway.connections().await, 0.0);
}

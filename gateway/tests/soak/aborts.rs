//! Clients that go away, at every stage of an exchange.

use socket2::SockRef;
use tokio::net::TcpStream;

use super::*;

/// How far each gets before it goes.
const STAGES: [&str; 6] = [
    "",
    "GET /half HTTP/1.1\r\nHost: a\r\nX: ",
    "GET /good HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /slow HTTP/1.1\r\nHost: a\r\ncontent-length: 100000\r\n\r\nhalf of a body",
    "GET /long HTTP/1.1\r\nHost: a\r\n\r\n",
];

/// Answers `/slow` after a while and `/long` for as long as somebody reads.
async fn instance() -> std::net::SocketAddr {
    let fake = Fake::new().await;
    let address = fake.address;
    tokio::spawn(async move {
        loop {
            let mut wire = fake.accept().await;
            tokio::spawn(async move {
                while let Some(head) = wire.try_head().await {
                    if wire.try_take(content_length(&head)).await.is_none() {
                        return;
                    }
                    if head.starts_with("GET /long") {
                        let begin = "HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n";
                        let mut sent = wire.try_put(begin).await;
                        while sent.is_ok() {
                            sent = wire.try_put([b'x'; 4096]).await;
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if wire.try_put("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// So many clients come, get so far, and break their connections: every other one by a reset.
async fn wave(gateway: &Child, count: usize) {
    const AT_ONCE: usize = 50;
    let address = gateway.address;
    let clients = (0..AT_ONCE).map(|first| {
        tokio::spawn(async move {
            for number in (first..count).step_by(AT_ONCE) {
                let mut stream = TcpStream::connect(address).await.unwrap();
                if number % 2 == 0 {
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                }
                let said = STAGES[number % STAGES.len()].as_bytes();
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, said).await;
                // Some are gone before they are read, some in the middle of it.
                if number % 3 == 0 {
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(..8))).await;
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    until("nothing of them is left", Duration::from_secs(20), async || {
        gateway.number("portcullis_requests_in_flight", "").await == 0.0
            && gateway.connections().await <= 2.0
            && gateway.number("portcullis_upstream_connections", "state=\"active\"").await == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_thousand_who_went_away_nothing_is_left() {
    let _turn = alone().await;
    let rest = format!(
        "[service.orders]\ninstances = [\"{}\"]\n[[route]]\nmatch = {{ path = {{ prefix = \"/\" }} }}\nservice = \"orders\"\n",
        instance().await
    );
    let gateway = Child::start("", &rest).await;
    let good = GoodTraffic::start(&gateway, 2);
    // What the first ones set up stays for the next ones.
    let total = scaled(20_000);
    wave(&gateway, total / 4).await;
    let (resident, descriptors) = (gateway.resident(), held(&gateway).await);
    wave(&gateway, total / 4).await;
    wave(&gateway, total / 4).await;
    wave(&gateway, total / 4).await;
    let (now, held) = (gateway.resident(), held(&gateway).await);
    println!("{} KiB after the first quarter, {} KiB after all", resident >> 10, now >> 10);
    assert!(now <= resident + (8 << 20), "{} KiB became {} KiB", resident >> 10, now >> 10);
    assert!(held <= descriptors + 4, "{descriptors} descriptors became {held}");
    println!("{} good requests meanwhile", good.end().await);
}

/// Descriptors that are not idle connections to instances.
async fn held(gateway: &Child) -> usize {
    gateway.descriptors() - gateway.number("portcullis_upstream_connections", "state=\"idle\"").await as usize
}

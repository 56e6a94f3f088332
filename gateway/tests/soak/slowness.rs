//! Many who take their time: in front of a head, and behind an answer.

use super::*;

const HALF: &str = "GET /half HTTP/1.1\r\nHost: a\r\nX: ";

/// Both ends of a connection are descriptors, each of its own process.
pub(crate) fn as_many_as_allowed(wanted: usize) -> usize {
    let limit = std::process::Command::new("sh").args(["-c", "ulimit -Hn"]).output().unwrap().stdout;
    let limit = String::from_utf8(limit).unwrap().trim().parse().unwrap_or(1 << 20);
    let pid = std::process::id().to_string();
    // Those of a process that runs are raised by a tool beside it.
    let raised = std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}")]).status();
    assert!(raised.unwrap().success());
    wanted.min(limit - 1000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_half_sent_heads_cost_little_and_disturb_nobody() {
    let _turn = alone().await;
    let many = as_many_as_allowed(scaled(10_000));
    let keys = "limits = { connections = 1000000 }\ntimeouts = { header = \"40s\" }";
    let gateway = Child::start(keys, "").await;
    let good = GoodTraffic::start(&gateway, 4);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (descriptors, before) = (gateway.descriptors(), gateway.resident());

    let mut clients = Vec::with_capacity(many);
    for _ in 0..many {
        let mut client = Wire::connect(gateway.address).await;
        client.put(HALF).await;
        clients.push(client);
    }
    until("all are accepted", Duration::from_secs(30), async || gateway.connections().await >= many as f64).await;
    let each = gateway.resident().saturating_sub(before) / many;
    println!("{each} bytes for each of {many} half-sent heads");
    // Without optimisation what waits is larger.
    let most = if cfg!(debug_assertions) { 28 << 10 } else { 24 << 10 };
    assert!(each <= most, "{each} bytes per half-sent head");

    // Those who wait cost nothing but their deadline.
    let processor = gateway.processor();
    let waiting = Instant::now();
    let mut told = 0;
    for mut client in clients {
        let rest = client.rest().await;
        assert!(rest.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&rest));
        told += 1;
    }
    assert_eq!(told, many);
    println!("{:?} of processor time in {:?}", gateway.processor() - processor, waiting.elapsed());
    until("their descriptors are closed", Duration::from_secs(10), async || gateway.descriptors() <= descriptors + 8)
        .await;
    let answered = good.end().await;
    println!("{answered} good requests meanwhile");
    assert!(answered > 100);
    assert_eq!(gateway.number("portcullis_requests_total", "cause=\"header_timeout\"").await, many as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_who_read_nothing_hold_back_their_instances_and_not_the_gateways_memory() {
    let _turn = alone().await;
    const READERS: usize = 200;
    let instance = Fake::new().await;
    let rest = format!(
        "[service.big]\ninstances = [\"{}\"]\n[[route]]\nmatch = {{ path = \"/big\" }}\nservice = \"big\"\n",
        instance.address
    );
    let gateway = Child::start("", &rest).await;
    let good = GoodTraffic::start(&gateway, 4);
    // Endless answers. How much of each was taken is told when its connection is over.
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut wire, ended) = (instance.accept().await, ended.clone());
            tokio::spawn(async move {
                wire.head().await;
                wire.put("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
                while wire.try_put(&chunk).await.is_ok() {}
                let _ = ended.send(());
            });
        }
    });
    let before = gateway.resident();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut reader = Wire::connect(gateway.address).await;
        reader.put("GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(reader.head().await.starts_with("HTTP/1.1 200 "));
        readers.push(reader);
    }
    // They are full once nothing moves any more.
    let mut last = usize::MAX;
    until("it comes to rest", Duration::from_secs(30), async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        std::mem::replace(&mut last, gateway.resident() >> 20) == last
    })
    .await;
    let each = gateway.resident().saturating_sub(before) / READERS;
    println!("{each} bytes for each of {READERS} who read nothing");
    // What hyper reads ahead on one side and holds back on the other; all of it is bounded.
    assert!(each <= 512 << 10, "{each} bytes per reader");
    assert_eq!(gateway.number("portcullis_requests_in_flight", "").await, READERS as f64);

    let left = Instant::now();
    drop(readers);
    for _ in 0..READERS {
        tokio::time::timeout(Duration::from_secs(10), ends.recv()).await.expect("the instance hears of it").unwrap();
    }
    println!("all attempts were cancelled after {:?}", left.elapsed());
    until("nothing is in flight", Duration::from_secs(10), async || {
        gateway.number("portcullis_requests_in_flight", "").await == 0.0
            && gateway.number("portcullis_upstream_connections", "").await == 0.0
    })
    .await;
    assert!(good.end().await > 10);
}

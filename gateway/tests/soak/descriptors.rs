//! Descriptors run out.

use tokio::net::TcpStream;

use super::*;

const DESCRIPTORS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_it_waits_without_a_fuss_and_goes_on_within_a_second() {
    let _turn = alone().await;
    let gateway = Child::start_with(Some(DESCRIPTORS), "", "").await;
    let mut first = Wire::connect(gateway.address).await;
    let began = Instant::now();
    for _ in 0..3 {
        // The kernel takes connections that nobody accepts.
        let mut crowd = Vec::new();
        for _ in 0..DESCRIPTORS * 2 {
            crowd.push(TcpStream::connect(gateway.address).await.unwrap());
        }
        until("it has none left", Duration::from_secs(10), async || gateway.descriptors() >= DESCRIPTORS - 1).await;

        let processor = gateway.processor();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let spent = gateway.processor() - processor;
        println!("{spent:?} of processor time in 2 s without descriptors");
        assert!(spent < Duration::from_millis(400), "it spins: {spent:?}");
        // Who is in is served.
        first.put("GET /good HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(first.head().await.starts_with("HTTP/1.1 200 "));
        assert_eq!(first.take(4).await, b"good");

        // Who waits is served as soon as somebody leaves.
        let mut waiting = Wire::connect(gateway.address).await;
        waiting.put("GET /good HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let freed = Instant::now();
        drop(crowd);
        assert!(waiting.head().await.starts_with("HTTP/1.1 200 "));
        println!("it went on after {:?}", freed.elapsed());
        assert!(freed.elapsed() < Duration::from_secs(1), "after {:?}", freed.elapsed());

        let said = gateway.log().iter().filter(|line| line["target"] == "portcullis::server::accept").count() as u64;
        // Once in ten seconds, and the next ten may have begun right after the first line.
        assert!((1..=2 + began.elapsed().as_secs() / 10).contains(&said), "{said} lines: {:?}", gateway.log());
    }
}

//! Instances that close their connections at the worst moment, and that answer in pieces or not to the end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;

fn route(instance: std::net::SocketAddr) -> String {
    format!(
        "[service.orders]\ninstances = [\"{instance}\"]\n[[route]]\nmatch = {{ path = {{ prefix = \"/\" }} }}\nservice = \"orders\"\n"
    )
}

/// The number in a request's path.
fn number(head: &str) -> usize {
    head.split_whitespace().nth(1).unwrap().trim_start_matches('/').parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_closes_idle_connections_costs_no_get_and_sees_no_post_twice() {
    let _turn = alone().await;
    let fake = Fake::new().await;
    let gateway = Child::start("", &route(fake.address)).await;
    let seen: Arc<std::sync::Mutex<HashMap<usize, usize>>> = Arc::default();
    let posts = seen.clone();
    // Each connection is closed at some moment after an answer: at once, or when the next request may be on its way.
    tokio::spawn(async move {
        loop {
            let (mut wire, posts) = (fake.accept().await, posts.clone());
            tokio::spawn(async move {
                for turn in 0..1 + fastrand::usize(..4) {
                    // The first request it waits for, or no try would ever get an answer.
                    let patience = Duration::from_micros(if turn == 0 { 60_000_000 } else { fastrand::u64(..3000) });
                    let Ok(Some(head)) = tokio::time::timeout(patience, wire.try_head()).await else { return };
                    if head.starts_with("POST ") {
                        *posts.lock().unwrap().entry(number(&head)).or_default() += 1;
                        wire.take(content_length(&head)).await;
                    }
                    if wire.try_put("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let failed_posts = Arc::new(AtomicUsize::new(0));
    let total = scaled(4000);
    let clients = (0..8).map(|first| {
        let (address, failed_posts) = (gateway.address, failed_posts.clone());
        tokio::spawn(async move {
            let mut wire = Wire::connect(address).await;
            for number in (first..total).step_by(8) {
                let is_post = number / 8 % 4 == 3;
                wire.put(match is_post {
                    true => format!("POST /{number} HTTP/1.1\r\nHost: a\r\ncontent-length: 4\r\n\r\nbody"),
                    false => format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"),
                })
                .await;
                let head = wire.head().await;
                let body = wire.take(content_length(&head)).await;
                let good = head.starts_with("HTTP/1.1 200 ");
                assert!(good || is_post, "a GET got {head}{}", String::from_utf8_lossy(&body));
                failed_posts.fetch_add(usize::from(!good), Relaxed);
                if header(&head, "connection") == Some("close") {
                    wire = Wire::connect(address).await;
                }
                tokio::time::sleep(Duration::from_micros(fastrand::u64(..2000))).await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let seen = seen.lock().unwrap();
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "sent twice: {twice:?}");
    println!("{} posts arrived, {} failed", seen.len(), failed_posts.load(Relaxed));
    assert!(seen.len() + failed_posts.load(Relaxed) >= total / 4);
}

/// What an instance does with an answer.
fn mischief(number: usize) -> &'static str {
    ["whole", "pieces", "trickle", "cut", "cut chunks", "too much", "nothing"][number % 7]
}

/// Answers a request in its way; whether the connection is good for another one.
async fn answer(wire: &mut Wire, number: usize) -> bool {
    let body = format!("answer {number}");
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    match mischief(number) {
        "whole" => wire.put(&whole).await,
        "pieces" => {
            let cut = fastrand::usize(1..whole.len());
            wire.put(&whole[..cut]).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            wire.put(&whole[cut..]).await;
        }
        "trickle" => {
            for byte in whole.as_bytes() {
                wire.put([*byte]).await;
                tokio::task::yield_now().await;
            }
        }
        "cut" => wire.put(&whole[..whole.len() - 1]).await,
        "cut chunks" => wire.put(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n20\r\n{body}")).await,
        // Whoever comes next must not take it for an answer.
        "too much" => _ = wire.try_put(format!("{whole}HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong")).await,
        _ => {}
    }
    number % 7 < 3
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_gets_its_own_answer_or_a_visible_end_whatever_the_instance_does() {
    let _turn = alone().await;
    let fake = Fake::new().await;
    let gateway = Child::start("", &route(fake.address)).await;
    tokio::spawn(async move {
        loop {
            let mut wire = fake.accept().await;
            tokio::spawn(async move {
                while let Some(head) = wire.try_head().await {
                    if !answer(&mut wire, number(&head)).await {
                        return;
                    }
                }
            });
        }
    });
    let total = scaled(3500);
    let clients = (0..7).map(|first| {
        let address = gateway.address;
        tokio::spawn(async move {
            let mut wire = Wire::connect(address).await;
            // Each client sees all kinds.
            for number in (first * total / 7)..((first + 1) * total / 7) {
                wire.put(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
                let head = wire.try_head().await;
                if head.is_none() && mischief(number).starts_with("cut") {
                    // It was cut before the first of it had left.
                    wire = Wire::connect(address).await;
                    continue;
                }
                let head =
                    head.unwrap_or_else(|| panic!("{number}: no answer after {}", mischief(number.wrapping_sub(1))));
                let body = format!("answer {number}");
                match mischief(number) {
                    "nothing" => assert!(head.starts_with("HTTP/1.1 502 "), "{number}: {head}"),
                    _ => assert!(head.starts_with("HTTP/1.1 200 "), "{number}: {head}"),
                }
                match mischief(number) {
                    cut @ ("cut" | "cut chunks") => {
                        let rest = String::from_utf8(wire.rest().await).unwrap();
                        let looks_whole =
                            if cut == "cut" { rest.len() >= body.len() } else { rest.ends_with("0\r\n\r\n") };
                        assert!(!looks_whole, "{number}: {rest:?}");
                        wire = Wire::connect(address).await;
                    }
                    "nothing" => drop(wire.take(content_length(&head)).await),
                    _ => assert_eq!(wire.take(content_length(&head)).await, body.as_bytes(), "{number}"),
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    until("nothing is in flight", Duration::from_secs(10), async || {
        gateway.number("portcullis_requests_in_flight", "").await == 0.0
    })
    .await;
}

//! Clients that ask for much and read nothing of it.

use std::time::Duration;

use tokio::time::sleep;

use super::*;
use support::frames::Peer;
use support::speaker::{HEADERS, Speaker, WINDOW_UPDATE, get, numbered};
use support::{Fake, Wire};

const READERS: usize = 10;

/// Until nothing moves any more.
const FULL: Duration = Duration::from_millis(1500);

/// An instance with answers that do not end, in HTTP/1.1.
async fn endless(instance: Fake, framing: &'static str) {
    let piece = match framing {
        "transfer-encoding: chunked" => format!("10000\r\n{}\r\n", "x".repeat(0x10000)),
        _ => "x".repeat(0x10000),
    };
    let piece: bytes::Bytes = piece.into();
    loop {
        let (mut wire, piece) = (instance.accept().await, piece.clone());
        tokio::spawn(async move {
            wire.head().await;
            wire.put(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")).await;
            while wire.try_put(&piece).await.is_ok() {}
        });
    }
}

/// The same in HTTP/2.
async fn endless_http2(instance: Fake) {
    loop {
        let mut peer = Peer::new(instance.accept().await).await;
        tokio::spawn(async move {
            while let Some(mut stream) = peer.try_next().await {
                let mut answer = stream.respond.send_response(http::Response::new(()), false).unwrap();
                tokio::spawn(async move {
                    let piece = bytes::Bytes::from(vec![b'x'; 16 * KIB]);
                    loop {
                        answer.reserve_capacity(piece.len());
                        match std::future::poll_fn(|context| answer.poll_capacity(context)).await {
                            Some(Ok(room)) => answer.send_data(piece.slice(..room.min(piece.len())), false).unwrap(),
                            _ => return,
                        }
                    }
                });
            }
        });
    }
}

/// Asks over connections of HTTP/1.1.
async fn ask(address: SocketAddr) -> Vec<Wire> {
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut reader = Wire::connect(address).await;
        reader.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(reader.head().await.starts_with("HTTP/1.1 200 "));
        readers.push(reader);
    }
    sleep(FULL).await;
    readers
}

/// Asks over one connection of HTTP/2, as somebody who claims to have room for everything.
async fn ask_http2(address: SocketAddr) -> Speaker {
    let mut reader = Speaker::with(address, &[(4, i32::MAX as u32)]).await;
    reader.put(numbered(WINDOW_UPDATE, 0, i32::MAX as u32 - 65_535)).await;
    for number in 0..READERS as u32 {
        reader.put(get(2 * number + 1, "/")).await;
        reader.until(HEADERS).await;
    }
    sleep(FULL).await;
    reader
}

/// The most that the gateway has for each answer, over HTTP/1.1 and HTTP/2.
fn unread(gateway: &Weighed) -> [usize; 2] {
    let (_readers, over_http1) = gateway.during(ask(gateway.address));
    let (_reader, over_http2) = gateway.during(ask_http2(gateway.address));
    [over_http1, over_http2].map(|weight| weight.bytes_max as usize / READERS)
}

#[test]
fn an_answer_that_nobody_reads_takes_less_than_300_kib() {
    for framing in ["content-length: 1000000000000", "transfer-encoding: chunked"] {
        let (gateway, instance) = Weighed::before_an_instance("");
        gateway.others.spawn(endless(instance, framing));
        let each = unread(&gateway);
        println!("{each:?} bytes for each answer that nobody reads, over HTTP/1.1 and HTTP/2, {framing}");
        assert!(each.iter().all(|each| *each < 300 * KIB), "{each:?} bytes for each answer, {framing}");
    }
}

#[test]
fn an_answer_that_nobody_reads_takes_its_window_besides_where_the_instance_speaks_http_2() {
    let (gateway, instance) = Weighed::before_an_instance("protocol = \"h2c\"");
    gateway.others.spawn(endless_http2(instance));
    let each = unread(&gateway);
    println!(
        "{each:?} bytes for each answer that nobody reads, over HTTP/1.1 and HTTP/2, from an instance with HTTP/2"
    );
    assert!(each.iter().all(|each| *each < (256 + 300) * KIB), "{each:?} bytes for each answer");
}

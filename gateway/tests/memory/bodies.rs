//! Bodies of any length, both ways, past everybody who is slow.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use tokio::time::sleep;

use super::*;
use support::http2::Client;
use support::{Fake, Wire, content_length};

/// Much more than a body may take in memory.
const SIZE: usize = 64 * MIB;

const PIECE: usize = 64 * KIB;

/// Who takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slow {
    Nobody,
    Client,
    Instance,
}

/// Slow is who rests after every mebibyte, so that everything before it fills.
async fn rest(is_slow: bool, so_far: usize) {
    if is_slow && so_far.is_multiple_of(MIB) {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Reads a body, or sends one to who asks without.
async fn serve(instance: Fake, is_slow: bool) {
    loop {
        let mut wire = instance.accept().await;
        tokio::spawn(async move {
            while let Some(head) = wire.try_head().await {
                let length = content_length(&head);
                if length > 0 {
                    read(&mut wire, length, is_slow).await;
                    wire.put("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                } else {
                    wire.put(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n")).await;
                    write(&mut wire, is_slow).await;
                }
            }
        });
    }
}

async fn read(wire: &mut Wire, length: usize, is_slow: bool) {
    let mut come = 0;
    while come < length {
        let piece = wire.take(PIECE.min(length - come)).await;
        come += piece.len();
        rest(is_slow, come).await;
    }
}

async fn write(wire: &mut Wire, is_slow: bool) {
    let piece = vec![b'x'; PIECE];
    for sent in 0..SIZE / PIECE {
        wire.put(&piece).await;
        rest(is_slow, (sent + 1) * PIECE).await;
    }
}

async fn download(address: SocketAddr, http2: bool, is_slow: bool) {
    if !http2 {
        let mut client = Wire::connect(address).await;
        client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let length = content_length(&client.head().await);
        assert_eq!(length, SIZE);
        return read(&mut client, length, is_slow).await;
    }
    let client = Client::connect(address).await;
    let mut answer = client.send(Request::get("http://a/").body(Body::empty()).unwrap()).await.into_body();
    let (mut come, mut rested) = (0, 0);
    while let Some(frame) = answer.frame().await {
        come += frame.unwrap().into_data().unwrap().len();
        if come - rested >= MIB {
            rested = come;
            rest(is_slow, 0).await;
        }
    }
    assert_eq!(come, SIZE);
}

async fn upload(address: SocketAddr, http2: bool, is_slow: bool) {
    if !http2 {
        let mut client = Wire::connect(address).await;
        client.put(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n")).await;
        write(&mut client, is_slow).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        return;
    }
    let piece = Bytes::from(vec![b'x'; PIECE]);
    let pieces = futures_util::stream::unfold(0, move |sent| {
        let piece = piece.clone();
        async move {
            rest(is_slow, sent).await;
            (sent < SIZE).then_some((Ok::<_, std::io::Error>(piece), sent + PIECE))
        }
    });
    let client = Client::connect(address).await;
    let request = Request::post("http://a/").header("content-length", SIZE).body(Body::from_stream(pieces)).unwrap();
    assert_eq!(client.send(request).await.status(), 200);
}

#[test]
fn a_body_takes_less_than_a_mebibyte_whatever_its_length_and_whoever_is_slow() {
    for slow in [Slow::Nobody, Slow::Client, Slow::Instance] {
        let (gateway, instance) = Weighed::before_an_instance("");
        gateway.others.spawn(serve(instance, slow == Slow::Instance));
        let (address, is_slow) = (gateway.address, slow == Slow::Client);
        for (protocol, http2) in [("HTTP/1.1", false), ("HTTP/2", true)] {
            let ((), down) = gateway.during(download(address, http2, is_slow));
            let ((), up) = gateway.during(upload(address, http2, is_slow));
            let most = [down, up].map(|weight| weight.bytes_max as usize);
            println!("{most:?} bytes at most, down and up, over {protocol}; slow: {slow:?}");
            assert!(most.iter().all(|most| *most < MIB), "{most:?} over {protocol}; slow: {slow:?}");
        }
    }
}

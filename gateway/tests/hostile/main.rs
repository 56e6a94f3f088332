//! Clients and instances that mean harm, over real sockets and byte by byte.
//!
//! Every class of attack has a module. What must hold is the same in all of them: the right answer or a clean end, one
//! line in the log for each request that was refused, nothing upstream that was not routed, and memory that stays flat.

mod addresses;
mod answer_bodies;
mod answers;
mod early_answers;
mod floods;
mod framing;
mod http2;
mod http2_floods;
mod http2_slowness;
mod interim;
mod paths;
mod slowness;
mod smuggling;
mod trailers;
mod truncation;
mod unread;

#[path = "../../../middleware/tests/readers/mod.rs"]
mod readers;
#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use support::logged::Logged;
use support::{Fake, Wire, content_length, header};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Requests counted with this status and cause.
fn counted(target: &Logged, status: u16, cause: &str) -> f64 {
    let labels = format!("code=\"{status}\",cause=\"{cause}\"");
    let page = target.gateway.metrics();
    let rows = page.lines().filter(|line| line.starts_with("portcullis_requests_total{") && line.contains(&labels));
    rows.map(|row| row.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

/// An instance that takes whatever comes and keeps the heads of it.
struct Witness {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    async fn new() -> Self {
        let fake = Fake::new().await;
        let (address, heads) = (fake.address, Arc::new(Mutex::new(Vec::new())));
        let seen = heads.clone();
        tokio::spawn(async move {
            loop {
                let (mut wire, seen) = (fake.accept().await, seen.clone());
                tokio::spawn(async move {
                    while let Some(head) = wire.try_head().await {
                        if !body(&mut wire, &head).await {
                            return;
                        }
                        // Only what has come whole counts.
                        seen.lock().unwrap().push(head);
                        wire.put(OK).await;
                    }
                });
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// Reads the body behind a head to its end. `false` if it has none.
async fn body(wire: &mut Wire, head: &str) -> bool {
    if header(head, "transfer-encoding").is_none() {
        return wire.try_take(content_length(head)).await.is_some();
    }
    let mut last = [0; 5];
    while &last != b"0\r\n\r\n" {
        let Some(byte) = wire.try_take(1).await else { return false };
        last.rotate_left(1);
        last[4] = byte[0];
    }
    true
}

/// Reads the gateway's own answer to the end of the connection: its status and cause.
async fn refused(wire: &mut Wire) -> (u16, String) {
    let text = String::from_utf8(wire.rest().await).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    assert_eq!(header(head, "connection"), Some("close"), "{head}");
    assert_eq!(header(head, "content-type"), Some("application/problem+json"), "{head}");
    assert_eq!(content_length(head), body.len(), "one answer, and nothing behind it: {text}");
    let problem: Value = serde_json::from_str(body).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(problem["status"], status);
    (status, problem["cause"].as_str().unwrap().to_owned())
}

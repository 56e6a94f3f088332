//! What must hold for long and under many: a gateway in a process of its own, whose memory, descriptors and processor time
//! are looked at from outside.
//!
//! By default the whole takes less than three minutes on two cores, without optimisation. `PORTCULLIS_SOAK=10` asks for ten
//! times as much of what can be more than it is.

#![cfg(target_os = "linux")]

mod aborts;
mod child;
mod descriptors;
mod instances;
mod resting;
mod slowness;

#[path = "../support/mod.rs"]
mod support;

use std::sync::LazyLock;
use std::time::Duration;

use child::Child;
use support::{Fake, Wire, content_length, header};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// One after the other: what one does to the machine, another would measure.
static TURN: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);

async fn alone() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

/// So many, or as many times more as was asked for.
fn scaled(count: usize) -> usize {
    let factor = std::env::var("PORTCULLIS_SOAK").map_or(1, |factor| factor.parse().expect("a whole number"));
    count * factor
}

/// Waits until something is so.
async fn until(what: &str, limit: Duration, mut so: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !so().await {
        assert!(begin.elapsed() < limit, "{what}: not after {} s", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A client that asks again and again over connections of its own, for as long as a test does something bad.
struct GoodTraffic {
    stop: tokio::sync::watch::Sender<bool>,
    clients: Vec<tokio::task::JoinHandle<usize>>,
}

impl GoodTraffic {
    fn start(gateway: &Child, clients: usize) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let address = gateway.address;
        let client = |_| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut wire = Wire::connect(address).await;
                let mut answered = 0;
                while !*stopped.borrow() {
                    let asked = tokio::time::timeout(Duration::from_secs(20), async {
                        wire.put("GET /good HTTP/1.1\r\nHost: a\r\n\r\n").await;
                        let head = wire.head().await;
                        (wire.take(content_length(&head)).await, head)
                    });
                    let (body, head) = asked.await.expect("a good request is answered");
                    assert!(head.starts_with("HTTP/1.1 200 ") && body == b"good", "{head}");
                    answered += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                answered
            })
        };
        Self { stop, clients: (0..clients).map(client).collect() }
    }

    /// How many requests there were. All were answered.
    async fn end(self) -> usize {
        let _ = self.stop.send(true);
        let mut answered = 0;
        for client in self.clients {
            answered += client.await.expect("every good request is answered");
        }
        answered
    }
}

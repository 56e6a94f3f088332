//! What connections cost that do nothing, or not enough. Alone in its process, whose memory it looks at.

#![cfg(target_os = "linux")]

mod support;

use std::time::Duration;

use support::Wire;
use support::gateway::Running;
use support::speaker::{HEADERS, Speaker, get};

const MANY: usize = 300;

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let row = status.lines().find_map(|row| row.strip_prefix("VmRSS:")).unwrap();
    row.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// A request, and so an answer, and then nothing.
const ASKED: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Opens many connections that say this much.
async fn open(gateway: &Running, said: &str) -> Vec<Wire> {
    let mut clients = Vec::with_capacity(MANY);
    for _ in 0..MANY {
        let mut client = Wire::connect(gateway.address).await;
        client.put(said).await;
        clients.push(client);
    }
    // All of it was read when one that came later has its answer.
    assert_eq!(gateway.get("/").await.0, 200);
    clients
}

#[tokio::test]
async fn an_idle_connection_costs_12_kib_and_a_half_sent_head_24() {
    let gateway = Running::start("[[route]]\nmatch = { path = \"/\" }\nrespond = {}\n").await;
    // The client's end is in it as well.
    let each = |from: usize, to: usize| to.saturating_sub(from) / MANY;
    // What the first connections set up is not theirs alone.
    drop(open(&gateway, "GET").await);
    let before = resident();
    let idle = open(&gateway, "").await;
    let resting = resident();
    let half = open(&gateway, &format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(2000))).await;
    let halves = resident();
    // They hold what a request needs until they have rested for a while. The next ones find that memory free again.
    let (mut asked, mut rested, mut growth) = (Vec::new(), halves, 0);
    for _ in 0..4 {
        asked.extend(open(&gateway, ASKED).await);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        growth = each(rested, resident());
        rested = resident();
    }
    assert_eq!((idle.len(), half.len()), (MANY, MANY));
    println!("{} bytes per idle connection, {} per half-sent head", each(before, resting), each(resting, halves));
    assert!(each(before, resting) <= 12 << 10, "{} bytes per idle connection", each(before, resting));
    println!("{} bytes per connection that rests after an answer", growth);
    assert_eq!(asked.len(), 4 * MANY);
    assert!(growth <= 12 << 10, "{} bytes per connection that rests after an answer", growth);
    assert!(each(resting, halves) <= 24 << 10, "{} bytes per half-sent head", each(resting, halves));

    // HTTP/2 keeps its tables and buffers for as long as the connection is there.
    drop((idle, half, asked));
    let mut speakers = Vec::new();
    for _ in 0..4 {
        let begin = resident();
        for _ in 0..MANY {
            let mut client = Speaker::connect(gateway.address).await;
            client.put(get(1, "/")).await;
            client.until(HEADERS).await;
            speakers.push(client);
        }
        growth = each(begin, resident());
    }
    println!("{growth} bytes per idle connection of HTTP/2");
    assert!(growth <= 64 << 10, "{growth} bytes per idle connection of HTTP/2");
}

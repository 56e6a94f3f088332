//! Clients that send without end what costs them nothing. Each is sent away within two seconds, memory stays flat, and
//! whoever asks for something is served meanwhile.

use std::time::{Duration, Instant};

use super::support::http2::Client;
use super::support::speaker::*;
use super::*;

/// What is sent first, and what is sent then, again and again, by its number.
type Flood = (&'static str, fn() -> Vec<u8>, fn(u32) -> Vec<u8>);

fn open() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, block(&asks("POST", "/")))
}

fn nothing() -> Vec<u8> {
    Vec::new()
}

/// The stream of a number.
fn stream(number: u32) -> u32 {
    number * 2 + 1
}

const FLOODS: &[Flood] = &[
    ("rapid reset", nothing, |number| {
        [get(stream(number), "/"), numbered(RST_STREAM, stream(number), CANCEL)].concat()
    }),
    ("made you reset: a window of nothing", nothing, |number| {
        [get(stream(number), "/"), numbered(WINDOW_UPDATE, stream(number), 0)].concat()
    }),
    ("made you reset: a window too large", nothing, |number| {
        [get(stream(number), "/"), numbered(WINDOW_UPDATE, stream(number), (1 << 31) - 1)].concat()
    }),
    ("made you reset: DATA behind the end", nothing, |number| {
        [get(stream(number), "/"), frame(DATA, 0, stream(number), "more")].concat()
    }),
    ("made you reset: a body too long", nothing, |number| {
        let fields = [asks("POST", "/"), vec![("content-length", "1")]].concat();
        let head = frame(HEADERS, END_HEADERS, stream(number), block(&fields));
        [head, frame(DATA, 0, stream(number), "more")].concat()
    }),
    ("malformed header blocks", nothing, |number| {
        let fields = [asks("GET", "/"), vec![("connection", "close")]].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, stream(number), block(&fields))
    }),
    ("header lists too large", nothing, |number| {
        let value = "y".repeat(16 << 10);
        let fields = [asks("GET", "/"), vec![("x", &value)]].concat();
        let block = block(&fields);
        let (first, rest) = block.split_at(16_000);
        [frame(HEADERS, END_STREAM, stream(number), first), frame(CONTINUATION, END_HEADERS, stream(number), rest)]
            .concat()
    }),
    (
        "CONTINUATION without end",
        || frame(HEADERS, 0, 1, block(&asks("GET", "/"))),
        |_| frame(CONTINUATION, 0, 1, block(&[("x", "y")])),
    ),
    (
        "CONTINUATION with nothing in it",
        || frame(HEADERS, 0, 1, block(&asks("GET", "/"))),
        |_| frame(CONTINUATION, 0, 1, ""),
    ),
    (
        "a bomb of packed headers",
        || {
            // A large field is remembered, and then named by one byte again and again.
            let value = "y".repeat(3900);
            let field = [&[0x40, 1, b'x'][..], &[0x7f, 0xbd, 0x1d], value.as_bytes()].concat();
            frame(HEADERS, END_HEADERS | END_STREAM, 1, [block(&asks("GET", "/")), field].concat())
        },
        |number| {
            let block = [block(&asks("GET", "/")), vec![0xbe; 16_000]].concat();
            frame(HEADERS, END_HEADERS | END_STREAM, stream(number + 1), block)
        },
    ),
    ("SETTINGS", nothing, |_| frame(SETTINGS, 0, 0, [0, 3, 0, 0, 0, 100])),
    ("empty SETTINGS", nothing, |_| frame(SETTINGS, 0, 0, "")),
    ("PING", nothing, |_| frame(PING, 0, 0, [0; 8])),
    ("PING that nobody asked for", nothing, |_| frame(PING, ACK, 0, [0; 8])),
    ("PRIORITY", nothing, |_| frame(PRIORITY, 0, 1, [0, 0, 0, 3, 0])),
    ("empty DATA", open, |_| frame(DATA, 0, 1, "")),
    ("DATA that is all padding", open, |_| frame(DATA, 8, 1, [3, 0, 0, 0])),
    ("windows by the byte", nothing, |_| numbered(WINDOW_UPDATE, 0, 1)),
    ("windows without end", nothing, |_| numbered(WINDOW_UPDATE, 0, (1 << 31) - 1)),
    ("frames that nobody knows", nothing, |_| frame(0xbd, 0, 0, "?")),
];

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let row = status.lines().find_map(|row| row.strip_prefix("VmRSS:")).unwrap();
    row.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flood_ends_within_two_seconds_and_nobody_else_feels_it() {
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "").await;
    let good = Client::connect(target.address).await;
    for (what, begin, more) in FLOODS {
        let served = tokio::spawn({
            let good = good.clone();
            async move {
                let mut count = 0;
                loop {
                    assert_eq!(good.get("http://good.example/").await.text(), "ok");
                    count += 1;
                    if count % 20 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
        let before = resident();
        let begun = Instant::now();
        let client = Speaker::connect(target.address).await;
        let (stream, _) = client.wire.into_parts();
        let (mut read, mut write) = stream.into_split();
        let flooding = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let mut bytes = begin();
            for number in 0.. {
                bytes.extend(more(number));
                if bytes.len() > 8 << 10 {
                    if write.write_all(&bytes).await.is_err() {
                        return;
                    }
                    bytes.clear();
                }
            }
        });
        let reading = async {
            use tokio::io::AsyncReadExt;
            let mut came = vec![0; 64 << 10];
            while read.read(&mut came).await.unwrap_or(0) > 0 {}
        };
        let ended = tokio::time::timeout(Duration::from_secs(2), reading).await;
        let took = begun.elapsed();
        flooding.abort();
        let grown = resident().saturating_sub(before) >> 20;
        assert!(ended.is_ok(), "{what}: the connection is still open");
        assert!(grown < 64, "{what}: {grown} MiB more");
        assert!(!served.is_finished(), "{what}: good traffic failed: {:?}", served.await);
        served.abort();
        println!("{what}: closed after {took:?}, {grown} MiB more");
        let line = target.lines().await.into_iter().rev().find(|line| line["cause"] == "bad_request");
        assert!(line.is_some(), "{what}: no line tells of it");
    }
}

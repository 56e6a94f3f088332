//! What it costs to look at a head before the parser does: a usual one of 400 bytes, at most 300 ns and no allocation.
//!
//! `cargo bench -p portcullis --bench gate`

use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher, black_box};
use portcullis::server::strict::{Gate, Limits};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const LIMITS: Limits = Limits { request_line: 16 << 10, head: 32 << 10, headers: 100 };

const HEAD: &[u8] = b"GET /shop/items/4711?sort=price&page=2 HTTP/1.1\r\n\
    Host: shop.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\n\
    Connection: keep-alive\r\n\
    X-Request-Id: 0123456789\r\n\r\n";

fn main() {
    divan::main();
}

#[divan::bench]
fn a_usual_head(bencher: Bencher<'_, '_>) {
    let mut gate = Gate::new(LIMITS);
    bencher.counter(BytesCount::new(HEAD.len())).bench_local(|| gate.judge(black_box(HEAD)).pass);
}

/// A stride of a long body costs no more than a short one.
#[divan::bench(args = [1 << 10, 64 << 10])]
fn a_body(bencher: Bencher<'_, '_>, length: usize) {
    let bytes = vec![b'a'; length];
    let mut gate = Gate::new(LIMITS);
    gate.judge(format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", i64::MAX).as_bytes());
    bencher.counter(BytesCount::new(length)).bench_local(|| gate.judge(black_box(&bytes)).pass);
}

#[divan::bench]
fn chunks_of_1_kib(bencher: Bencher<'_, '_>) {
    let bytes = [&b"400\r\n"[..], &[b'a'; 1024], b"\r\n"].concat().repeat(16);
    let mut gate = Gate::new(LIMITS);
    gate.judge(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| gate.judge(black_box(&bytes)).pass);
}

//! Anything a client may send, in any pieces: what is let through does not depend on the pieces, every head in it ends
//! for another parser where it ends for us, and hyper finds the same requests in it.

use std::cell::{Cell, RefCell};

use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portcullis::server::strict::{Gate, Limits, Place, Refusal};
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::{Builder, Runtime};

const LIMITS: Limits = Limits { request_line: 256, head: 1024, headers: 16 };

/// A byte that says in what pieces the rest comes, and the bytes of a connection.
pub fn request_head(input: &[u8]) {
    let Some((stride, bytes)) = input.split_first() else { return };
    let whole = feed(bytes, bytes.len().max(1));
    assert_eq!(feed(bytes, 1), whole);
    assert_eq!(feed(bytes, usize::from(*stride).max(1)), whole);

    let (passed, refusal) = (&whole.passed, &whole.refusal);
    assert!(bytes.starts_with(passed));
    assert!(refusal.is_some() || bytes.len() - passed.len() <= LIMITS.head, "it neither waits for an end nor refuses");
    let found = read_by_hyper(passed);
    assert_eq!(found.refused, None, "{:?}", passed.escape_ascii().to_string());
    // It reads no further once a connection is to be closed, or was asked for another protocol.
    let may_end = |word: &[u8]| passed.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    if [&b"close"[..], b"HTTP/1.0", b"upgrade", b"CONNECT"].iter().any(|word| may_end(word)) {
        assert!(found.requests <= whole.requests, "{found:?} {whole:?}");
    } else {
        assert_eq!(
            (found.requests, found.torn),
            (whole.requests, whole.torn),
            "{:?}",
            passed.escape_ascii().to_string()
        );
    }
}

/// What is let through, why not all of it, how many requests that is, and whether the last one lacks something.
#[derive(Debug, PartialEq)]
struct Fed {
    passed: Vec<u8>,
    refusal: Option<Refusal>,
    requests: u64,
    torn: bool,
}

/// What becomes of bytes if so many come at a time.
fn feed(bytes: &[u8], stride: usize) -> Fed {
    let (mut gate, mut held, mut passed) = (Gate::new(LIMITS), Vec::new(), Vec::new());
    for piece in bytes.chunks(stride) {
        held.extend_from_slice(piece);
        loop {
            let (before, verdict) = (gate.requests(), gate.judge(&held));
            if stride == 1 && gate.requests() > before {
                let mut headers = [httparse::EMPTY_HEADER; 16];
                let read = httparse::Request::new(&mut headers).parse(&held).expect("the other parser takes it");
                assert_eq!(read, httparse::Status::Complete(held.len()));
            }
            passed.extend(held.drain(..verdict.pass));
            if verdict.refusal.is_some() {
                let place = gate.place(&held);
                assert!(matches!(place, Place::Refused | Place::Broken));
                let torn = place == Place::Broken;
                return Fed { passed, refusal: verdict.refusal, requests: gate.requests(), torn };
            }
            if gate.place(&held) != Place::Elsewhere {
                break;
            }
            // Nothing else is spoken here.
            gate.answered(false);
        }
    }
    let torn = gate.place(&held) == Place::Body;
    Fed { passed, refusal: None, requests: gate.requests(), torn }
}

/// How many requests hyper finds, whether it misses the end of one, and what it has against them.
#[derive(Debug)]
struct Found {
    requests: u64,
    torn: bool,
    refused: Option<String>,
}

fn read_by_hyper(bytes: &[u8]) -> Found {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(read_over_memory(bytes)))
}

async fn read_over_memory(bytes: &[u8]) -> Found {
    let (mut client, server) = tokio::io::duplex(bytes.len().max(1 << 14));
    client.write_all(bytes).await.expect("there is room");
    client.shutdown().await.expect("it closes");
    let (requests, torn) = (Cell::new(0), Cell::new(false));
    let service = service_fn(|request: http::Request<Incoming>| {
        requests.set(requests.get() + 1);
        // As to every request here, the answer to one for a tunnel is no.
        let status = if request.method() == http::Method::CONNECT { 405 } else { 200 };
        let torn = &torn;
        async move {
            torn.set(request.into_body().collect().await.is_err());
            http::Response::builder().status(status).body(Body::empty())
        }
    });
    let refused = RefCell::new(None);
    let connection = http1::Builder::new()
        .half_close(true)
        .max_headers(LIMITS.headers)
        .max_header_size(LIMITS.head + 64)
        .serve_connection(TokioIo::new(server), service);
    if let Err(error) = connection.await
        && error.is_parse()
    {
        refused.replace(Some(error.to_string()));
    }
    Found { requests: requests.get(), torn: torn.get(), refused: refused.into_inner() }
}

//! What a chain costs in allocations: a guard none, an around one, whatever stands before or after it. And what the
//! middlewares do that are made to cost little.

use futures_util::FutureExt;
use http::HeaderValue;
use http::header::HOST;
use portcullis_middleware::Exchange;
use portcullis_middleware::layer::{Running, fold, hop};
use portcullis_middleware::prelude::*;
use portcullis_middleware::testing::{BuiltPlugin, arrival, build, request};
use portcullis_middleware::xray::XRay;

struct Pass;

impl Guard for Pass {
    fn check(&self, _: &mut Request) -> Result<(), Rejection> {
        Ok(())
    }
}

impl Around for Pass {
    async fn handle(&self, request: Request, next: Next) -> Response {
        next.run(request).await
    }
}

fn guards(count: usize) -> Vec<RouteLayer> {
    (0..count).map(|_| RouteLayer::guard(Pass)).collect()
}

fn arounds(count: usize) -> Vec<RouteLayer> {
    (0..count).map(|_| RouteLayer::around(Pass)).collect()
}

/// The allocations of one request through these middlewares, beyond those of a chain without any.
fn allocations(layers: &[RouteLayer]) -> u64 {
    let count = |layers: &[RouteLayer]| {
        let chain = fold(layers.iter(), hop(|_| Running::ready(Response::default())));
        let ask = || {
            let mut request = request("GET", "/orders/7");
            // As every request has a header, none pays for the first.
            request.headers_mut().insert(HOST, HeaderValue::from_static("api.example.com"));
            Exchange::new(arrival("10.0.0.1"), &request).attach(&mut request);
            request
        };
        // The first requests pay for what a thread keeps: one for what it meets first, one for the counter of what a full
        // queue drops.
        for _ in 0..2 {
            chain.run(ask()).now_or_never().expect("nothing waits");
        }
        let request = ask();
        let measured = allocation_counter::measure(|| {
            let response = chain.run(request).now_or_never().expect("nothing waits");
            assert!(response.status().is_success());
        });
        measured.count_total
    };
    count(layers) - count(&[])
}

#[test]
fn a_guard_allocates_nothing() {
    for hops in 1..=16 {
        assert_eq!(allocations(&guards(hops)), 0, "{hops} guards");
    }
}

#[test]
fn an_around_allocates_once() {
    for hops in 1..=16 {
        assert_eq!(allocations(&arounds(hops)), hops as u64, "{hops} arounds");
    }
}

#[test]
fn guards_between_arounds_add_nothing() {
    let layers: Vec<_> = guards(8).into_iter().zip(arounds(8)).flat_map(|(guard, around)| [guard, around]).collect();
    assert_eq!(allocations(&layers), 8);
}

#[test]
fn an_ip_whitelist_lets_pass_without_allocating() {
    let toml = "allow = [\"10.0.0.0/8\", \"2001:db8::/32\"]\ndeny = [\"10.66.0.0/16\"]";
    let whitelist = build::<portcullis_middleware::ip_whitelist::IpWhitelist>(toml).expect("it builds");
    assert_eq!(allocations(&[whitelist.layer]), 0);
}

fn xray(settings: &str) -> BuiltPlugin {
    // The queue is full after the first record. One that grows would be measured with the memory it needs.
    build::<XRay>(&format!("queue.documents = 1\n{settings}")).expect("it builds")
}

#[test]
fn tracing_allocates_for_the_header_of_a_request_that_is_not_recorded() {
    let never = xray("sampling.mode = \"never\"");
    let rule = xray("sampling = { reservoir = 0, rate = 0.0 }");
    for tracing in [never, rule] {
        assert_eq!(allocations(&[tracing.layer]), 1 + 1, "the around, the header");
    }
}

#[test]
fn tracing_allocates_nothing_if_a_trusted_caller_does_not_want_it() {
    let tracing = xray("trust = \"always\"");
    let header = HeaderValue::from_static("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0");
    let came = RouteLayer::guard(Stamped(header));
    assert_eq!(allocations(&[came.clone(), tracing.layer]) - allocations(&[came]), 1, "the around");
}

/// Plays a caller that sent this trace header.
struct Stamped(HeaderValue);

impl Guard for Stamped {
    fn check(&self, request: &mut Request) -> Result<(), Rejection> {
        request.headers_mut().insert("x-amzn-trace-id", self.0.clone());
        Ok(())
    }
}

#[test]
fn a_recorded_request_allocates_three_times() {
    let tracing = xray("sampling.mode = \"always\"").layer;
    // The record, the headers of the request and its attempt in one, and the watched body.
    assert_eq!(allocations(std::slice::from_ref(&tracing)), 1 + 3);

    let proxied = allocations(&[tracing, RouteLayer::guard(Sent)]) - allocations(&[RouteLayer::guard(Sent)]);
    assert_eq!(proxied, 1 + 3, "an attempt adds nothing");
}

/// Plays a proxy that tries once.
struct Sent;

impl Guard for Sent {
    fn check(&self, request: &mut Request) -> Result<(), Rejection> {
        let exchange = Exchange::of(request).into_owned();
        let target = http::Uri::from_static("/orders/7");
        let number = exchange.begin_attempt("orders".into(), "10.0.0.1:80".into(), &target, request.headers_mut());
        exchange.note_attempt(number, |attempt| attempt.end = Some(attempt.started.elapsed()));
        Ok(())
    }
}

//! What a chain costs in allocations: a guard none, an around one, whatever stands before or after it. And what the
//! middlewares do that are made to cost little.

use futures_util::FutureExt;
use http::HeaderValue;
use http::header::HOST;
use portcullis_middleware::exchange::Arrival;
use portcullis_middleware::layer::{Running, fold, hop};
use portcullis_middleware::prelude::*;
use portcullis_middleware::testing::{BuiltPlugin, build, request};
use portcullis_middleware::xray::XRay;
use portcullis_middleware::{Client, Origin};

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
            let ip = [10, 0, 0, 1].into();
            let client = Client { ip, origin: Origin::Peer, peer: (ip, 4711).into(), peer_is_trusted: false };
            let arrival = Arrival {
                client: Some(client),
                listener: "web".into(),
                port: None,
                scheme: "http",
                tls: None,
                rehearsal: false,
            };
            Exchange::new(arrival, &request).attach(&mut request);
            request
        };
        // The first request pays for what a thread keeps.
        chain.run(ask()).now_or_never().expect("nothing waits");
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
fn tracing_allocates_little_for_a_request_that_is_not_recorded() {
    let tracing = xray("sampling.mode = \"never\"");
    // The around, the header, and the id for the log.
    assert_eq!(allocations(&[tracing.layer]), 3);
}

#[test]
fn a_recorded_request_allocates_for_its_record() {
    let tracing = xray("sampling.mode = \"always\"");
    // Besides: the URL, the record, the watched body, and what stamps attempts with the list it is in.
    assert_eq!(allocations(&[tracing.layer]), 8);
}

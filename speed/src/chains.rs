//! A chain of one kind of middleware, and an answer that is ready at its end.

use axum::body::Body;
use futures_util::FutureExt;
use http::StatusCode;
use http_body_util::BodyExt;
use portcullis_middleware::Running;
use portcullis_middleware::ip_whitelist::IpWhitelist;
use portcullis_middleware::layer::{fold, hop};
use portcullis_middleware::prelude::*;
use portcullis_middleware::request_id::RequestId;
use portcullis_middleware::testing::{arrival, build};
use portcullis_middleware::xray::XRay;

use crate::Meter;

/// A trace header that says no.
pub(crate) const UNSAMPLED: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0";

/// Does nothing, in every shape that a middleware can have.
struct Nothing;

impl Guard for Nothing {
    fn check(&self, _: &mut Request) -> Result<(), Rejection> {
        Ok(())
    }
}

impl Around for Nothing {
    async fn handle(&self, request: Request, next: Next) -> Response {
        next.run(request).await
    }
}

/// What every other case of this page has in it: the end of the chain, and the answer's way into the void.
pub(crate) fn empty(meter: &mut Meter<'_>) {
    run(meter, &[], None);
}

pub(crate) fn guards(meter: &mut Meter<'_>, hops: usize) {
    run(meter, &(0..hops).map(|_| RouteLayer::guard(Nothing)).collect::<Vec<_>>(), None);
}

pub(crate) fn arounds(meter: &mut Meter<'_>, hops: usize) {
    run(meter, &(0..hops).map(|_| RouteLayer::around(Nothing)).collect::<Vec<_>>(), None);
}

/// A list without any order, and the client is in its last network.
pub(crate) fn ip_whitelist(meter: &mut Meter<'_>, networks: usize) {
    let network = |number: usize| match number + 1 {
        last if last == networks => "\"203.0.113.0/24\"".to_owned(),
        number => format!("\"{}.{}.{}.0/25\"", 1 + number % 9, number / 256 % 256, number % 256),
    };
    let allow = (0..networks).map(network).collect::<Vec<_>>().join(", ");
    run(meter, &[layer::<IpWhitelist>(&format!("allow = [{allow}]"))], None);
}

pub(crate) fn request_id(meter: &mut Meter<'_>) {
    run(meter, &[layer::<RequestId>("")], None);
}

/// The queue is full after the first record, and nobody empties it: what leaves for the daemon is not the request's.
pub(crate) fn xray(meter: &mut Meter<'_>, settings: &str, trace: Option<&'static str>) {
    run(meter, &[layer::<XRay>(&format!("queue.documents = 1\n{settings}"))], trace);
}

fn layer<P: Plugin>(toml: &str) -> RouteLayer {
    build::<P>(toml).unwrap_or_else(|faults| panic!("{faults}")).layer
}

fn run(meter: &mut Meter<'_>, layers: &[RouteLayer], trace: Option<&'static str>) {
    let answer = hop(|mut request: Request| {
        // As the proxy does with one attempt.
        let exchange = Exchange::of(&request).into_owned();
        let target = request.uri().clone();
        exchange.begin_attempt("orders".into(), "10.0.0.1:80".into(), &target, request.headers_mut());
        exchange.note_attempt(1, |attempt| {
            attempt.status = Some(StatusCode::OK);
            attempt.end = Some(attempt.started.elapsed());
        });
        Running::ready(Response::new(Body::from("seven")))
    });
    let chain = fold(layers.iter(), answer);
    meter.count(
        || request(trace),
        |request| {
            let response = chain.run(request).now_or_never().expect("nothing waits");
            assert_eq!(response.status(), StatusCode::OK);
            response.into_body().collect().now_or_never().expect("nothing waits")
        },
    );
}

/// A request as the edge hands it on.
fn request(trace: Option<&'static str>) -> Request {
    let mut request = http::Request::get("/orders/7").header("host", "api.example.com").header("user-agent", "curl/8");
    if let Some(trace) = trace {
        request = request.header("x-amzn-trace-id", trace);
    }
    let mut request = request.body(Body::empty()).expect("a request");
    // The trace that it came with is believed.
    let mut arrival = arrival("203.0.113.9");
    arrival.client.as_mut().expect("it has a client").peer_is_trusted = true;
    Exchange::new(arrival, &request).attach(&mut request);
    request
}

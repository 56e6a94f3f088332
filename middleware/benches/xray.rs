//! What tracing costs a request, and what a document costs the task that sends it.
//!
//! `cargo bench -p portcullis-middleware --bench xray`. The figures to compare are differences to `bare`, which runs
//! the same chain with a middleware that does nothing.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use divan::{AllocProfiler, Bencher};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body_util::BodyExt;
use portcullis_middleware::layer::hop;
use portcullis_middleware::testing::{Setting, arrival};
use portcullis_middleware::xray::XRay;
use portcullis_middleware::xray::document::Datagrams;
use portcullis_middleware::xray::header::{self, Extras};
use portcullis_middleware::xray::ids::{SpanId, TraceId};
use portcullis_middleware::xray::record::{Call, Profile, Record, Span, Value};
use portcullis_middleware::xray::sampling::{LocalRule, Rate, Sampler};
use portcullis_middleware::{Around, Exchange, Next, Request, Response, RouteLayer, Running};
use tower::Layer;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const HEADER: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0";

// ---- parts

#[divan::bench]
fn read_a_header(bencher: Bencher) {
    let value = HeaderValue::from_static(HEADER);
    bencher.bench(|| header::read([black_box(&value)], |_| ()));
}

#[divan::bench]
fn decide_and_mint_and_write(bencher: Bencher) {
    let sampler = Sampler::Local(Arc::new(LocalRule::new(1, Rate::new(0.0).unwrap())));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as u32;
    bencher.bench(|| {
        let decision = sampler.decide(None, now, || fastrand::u64(..));
        header::upstream(TraceId::mint(now), None, decision.sampled, &Extras::default())
    });
}

#[divan::bench]
fn encode_two_kilobytes_with_three_subsegments(bencher: Bencher) {
    let (record, mut datagrams) = (record(), Datagrams::default());
    bencher.bench_local(move || datagrams.fill(black_box(&record), 65_507));
}

// ---- requests

/// Does nothing, in the shape that tracing has.
struct Nothing;

impl Around for Nothing {
    async fn handle(&self, request: Request, next: Next) -> Response {
        next.run(request).await
    }
}

/// A hop that plays the proxy with one attempt.
fn proxy() -> Next {
    hop(|mut request: Request| {
        let exchange = Exchange::of(&request).into_owned();
        exchange.begin_attempt(
            "orders".into(),
            "10.0.0.1:80".into(),
            &Uri::from_static("/orders/7"),
            request.headers_mut(),
        );
        exchange.note_attempt(1, |attempt| {
            attempt.status = Some(StatusCode::OK);
            attempt.end = Some(attempt.started.elapsed());
        });
        Running::ready(Response::new(Body::from("seven")))
    })
}

/// A request as the edge hands it on: its exchange is there.
fn request(trace: Option<&'static str>) -> Request {
    let mut request = http::Request::get("/orders/7").header("host", "api.example.com").header("user-agent", "curl/8");
    if let Some(trace) = trace {
        request = request.header(header::NAME, trace);
    }
    let mut request = request.body(Body::empty()).unwrap();
    // The trace that it came with is believed.
    let mut arrival = arrival("203.0.113.9");
    arrival.client.as_mut().expect("it has a client").peer_is_trusted = true;
    Exchange::new(arrival, &request).attach(&mut request);
    request
}

fn run(bencher: Bencher<'_, '_>, layer: &RouteLayer, trace: Option<&'static str>) {
    let chain = layer.layer(proxy());
    bencher.with_inputs(|| request(trace)).bench_values(|request| {
        let response = chain.run(request).now_or_never().expect("nothing waits");
        response.into_body().collect().now_or_never().expect("nothing waits")
    });
}

fn xray(toml: &str) -> RouteLayer {
    // Nobody empties the queue here. It is full at once, and records are dropped where they would else be sent: a
    // queue that grows would measure the memory that it needs.
    let toml = format!("queue.documents = 1\n{toml}");
    Setting::default().build::<XRay>(&toml).unwrap_or_else(|faults| panic!("{faults}")).layer
}

#[divan::bench]
fn bare(bencher: Bencher) {
    run(bencher, &RouteLayer::around(Nothing), Some(HEADER));
}

#[divan::bench]
fn unsampled_by_the_caller(bencher: Bencher) {
    run(bencher, &xray(""), Some(HEADER));
}

#[divan::bench]
fn unsampled_by_us(bencher: Bencher) {
    run(bencher, &xray("sampling = { reservoir = 0, rate = 0.0 }"), None);
}

#[divan::bench]
fn sampled(bencher: Bencher) {
    run(bencher, &xray("sampling.mode = \"always\""), None);
}

/// A request with three attempts.
fn record() -> Record {
    let start = 1_795_336_462_000_000;
    let call = |number: u64| Call {
        id: SpanId::mint(),
        service: "orders-v2".into(),
        instance: format!("10.0.0.{number}:8080").into(),
        url: format!("http://10.0.0.{number}:8080/orders/7"),
        span: Span { start: start + number * 1000, length: 900 },
        reused: true,
        connect: Some(120),
        head: Some(700),
        status: Some(200),
        bytes: Some(17),
        failure: None,
    };
    let annotations = vec![("team".into(), Value::Text("orders".into())), ("tier".into(), Value::Integer(1))];
    Record {
        profile: Arc::new(Profile { name: "edge".into(), annotations }),
        name: None,
        trace: TraceId::mint(1_795_336_462),
        id: SpanId::mint(),
        parent: Some(SpanId::mint()),
        claimed: None,
        span: Span { start, length: 5000 },
        head: Some(4000),
        method: Method::GET,
        url: "https://api.example.com/orders/7".into(),
        user_agent: Some(HeaderValue::from_static(
            "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        )),
        client: Some(IpAddr::from([203, 0, 113, 9])),
        forwarded: true,
        status: Some(200),
        bytes: Some(17),
        failure: None,
        grpc_status: None,
        route: None,
        service: Some("orders-v2".into()),
        annotations: Vec::new(),
        headers: vec![(HeaderName::from_static("x-request-id"), HeaderValue::from_static("0123456789abcdef"))],
        balancer: None,
        tries: 3,
        attempts: (1..=3).map(call).collect(),
    }
}

//! What it costs in allocations to remember a request.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::FutureExt;
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use portcullis::Gateway;
use portcullis::observe::Observer;
use portcullis_middleware::exchange::Arrival;
use portcullis_middleware::testing::arrival;
use portcullis_middleware::{Exchange, Request, RouteInfo};
use tokio::runtime::Handle;

/// What a plan knows before the request comes.
struct Known {
    arrival: Arrival,
    route: Arc<RouteInfo>,
    service: Arc<str>,
    instance: Arc<str>,
    target: Uri,
}

impl Known {
    fn new() -> Self {
        Self {
            arrival: arrival("203.0.113.9"),
            route: Arc::new(RouteInfo { name: "all".into(), place: Default::default() }),
            service: "orders".into(),
            instance: "10.0.0.7:9001".into(),
            target: Uri::from_static("/orders/7"),
        }
    }

    fn exchange(&self, request: &Request) -> Exchange {
        Exchange::new(self.arrival.clone(), request)
    }

    /// From the watch's begin to its end, one attempt in between and a body at the end.
    fn remember(&self, observer: &Observer, exchange: &Exchange, request: &mut Request, response: Response<Body>) {
        let watch = observer.begin(exchange, request);
        exchange.settle_route(self.route.clone());
        exchange.settle_service(self.service.clone());
        let mut headers = HeaderMap::new();
        let number = exchange.begin_attempt(self.service.clone(), self.instance.clone(), &self.target, &mut headers);
        exchange.note_attempt(number, |attempt| {
            let took = Some(Duration::from_micros(400));
            (attempt.status, attempt.connect) = (Some(StatusCode::OK), took);
            (attempt.first_byte, attempt.end) = (took, took);
        });
        let mut body = watch.until_the_end(response).into_body();
        while let Some(frame) = body.frame().now_or_never().expect("nothing waits") {
            assert!(frame.is_ok());
        }
    }
}

fn request() -> Request {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from_static("/orders/7");
    request.headers_mut().insert(HOST, HeaderValue::from_static("shop.example"));
    // As every request has an extension, none pays for the first.
    request.extensions_mut().insert(());
    request
}

fn response() -> Response<Body> {
    let mut response = Response::new(Body::from("two orders"));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("10"));
    response
}

#[tokio::test]
async fn to_remember_a_request_in_log_and_numbers_allocates_nothing_beyond_its_exchange() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let text = format!(
        "access_log = {{ output = {{ file = \"{}\" }} }}\n[listener.web]\naddress = \"127.0.0.1:0\"\n",
        log.display()
    );
    let gateway = Gateway::new(portcullis::plugins());
    let (plan, faults) = gateway.plan_text("test.toml", &text);
    gateway.go_live(plan.unwrap_or_else(|| panic!("{}", faults.render(false))), &Handle::current()).unwrap();
    let (observer, known) = (gateway.observer(), Known::new());

    // The first requests pay for what a worker and the writer keep: their buffers go back and forth.
    for _ in 0..4 {
        for _ in 0..20 {
            let mut request = request();
            known.remember(&observer, &known.exchange(&request), &mut request, response());
        }
        observer.flush().await;
    }
    let (mut request, response) = (request(), response());
    let mut exchange = None;
    let made = allocation_counter::measure(|| exchange = Some(known.exchange(&request)));
    let exchange = exchange.unwrap();
    let attached = allocation_counter::measure(|| exchange.attach(&mut request));
    let remembered = allocation_counter::measure(|| known.remember(&observer, &exchange, &mut request, response));
    let counts = [made, attached, remembered].map(|measured| measured.count_total);
    assert_eq!(counts, [1, 1, 0], "the exchange, its place in the request's extensions, and all the rest");

    observer.flush().await;
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 81);
}

//! Parts of the request path as a file makes them: a plan is built, and asked as the server asks it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use futures_util::FutureExt;
use http::StatusCode;
use http_body_util::BodyExt;
use portcullis::Gateway;
use portcullis::edge::{self, Door};
use portcullis::observe::Observer;
use portcullis::proxy::headers::prepare;
use portcullis::server::Peer;
use portcullis_config::Forwarding;
use portcullis_middleware::client::{Source, settle};
use portcullis_middleware::{Request, Response};
use tokio::runtime;

use crate::Meter;

const LISTENER: &str = r#"
    trusted_proxies = ["10.0.0.0/8", "192.168.0.0/16"]
    [listener.web]
    address = "127.0.0.1:0"
"#;

const ROUTE: &str = r#"
    [[route]]
    match = { path = "/orders/{id}" }
    respond = { body = "seven" }
"#;

/// A file as it grows in a company: mostly exact paths and prefixes, some patterns, methods and headers, ten on a host.
pub(crate) fn router(meter: &mut Meter<'_>, routes: usize) {
    let mut text = LISTENER.to_owned();
    for number in 0..routes {
        let path = match number % 10 {
            0..4 => format!("path = \"/api/v1/items{number}\""),
            4..6 => format!("path = {{ prefix = \"/app{number}\" }}"),
            6 => format!("path = \"/v2/res{number}/{{id}}/detail\""),
            7 => format!("path = \"/files{number}/{{*rest}}\", methods = [\"GET\"]"),
            8 => format!("path = {{ prefix = \"/canary{number}\" }}, headers = {{ x-env = \"canary\" }}"),
            _ => format!("path = \"/v2/res{number}/{{id}}\""),
        };
        let host = number / 10;
        text += &format!("[[route]]\nrespond = {{}}\nmatch = {{ hosts = [\"h{host}.example.com\"], {path} }}\n");
    }
    let running = Running::start(&text);
    let table = {
        let mut request = request("h0.example.com", "/", None);
        let entrance = edge::arrive(&running.door, &mut request, None).entrance;
        entrance.unwrap_or_else(|_| panic!("the listener takes every host")).routes.clone()
    };
    let mut random = fastrand::Rng::with_seed(7);
    meter.count(
        || {
            let number = random.usize(..routes);
            let path = match number % 10 {
                0..4 => format!("/api/v1/items{number}"),
                4..6 => format!("/app{number}/some/page.html"),
                6 => format!("/v2/res{number}/4711/detail"),
                7 => format!("/files{number}/a/b/c.png"),
                8 => format!("/canary{number}"),
                _ => format!("/v2/res{number}/4711"),
            };
            request(&format!("h{}.example.com", number / 10), &path, None)
        },
        |request| {
            assert!(table.find(&request).is_ok());
            request
        },
    );
}

/// Who the client is, for a peer that is trusted or is not.
pub(crate) fn client(meter: &mut Meter<'_>, peer: &str) {
    let running = Running::start(&format!("{LISTENER}{ROUTE}"));
    let peer: IpAddr = peer.parse().expect("an address");
    let came = request("api.example.com", "/orders/7", Some("203.0.113.9, 10.0.0.7, 192.168.7.7"));
    meter.count(|| (), |()| settle((peer, 4711).into(), Source::Itself, came.headers(), &running.door.trusted_proxies));
}

/// What the proxy does to a request's headers.
pub(crate) fn headers(meter: &mut Meter<'_>) {
    let running = Running::start(&format!("{LISTENER}{ROUTE}"));
    meter.count(
        || {
            let mut request = request("api.example.com", "/orders/7", Some("203.0.113.9"));
            let exchange = running.arrive(&mut request).exchange;
            (request, exchange)
        },
        |(mut request, exchange)| {
            assert!(prepare(&mut request, &exchange, Forwarding::X).is_ok());
            (request, exchange)
        },
    );
}

/// The client's address, the listener, the exchange, the end of what concerns only the client's connection.
pub(crate) fn arrive(meter: &mut Meter<'_>) {
    let running = Running::start(&format!("{LISTENER}{ROUTE}"));
    meter.count(
        || request("api.example.com", "/orders/7", Some("203.0.113.9")),
        |mut request| {
            assert!(running.arrive(&mut request).entrance.is_ok());
            request
        },
    );
}

/// What is remembered of a request.
pub(crate) fn observe(meter: &mut Meter<'_>, access_log: &str) {
    let running = Running::start(&format!("access_log = {{ output = {access_log} }}\n{LISTENER}{ROUTE}"));
    meter.count(
        || {
            let mut request = request("api.example.com", "/orders/7", None);
            let exchange = running.arrive(&mut request).exchange;
            let body = Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>("seven")]));
            (request, exchange, Response::new(body))
        },
        |(mut request, exchange, response)| {
            let watch = running.observer.begin(&exchange, &mut request);
            let response = watch.until_the_end(response);
            response.into_body().collect().now_or_never().expect("nothing waits").is_ok()
        },
    );
}

/// A request that the gateway answers itself, with numbers and access log.
pub(crate) fn answer(meter: &mut Meter<'_>) {
    let running = Running::start(&format!("access_log = {{ output = {{ file = \"/dev/null\" }} }}\n{LISTENER}{ROUTE}"));
    meter.count(
        || request("api.example.com", "/orders/7", Some("203.0.113.9")),
        |request| {
            let answer = edge::serve(&running.door, &running.observer, request, Some(&PEER));
            let response = answer.now_or_never().expect("nothing waits");
            assert_eq!(response.status(), StatusCode::OK);
            response.into_body().collect().now_or_never().expect("nothing waits").is_ok()
        },
    );
}

/// A trusted proxy, as most requests come from one.
static PEER: Peer = Peer {
    address: Some(std::net::SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 4711)),
    source: Source::Itself,
    local: None,
    tls: None,
};

/// A gateway that serves a file, and the door of its listener `web`.
struct Running {
    door: Arc<Door>,
    observer: Arc<Observer>,
    _gateway: Arc<Gateway>,
    _runtime: runtime::Runtime,
}

impl Running {
    fn start(toml: &str) -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let started = runtime.block_on(async { Gateway::from_toml("gateway.toml", toml, portcullis::plugins()) });
        let gateway = started.unwrap_or_else(|faults| panic!("{}", faults.render(false)));
        let door = gateway.plan().door_of("web").expect("the file has it");
        Self { door, observer: gateway.observer(), _gateway: gateway, _runtime: runtime }
    }

    fn arrive<'a>(&'a self, request: &mut Request) -> edge::Arrived<'a> {
        edge::arrive(&self.door, request, Some(&PEER))
    }
}

/// A request with as many headers as a browser sends.
fn request(host: &str, path: &str, forwarded_for: Option<&str>) -> Request {
    let mut builder = http::Request::get(path)
        .header("host", host)
        .header("connection", "keep-alive")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
        .header("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
        .header("accept-language", "en-US,en;q=0.5")
        .header("accept-encoding", "gzip, deflate, br, zstd")
        .header("cookie", "session=0123456789abcdef0123456789abcdef; theme=dark")
        .header("cache-control", "no-cache")
        .header("x-env", "canary");
    if let Some(forwarded_for) = forwarded_for {
        builder = builder.header("x-forwarded-for", forwarded_for).header("x-forwarded-proto", "https");
    }
    builder.body(Body::empty()).expect("a request")
}

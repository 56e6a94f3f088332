//! A service and the last hop to it, without anything before it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use portcullis::proxy::{Counts, Forward, Limits, Overrides, Policy, Pools, Service, Upstream};
use portcullis::registry::{self, Instance, LiveService};
use portcullis_middleware::layer::Hop;
use portcullis_middleware::testing::arrival;
use portcullis_middleware::{Attempt, Cause, Exchange, Rejection, Request, Response};
use tokio::task::JoinHandle;

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
pub(crate) const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A service and the last hop to it.
pub(crate) struct Proxy {
    pub(crate) forward: Arc<Forward>,
    pub(crate) pools: Arc<Pools>,
}

impl Proxy {
    pub(crate) fn to(addresses: &[SocketAddr]) -> Self {
        Self::with(addresses, Policy::default())
    }

    pub(crate) fn with(addresses: &[SocketAddr], policy: Policy) -> Self {
        Self::of(service(addresses), policy, Overrides::default())
    }

    pub(crate) fn of(service: Arc<LiveService>, policy: Policy, overrides: Overrides) -> Self {
        Self::limited(service, policy, overrides, Limits::default())
    }

    pub(crate) fn limited(service: Arc<LiveService>, policy: Policy, overrides: Overrides, limits: Limits) -> Self {
        let (pools, policy) = (Arc::new(Pools::default()), Policy { limits, ..policy });
        let upstream = Arc::new(Upstream::new("orders", service, policy, pools.clone()));
        Self { forward: Arc::new(Forward::new(Service::Fixed(upstream), overrides)), pools }
    }

    /// Sends a request and goes on; the answer comes later.
    pub(crate) fn send(&self, mut request: Request) -> (JoinHandle<Response>, Exchange) {
        let exchange = arrive(&mut request);
        let forward = self.forward.clone();
        (tokio::spawn(async move { forward.run(request).await }), exchange)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.pools.counts()[0].1
    }
}

pub(crate) fn service(addresses: &[SocketAddr]) -> Arc<LiveService> {
    let instances = addresses.iter().map(|&address| Instance::at(registry::Address::Ip(address))).collect();
    Arc::new(LiveService::fixed(registry::Service { name: "orders".parse().unwrap(), instances }))
}

pub(crate) fn arrive(request: &mut Request) -> Exchange {
    let exchange = Exchange::new(arrival("203.0.113.9"), request);
    exchange.attach(request);
    exchange
}

pub(crate) fn get(path: &str) -> Request {
    http::Request::get(path).header("host", "shop.example").body(Body::empty()).unwrap()
}

pub(crate) fn post(body: impl Into<Body>) -> Request {
    http::Request::post("/").header("host", "shop.example").body(body.into()).unwrap()
}

pub(crate) fn put(body: &'static str) -> Request {
    let mut request = post(body);
    *request.method_mut() = http::Method::PUT;
    request
}

pub(crate) fn cause(response: &Response) -> Option<Cause> {
    Rejection::of(response).map(Rejection::cause)
}

pub(crate) async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

pub(crate) fn last(exchange: &Exchange) -> Attempt {
    exchange.attempts().pop().unwrap()
}

/// A body of as many frames as anybody wants, which counts them.
pub(crate) fn endless(frame: usize, polled: Arc<AtomicUsize>) -> Body {
    let data = Bytes::from(vec![b'x'; frame]);
    let frames = futures_util::stream::repeat_with(move || {
        polled.fetch_add(1, Relaxed);
        Ok::<_, Infallible>(Frame::data(data.clone()))
    });
    Body::new(StreamBody::new(frames))
}

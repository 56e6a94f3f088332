//! THE REQUEST PATH: from a parsed request to its answer, in one function that can be read aloud.
//!
//! What it needs was prepared when the plan was built. On this path no registry is called, and nothing is parsed but what
//! the client sent. Three kinds of lock remain, all held briefly and never across a wait: a request's own notes and body, the
//! idle connections of an instance, and the worker's own counts and log lines, which a scrape or the log's writer want too.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::response::IntoResponse;
use futures_util::FutureExt;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue};
use portcullis_config::Forwarding;
use portcullis_config::units::ListenAddress;
use portcullis_middleware::client::{self, TrustedProxies};
use portcullis_middleware::exchange::Arrival;
use portcullis_middleware::router::{HostMap, Table};
use portcullis_middleware::{Cause, Client, Exchange, Next, Rejection, Request, Response, paths, rejection};

use crate::authority;
use crate::observe::{Observer, Watched};
use crate::plan::Link;
use crate::proxy::Stage;
use crate::proxy::headers;
use crate::proxy_protocol::Receiver;
use crate::server::strict::Refusal;
use crate::server::{Application, Manners, Peer};
use crate::tls::Downstream;

/// Answers one request. Without a peer nobody knows who asks, and whatever decides by that refuses.
pub async fn serve(
    door: &Door,
    observer: &Observer,
    mut request: Request,
    peer: Option<&Peer>,
) -> http::Response<Watched> {
    let arrived = arrive(door, &mut request, peer);
    let watch = observer.begin(&arrived.exchange, &mut request);
    let response = answer(&arrived, request).await;
    watch.until_the_end(response)
}

/// A request that has arrived: who sent it, and where it enters.
pub struct Arrived<'a> {
    /// The request's exchange. It is attached to the request already.
    pub exchange: Exchange,
    /// The listener that it is for.
    pub listener: Option<&'a Arc<Entrance>>,
    /// The listener that takes it, or why none does.
    pub entrance: Result<&'a Arc<Entrance>, Rejection>,
}

/// Finds out who sent a request and which listener it is for, and brings its path into the form that is compared and
/// forwarded. What speaks of the client's connection only ends here.
pub fn arrive<'a>(door: &'a Door, request: &mut Request, peer: Option<&Peer>) -> Arrived<'a> {
    let client = peer.and_then(|peer| client(peer, request.headers(), &door.trusted_proxies));
    let entrance = enter(door, request, peer);
    let listener = entrance.as_ref().ok().copied();
    let secured = peer.and_then(|peer| peer.tls.as_deref());
    let arrival = Arrival {
        client,
        listener: listener.map_or(&door.names[0], |listener| &listener.name).clone(),
        local: peer.and_then(|peer| peer.local),
        scheme: if secured.is_some() { "https" } else { "http" },
        tls: secured.map(|secured| secured.tls.clone()),
        rehearsal: Stage::of(request).is_some(),
    };
    // It keeps the path as it was sent: that is what the log shows.
    let exchange = Exchange::new(arrival, request);
    exchange.attach(request);
    if let Some(listener) = listener {
        request.extensions_mut().insert(listener.forwarding);
    }
    headers::arrive(request);
    let entrance = entrance.and_then(|listener| paths::arrive(request, listener.paths).map(|()| listener));
    Arrived { exchange, listener, entrance }
}

/// Who sent a request that came over the connection with this peer.
fn client(peer: &Peer, headers: &HeaderMap, trusted: &TrustedProxies) -> Option<Client> {
    match peer.address {
        Some(address) => client::settle(address, peer.source, headers, trusted),
        None => client::settle_unix(peer.source, headers, trusted),
    }
}

/// Which listener the request is for: of those that share the address, the one with the most specific host.
fn enter<'a>(door: &'a Door, request: &mut Request, peer: Option<&Peer>) -> Result<&'a Arc<Entrance>, Rejection> {
    let host = authority::settle(request)?;
    let listener = door.listeners.find(&host);
    let unserved = "no listener here serves this host";
    let listener = listener.ok_or_else(|| Rejection::new(Cause::NoRoute).detail(unserved).note(unserved))?;
    match (&door.tls, peer.and_then(|peer| peer.tls.as_deref())) {
        (None, None) => Ok(listener),
        (Some(tls), Some(secured)) if tls.admits(secured, &listener.name) => Ok(listener),
        // RFC 9110 §15.5.20. Whoever asks again makes a new connection for it, so this one must not be used again.
        _ => Err(Rejection::new(Cause::Misdirected)
            .detail("this connection was made for another host, or before the listener changed its terms")
            .header(CONNECTION, HeaderValue::from_static("close"))),
    }
}

/// Sends a request that has arrived down its listener's chain, and finishes what comes back.
pub async fn answer(arrived: &Arrived<'_>, request: Request) -> Response {
    let response = match &arrived.entrance {
        Ok(listener) => run(&listener.chain, request).await,
        Err(rejection) => rejection.clone().into_response(),
    };
    rejection::finish(&arrived.exchange, response)
}

/// Runs a chain. Whatever panics in it refuses the request; nothing fails open, and the worker lives on.
pub(crate) async fn run(chain: &Next, request: Request) -> Response {
    match AssertUnwindSafe(async { chain.run(request).await }).catch_unwind().await {
        Ok(response) => response,
        Err(_) => Rejection::new(Cause::Internal).into_response(),
    }
}

/// Takes requests from connections and answers them, by the plan of the moment. Every worker has one of its own for
/// each address.
pub struct Edge {
    // The inner `Arc` is every worker's; the outer one is counted per request, and by one worker only.
    door: ArcSwap<Arc<Door>>,
    observer: Arc<Observer>,
}

impl Edge {
    /// The edge of one address.
    pub fn new(door: Arc<Door>, observer: Arc<Observer>) -> Self {
        Self { door: ArcSwap::from_pointee(door), observer }
    }

    /// Serves further requests by another plan; those in flight finish on theirs.
    pub fn swap(&self, door: Arc<Door>) {
        self.door.store(Arc::new(door));
    }
}

impl Application for Edge {
    type Body = Watched;

    fn manners(&self) -> Manners {
        self.door.load().manners.clone()
    }

    fn tls(&self) -> Option<Arc<Downstream>> {
        self.door.load().tls.clone()
    }

    fn proxy_protocol(&self) -> Option<Arc<Receiver>> {
        self.door.load().proxy_protocol.clone()
    }

    fn refuse(&self, refusal: &Refusal, peer: &Peer) -> http::Response<Watched> {
        let (door, mut request) = (self.door.load(), refusal.request());
        let arrived = arrive(&door, &mut request, Some(peer));
        let watch = self.observer.begin(&arrived.exchange, &mut request);
        let response = rejection::finish(&arrived.exchange, refusal.rejection().into_response());
        watch.until_the_end(response)
    }

    async fn serve(&self, request: Request, peer: &Peer) -> http::Response<Watched> {
        let door = self.door.load_full();
        serve(&door, &self.observer, request, Some(peer)).await
    }
}

/// One address as the plan sees it: who listens there, and how connections are treated.
pub struct Door {
    /// The address as the file gives it.
    pub address: ListenAddress,
    /// How connections are treated.
    pub manners: Manners,
    /// Who may speak for a client.
    pub trusted_proxies: Arc<TrustedProxies>,
    /// Whose PROXY protocol headers are believed, if connections begin with one.
    pub proxy_protocol: Option<Arc<Receiver>>,
    /// How to shake hands with connections, if the listeners have `tls`.
    pub tls: Option<Arc<Downstream>>,
    /// The listeners that share the address, by host.
    pub listeners: HostMap<Arc<Entrance>>,
    /// Their names, in file order. There is one at least: that of a request which none of them takes.
    pub names: Vec<Arc<str>>,
}

impl Door {
    /// The listeners' names as plain text.
    pub fn listener_names(&self) -> Vec<&str> {
        self.names.iter().map(|name| &**name).collect()
    }
}

/// One listener: where its requests enter.
pub struct Entrance {
    /// Its name in the file.
    pub name: Arc<str>,
    /// Which forwarding headers upstreams get.
    pub forwarding: Forwarding,
    /// How paths are read.
    pub paths: paths::Arrived,
    /// Its middlewares, for whoever asks.
    pub links: Vec<Link>,
    /// Its routes.
    pub routes: Arc<Table>,
    /// The same middlewares as one chain.
    pub chain: Next,
}

#[cfg(test)]
mod tests {
    use http::header::HOST;

    use super::*;
    use crate::Gateway;

    const FILE: &str = r#"
        [listener.local]
        address = "127.0.0.1:0"
        hosts = ["[::1]"]
        [listener.rest]
        address = "127.0.0.1:0"
        [[route]]
        listeners = ["local"]
        match = { hosts = ["[::1]"], path = "/" }
        respond = { body = "local" }
        [[route]]
        listeners = ["rest"]
        match = { path = "/inside" }
        chain = [{ type = "ip_whitelist", allow = ["127.0.0.0/8"] }]
        respond = { body = "inside" }
    "#;

    /// The answer's status, and the cause if it is a refusal.
    async fn status(host: &str, path: &str, peer: Option<&str>) -> (u16, Option<Cause>) {
        let gateway = Gateway::new(crate::plugins());
        let (plan, faults) = gateway.plan_text("gateway.toml", FILE);
        let plan = plan.unwrap_or_else(|| panic!("{}", faults.render(false)));
        let door = plan.door_of("rest").expect("the file has it");
        let request = http::Request::builder().uri(path).header(HOST, host).body(axum::body::Body::empty()).unwrap();
        let peer = peer.map(|address| Peer::at(address.parse().unwrap()));
        let response = serve(&door, &gateway.observer(), request, peer.as_ref()).await.map(axum::body::Body::new);
        (response.status().as_u16(), Rejection::of(&response).map(Rejection::cause))
    }

    #[tokio::test]
    async fn a_host_means_the_same_to_listener_and_route() {
        // The listener was looked for by the literal as it was written, the route by what it means.
        for host in ["[::1]", "[0:0::1]:8080", "[0:0:0:0:0:0:0:1]"] {
            assert_eq!(status(host, "/", Some("127.0.0.1:1")).await, (200, None), "{host}");
        }
        assert_eq!(status("other.example", "/", Some("127.0.0.1:1")).await, (404, Some(Cause::NoRoute)));
    }

    #[tokio::test]
    async fn nobody_is_taken_for_somebody() {
        assert_eq!(status("a", "/inside", Some("127.0.0.1:1")).await, (200, None));
        assert_eq!(status("a", "/inside", Some("192.0.2.1:1")).await, (403, Some(Cause::IpNotAllowed)));
        assert_eq!(status("a", "/inside", None).await, (403, Some(Cause::IpNotAllowed)));
    }
}

//! For tests of plugins, ours and yours: drive the TOML, not the constructor.
//!
//! ```
//! # use portcullis_middleware::prelude::*;
//! # use portcullis_middleware::testing;
//! /// Says hello in a response header.
//! #[derive(Debug, Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Greet {
//!     /// What to say.
//!     text: HeaderText,
//! }
//!
//! impl Plugin for Greet {
//!     const NAME: &'static str = "greet";
//!     const EXAMPLE: &'static str = r#"text = "good day""#;
//!     fn build(self, _: &Context) -> Result<RouteLayer, BuildError> { Ok(RouteLayer::around(self)) }
//! }
//!
//! impl Around for Greet {
//!     async fn handle(&self, request: Request, next: Next) -> Response {
//!         let mut response = next.run(request).await;
//!         response.headers_mut().insert("x-greeting", self.text.clone().into());
//!         response
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! testing::conformance::<Greet>();
//! let app = testing::chain::<Greet>(r#"text = "hi""#);
//! app.get("/").await.expect_status(200).expect_header("x-greeting", "hi");
//! # });
//! ```

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use portcullis_config::{Document, Faults, Raw};

use crate::exchange::Arrival;
use crate::layer::{Running, fold, hop};
use crate::plugin::{Plugin, PluginRow, Services, Shared, Task};
use crate::router::Table;
use crate::{Cause, Client, Context, Exchange, Next, Origin, Rejection, Request, Response, RouteLayer, Tls, rejection};

/// A chain of one plugin before a mock that answers `200` with an empty body.
///
/// # Panics
/// If the TOML is not accepted; the message is what a user would see. Use [`build`] to test refusals.
pub fn chain<P: Plugin>(toml: &str) -> Chain {
    match build::<P>(toml) {
        Ok(layer) => Chain::new(vec![layer]),
        Err(faults) => panic!("{faults}"),
    }
}

/// Builds a plugin from TOML, or returns what a user would see.
pub fn build<P: Plugin>(toml: &str) -> Result<BuiltPlugin, String> {
    Setting::default().build::<P>(toml)
}

/// What surrounds a plugin while a test builds it.
pub struct Setting {
    /// Where relative paths start.
    pub directory: PathBuf,
    /// The services that can be sent to. By default every name is one, and answers `200`.
    pub services: Arc<dyn Services>,
    /// The routes that the plugin sees. By default there are none, as in an empty file.
    pub routes: Option<Arc<Table>>,
    /// State shared with earlier builds, as across a reload.
    pub shared: Arc<Shared>,
}

impl Default for Setting {
    fn default() -> Self {
        struct Any;
        impl Services for Any {
            fn service(&self, _: &str) -> Option<Next> {
                Some(mock())
            }
        }
        Self {
            directory: PathBuf::from("."),
            services: Arc::new(Any),
            routes: Some(Arc::default()),
            shared: Arc::default(),
        }
    }
}

/// What the edge knows of a request that this client sent to a listener `web`, without a proxy in between.
///
/// # Panics
/// If the text is not an address.
pub fn arrival(ip: &str) -> Arrival {
    let ip: IpAddr = ip.parse().expect("a test gives an address");
    let client = Client { ip, origin: Origin::Peer, peer: Some(SocketAddr::new(ip, 4711)), peer_is_trusted: false };
    Arrival { client: Some(client), listener: "web".into(), ..Arrival::default() }
}

/// The end of a chain that answers `200` with an empty body.
fn mock() -> Next {
    hop(|_| Running::ready(Response::new(Body::empty())))
}

impl Services for HashMap<String, Next> {
    fn service(&self, name: &str) -> Option<Next> {
        self.get(name).cloned()
    }
}

/// A plugin that was built: its layer, the tasks it wants to run, and the warnings it gave.
pub struct BuiltPlugin {
    /// The middleware.
    pub layer: RouteLayer,
    /// Tasks for the time the plan is live; a test starts those it needs.
    pub tasks: Vec<Task>,
    /// Warnings as a user would see them; empty without any.
    pub warnings: String,
    shared: Arc<Shared>,
}

impl Setting {
    /// Builds a plugin from TOML, or returns what a user would see.
    pub fn build<P: Plugin>(&self, toml: &str) -> Result<BuiltPlugin, String> {
        let mut faults = Faults::default();
        let (document, raw) = open_table(P::NAME, toml, &mut faults);
        let mut context =
            Context::new(P::NAME, &self.shared).in_directory(&self.directory).with_services(&*self.services);
        if let Some(routes) = &self.routes {
            context = context.with_routes(routes.clone());
        }
        let layer = raw.and_then(|raw| (PluginRow::of::<P>().build)(&raw, &document, &context, &mut faults));
        match layer {
            Some(layer) if !faults.has_errors() => Ok(BuiltPlugin {
                layer,
                tasks: context.take_tasks(),
                warnings: if faults.is_empty() { String::new() } else { faults.render(false) },
                shared: self.shared.clone(),
            }),
            _ => Err(faults.render(false)),
        }
    }
}

/// The settings of a plugin as an open table of a document of its own.
fn open_table(name: &str, toml: &str, faults: &mut Faults) -> (Document, Option<Raw>) {
    let document = Document::parse(&format!("{name}.toml"), toml, faults);
    let raw = if faults.has_errors() { None } else { Some(Raw::whole(name, &document)) };
    (document, raw)
}

/// A chain under test: middlewares, a mock next hop, and the client that asks.
#[derive(Clone)]
pub struct Chain {
    layers: Vec<RouteLayer>,
    // Keeps shared state alive as a plan would.
    _shared: Vec<Arc<Shared>>,
    next: Next,
    seen: Arc<Mutex<Vec<http::request::Parts>>>,
    arrival: Arrival,
}

impl Chain {
    /// A chain of these middlewares, in order, before a mock that answers `200`.
    pub fn new(layers: Vec<BuiltPlugin>) -> Self {
        Self {
            _shared: layers.iter().map(|built| built.shared.clone()).collect(),
            layers: layers.into_iter().map(|built| built.layer).collect(),
            next: mock(),
            seen: Arc::default(),
            arrival: Arrival { local: Some(([127, 0, 0, 1], 8080).into()), ..arrival("127.0.0.1") },
        }
    }

    /// Another next hop than the mock.
    #[must_use]
    pub fn next(mut self, next: Next) -> Self {
        self.next = next;
        self
    }

    /// A next hop from an async function.
    #[must_use]
    pub fn answer<F>(self, answer: impl Fn(Request) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response> + Send + 'static,
    {
        self.next(hop(move |request| Running::boxed(answer(request))))
    }

    /// The client's address; it is the peer too.
    #[must_use]
    pub fn client(mut self, ip: &str) -> Self {
        self.arrival.client = arrival(ip).client;
        self
    }

    /// Whether the peer is one of `trusted_proxies`.
    #[must_use]
    pub fn trusted(mut self, peer_is_trusted: bool) -> Self {
        if let Some(client) = &mut self.arrival.client {
            client.peer_is_trusted = peer_is_trusted;
        }
        self
    }

    /// Everything about the client; `None` if it cannot be told.
    #[must_use]
    pub fn from_client(mut self, client: Option<Client>) -> Self {
        self.arrival.client = client;
        self
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(mut self, scheme: &'static str) -> Self {
        self.arrival.scheme = scheme;
        self
    }

    /// A connection with TLS, and what its handshake established. The scheme is `https` then.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.arrival.tls = Some(Arc::new(tls));
        self.scheme("https")
    }

    /// Asks with `GET`.
    pub async fn get(&self, target: &str) -> Answer {
        self.send(request("GET", target)).await
    }

    /// Asks with a request of your own.
    pub async fn send(&self, request: Request) -> Answer {
        self.start(request).await.read().await
    }

    /// Asks, and returns the answer with its body still unread.
    pub async fn start(&self, mut request: Request) -> Started {
        let exchange = Exchange::new(self.arrival.clone(), &request);
        exchange.attach(&mut request);
        let (seen, next) = (self.seen.clone(), self.next.clone());
        let end = hop(move |request: Request| {
            let (parts, body) = request.into_parts();
            seen.lock().expect("no test panics here").push(parts.clone());
            next.run(Request::from_parts(parts, body))
        });
        let response = fold(self.layers.iter(), end).run(request).await;
        Started { response: rejection::finish(&exchange, response), exchange }
    }

    /// The requests that came through to the next hop, in order.
    pub fn seen(&self) -> Vec<http::request::Parts> {
        self.seen.lock().expect("no test panics here").clone()
    }

    /// The request that came through last.
    ///
    /// # Panics
    /// If none did.
    pub fn last_seen(&self) -> http::request::Parts {
        self.seen().pop().expect("a request came through to the next hop")
    }
}

/// A request without a body.
pub fn request(method: &str, target: &str) -> Request {
    http::Request::builder().method(method).uri(target).body(Body::empty()).expect("a test gives a valid request")
}

/// An answer whose body has not been read.
pub struct Started {
    /// The answer.
    pub response: Response,
    /// What the request left behind.
    pub exchange: Exchange,
}

impl Started {
    /// Reads the body to its end.
    pub async fn read(self) -> Answer {
        let (parts, body) = self.response.into_parts();
        let cause = parts.extensions.get::<Rejection>().map(Rejection::cause);
        let (body, trailers, broken) = match body.collect().await {
            Ok(collected) => {
                let trailers = collected.trailers().cloned();
                (collected.to_bytes(), trailers, None)
            }
            Err(error) => (Bytes::new(), None, Some(error.to_string())),
        };
        Answer { status: parts.status, headers: parts.headers, body, trailers, broken, cause, exchange: self.exchange }
    }
}

/// An answer, with checks that read as promises.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, empty if it broke.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
    /// How the body broke off, if it did.
    pub broken: Option<String>,
    /// Why the gateway answered itself, if it did.
    pub cause: Option<Cause>,
    /// What the request left behind.
    pub exchange: Exchange,
}

impl Answer {
    /// Checks the status.
    #[track_caller]
    pub fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "status; the answer was {self:?}");
        self
    }

    /// Checks the cause of an answer that the gateway made itself.
    #[track_caller]
    pub fn expect_cause(self, cause: Cause) -> Self {
        assert_eq!(self.cause, Some(cause), "cause; the answer was {self:?}");
        self
    }

    /// Checks a header that must be there once.
    #[track_caller]
    pub fn expect_header(self, name: &str, value: &str) -> Self {
        let values: Vec<_> =
            self.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        assert_eq!(values, [value], "header `{name}`; the answer was {self:?}");
        self
    }

    /// Checks that a header is absent.
    #[track_caller]
    pub fn expect_no_header(self, name: &str) -> Self {
        assert!(!self.headers.contains_key(name), "header `{name}` should be absent; the answer was {self:?}");
        self
    }

    /// Checks the whole body.
    #[track_caller]
    pub fn expect_body(self, body: &str) -> Self {
        assert_eq!(String::from_utf8_lossy(&self.body), body, "body; the answer was {self:?}");
        self
    }
}

/// What every plugin promises, checked for one of them.
///
/// Its name is `snake_case`; every setting has a description; its example works and is nothing but TOML; unknown keys
/// are errors; building needs no runtime, so it can touch no network; odd requests make it answer, not panic.
///
/// # Panics
/// If a promise is broken; the message says which.
pub fn conformance<P: Plugin>() {
    let name = P::NAME;
    assert!(
        !name.is_empty()
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
        "the name `{name}` must be snake_case"
    );

    let schema = schemars::generate::SchemaGenerator::default().into_root_schema_for::<P>();
    let undescribed: Vec<_> = schema
        .get("properties")
        .and_then(|properties| properties.as_object())
        .into_iter()
        .flatten()
        .filter(|(_, property)| property.get("description").is_none())
        .map(|(key, _)| key.clone())
        .collect();
    assert!(undescribed.is_empty(), "settings of `{name}` without a description: {undescribed:?}");
    assert!(schema.get("description").is_some(), "the settings of `{name}` lack a description");

    // A plain thread has no runtime: a build that spawns or connects panics there.
    let build_alone = |toml: String| {
        std::thread::spawn(move || build::<P>(&toml).map(drop))
            .join()
            .unwrap_or_else(|_| panic!("`{name}` panicked while building"))
    };
    if let Err(faults) = build_alone(P::EXAMPLE.to_owned()) {
        panic!("the example of `{name}` is refused:\n{faults}");
    }
    let odd = format!("no_setting_has_this_name = 1\n{}", P::EXAMPLE);
    match build_alone(odd) {
        Ok(()) => panic!("`{name}` takes an unknown key"),
        Err(faults) => assert!(faults.contains("no_setting_has_this_name"), "the fault should name the key:\n{faults}"),
    }

    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime starts").block_on(async {
            for client in [None, Some("127.0.0.1"), Some("::ffff:10.0.0.1"), Some("2001:db8::1")] {
                for odd in odd_requests() {
                    let app = chain::<P>(P::EXAMPLE);
                    let app = match client {
                        Some(ip) => app.client(ip),
                        None => app.from_client(None),
                    };
                    app.send(odd).await;
                }
            }
        });
    })
    .join()
    .unwrap_or_else(|_| panic!("`{name}` panicked on an odd request"));
}

fn odd_requests() -> Vec<Request> {
    let mut requests: Vec<_> = ["GET", "HEAD", "OPTIONS", "POST", "PROPFIND", "CONNECT"]
        .into_iter()
        .flat_map(|method| {
            ["/", "*", "/%zz/..//%00?a=%ff&&=", "http://[::1]:1/x"].map(|target| request(method, target))
        })
        .collect();
    let mut headers = request("GET", "/");
    for name in [
        "x-forwarded-for",
        "forwarded",
        "x-request-id",
        "x-amzn-trace-id",
        "cookie",
        "origin",
        "accept-encoding",
        "range",
    ] {
        for value in [&b""[..], b"\xff\xfe", b";;,,==\"", &[b'a'; 4000]] {
            headers.headers_mut().append(name, http::HeaderValue::from_bytes(value).expect("a legal value"));
        }
    }
    requests.push(headers);
    requests
}

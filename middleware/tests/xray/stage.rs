//! The middleware between a client, an upstream that misbehaves on request, and a daemon that listens.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use http::{HeaderMap, Uri};
use portcullis_config::Place;
use portcullis_middleware::layer::hop;
use portcullis_middleware::metrics::{self, Value as Metric};
use portcullis_middleware::plugin::Task;
use portcullis_middleware::testing::{Chain, Setting};
use portcullis_middleware::xray::XRay;
use portcullis_middleware::{Cause, Exchange, Next, Rejection, Request, Response, RouteInfo, Running};
use serde_json::Value;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::checker;

/// The header, as everybody writes it.
pub(crate) const HEADER: &str = "x-amzn-trace-id";

/// Stands in for X-Ray's daemon.
pub(crate) struct Daemon(UdpSocket);

impl Daemon {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    pub(crate) async fn start_at(address: &str) -> Self {
        Self(UdpSocket::bind(address).await.expect("the port is free"))
    }

    pub(crate) fn address(&self) -> String {
        self.0.local_addr().expect("it is bound").to_string()
    }

    /// The next document, checked.
    pub(crate) async fn document(&self) -> Value {
        let mut datagram = vec![0; 70_000];
        let received = tokio::time::timeout(Duration::from_secs(20), self.0.recv(&mut datagram)).await;
        let length = received.expect("a document arrives").expect("the socket works");
        checker::check(&datagram[..length])
    }
}

/// The middleware in a chain, asked by a trusted proxy.
pub(crate) struct Stage {
    pub(crate) chain: Chain,
    /// The headers that each attempt was sent with.
    pub(crate) attempts: Arc<Mutex<Vec<HeaderMap>>>,
    stop: CancellationToken,
    waiting: Vec<Task>,
    running: Vec<JoinHandle<()>>,
}

impl Stage {
    /// Builds the middleware from TOML; it sends to this daemon, at once, whatever it samples.
    pub(crate) fn new(daemon: &str, toml: &str) -> Self {
        Self::within(&Setting::default(), daemon, toml).start()
    }

    /// The same with state that others share, and with its task not running yet.
    pub(crate) fn within(setting: &Setting, daemon: &str, toml: &str) -> Self {
        let toml = if toml.contains("queue") { toml.to_owned() } else { format!("queue.flush = \"0s\"\n{toml}") };
        let mut built = setting
            .build::<XRay>(&format!("daemon = \"{daemon}\"\n{toml}"))
            .unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(built.warnings, "");
        let waiting = std::mem::take(&mut built.tasks);
        let chain = Chain::new(vec![built]).trusted(true);
        Self { chain, attempts: Arc::default(), stop: CancellationToken::new(), waiting, running: Vec::new() }
    }

    /// Starts the middleware's task.
    pub(crate) fn start(mut self) -> Self {
        let tasks = std::mem::take(&mut self.waiting);
        self.running.extend(tasks.into_iter().map(|task| tokio::spawn(task(self.stop.clone()))));
        self
    }

    /// Another end of the chain: a proxy that tries these, one after the other.
    pub(crate) fn upstream(mut self, tries: &[Try]) -> Self {
        self.chain = self.chain.next(upstream(tries, self.attempts.clone()));
        self
    }

    /// An end of the chain that answers so.
    pub(crate) fn answer<F>(mut self, answer: impl Fn(Request) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response> + Send + 'static,
    {
        self.chain = self.chain.answer(answer);
        self
    }

    /// A client that no trusted proxy speaks for.
    pub(crate) fn stranger(mut self) -> Self {
        self.chain = self.chain.trusted(false);
        self
    }

    /// Asks with a trace header, and returns the one header that went on to the next hop.
    pub(crate) async fn ask(&self, trace: &str) -> String {
        self.chain.send(request(&[(HEADER, trace)])).await;
        the_one(&self.chain.last_seen().headers)
    }

    /// Stops the task and waits for it.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        for task in self.running {
            task.await.expect("the task does not panic");
        }
    }
}

/// The one trace header that there is.
#[track_caller]
pub(crate) fn the_one(headers: &HeaderMap) -> String {
    let values: Vec<_> = headers.get_all(HEADER).iter().collect();
    assert_eq!(values.len(), 1, "exactly one header leaves us");
    values[0].to_str().expect("it is plain").to_owned()
}

/// A `GET` for an order, with these headers.
pub(crate) fn request(headers: &[(&str, &str)]) -> Request {
    let mut request = http::Request::get("/orders/7?token=secret").header("host", "api.example.com");
    for (name, value) in headers {
        request = request.header(*name, value.as_bytes());
    }
    request.body(Body::empty()).expect("a test gives a valid request")
}

/// What one attempt comes to.
#[derive(Clone, Copy)]
pub(crate) enum Try {
    /// An answer with this status.
    Answers(u16),
    /// None, for this reason.
    Fails(Cause),
}

/// Plays router and proxy: settles route and service, makes attempts, and answers as the last of them went.
fn upstream(tries: &[Try], sent: Arc<Mutex<Vec<HeaderMap>>>) -> Next {
    let tries = tries.to_vec();
    hop(move |request: Request| {
        let exchange = Exchange::of(&request).into_owned();
        let place = Place::default();
        exchange.settle_route(Arc::new(RouteInfo { name: "orders".into(), place }));
        exchange.settle_service("orders-v2".into());
        let mut response = Response::new(Body::from("seven"));
        for (index, attempt) in tries.iter().enumerate() {
            let mut headers = request.headers().clone();
            let instance = format!("10.0.0.{}:80", index + 1).into();
            let number =
                exchange.begin_attempt("orders-v2".into(), instance, &Uri::from_static("/v2/orders/7?x"), &mut headers);
            sent.lock().unwrap().push(headers);
            exchange.note_attempt(number, |note| {
                note.end = Some(note.started.elapsed());
                match *attempt {
                    Try::Answers(status) => {
                        note.status = http::StatusCode::from_u16(status).ok();
                        note.first_byte = note.end;
                        note.bytes = Some(5);
                        response = Response::new(Body::from("seven"));
                        *response.status_mut() = note.status.unwrap();
                    }
                    Try::Fails(cause) => {
                        note.cause = Some(cause);
                        response = Rejection::new(cause).into_response();
                    }
                }
            });
        }
        Running::ready(response)
    })
}

/// One counter of the gateway.
pub(crate) fn counter(name: &str, labels: &[(&str, &str)]) -> u64 {
    let snapshot = metrics::snapshot();
    let series = snapshot.families.iter().filter(|family| family.name == name).flat_map(|family| &family.series);
    let matching = series.filter(|series| {
        labels.iter().all(|(key, value)| series.labels.iter().any(|label| label.0 == *key && label.1 == *value))
    });
    let values = matching.map(|series| match series.value {
        Metric::Counter(count) => count,
        Metric::Gauge(value) => value as u64,
    });
    values.sum()
}

/// How many documents for this daemon were lost for this reason.
pub(crate) fn lost(daemon: &str, reason: &str) -> u64 {
    counter("xray_documents_total", &[("destination", daemon), ("result", "dropped"), ("reason", reason)])
}

/// How many documents this daemon was given.
pub(crate) fn exported(daemon: &str) -> u64 {
    counter("xray_documents_total", &[("destination", daemon), ("result", "exported")])
}

//! What one request and its answer leave behind for whoever comes later.
//!
//! The edge makes one [`Exchange`] per request and puts it into the request's extensions. Middlewares read the client's
//! address and the request id from it; the router notes the route, the proxy every attempt; the access log, metrics and
//! traces read it all when the answer is over.

mod clock;
mod id;

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use http::header::{CONTENT_TYPE, HOST, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use portcullis_config::Place;

use crate::few::Few;
use crate::router::Captures;
use crate::{Cause, Rejection, Request, Tls};
use id::Id;

/// Who sent the request, found once by the edge and used by everything after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The client's address. IPv4-mapped IPv6 is already plain IPv4.
    pub ip: IpAddr,
    /// How the address was found.
    pub origin: Origin,
    /// Who sent us this request: the client itself or the last proxy before us. It is the other end of the connection, or
    /// whom a trusted load balancer named by the PROXY protocol. The other end of a unix socket has no address.
    pub peer: Option<SocketAddr>,
    /// Whether that peer is one of `trusted_proxies`, so that the headers it sent are believed.
    pub peer_is_trusted: bool,
}

/// How a client's address was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The other end of the connection.
    Peer,
    /// The source that a trusted peer named by the PROXY protocol.
    ProxyProtocol,
    /// This entry of `Forwarded` (RFC 7239), counted from the left, starting at 0.
    Forwarded(u16),
    /// This entry of `X-Forwarded-For`, counted from the left, starting at 0.
    XForwardedFor(u16),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Peer => f.write_str("peer"),
            Origin::ProxyProtocol => f.write_str("proxy_protocol"),
            Origin::Forwarded(index) => write!(f, "forwarded[{index}]"),
            Origin::XForwardedFor(index) => write!(f, "x_forwarded_for[{index}]"),
        }
    }
}

/// The refusal of a client whose address is unknown, where that decides. No fault of ours: a load balancer that cannot name
/// its clients may cause it, or a listener at a unix socket.
pub(crate) fn client_unknown() -> Rejection {
    Rejection::new(Cause::IpNotAllowed).detail("the client's address is unknown").note("the client has no address")
}

/// A route as others see it: its name and where it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteInfo {
    /// Its name, or `#3` for the third route of the file.
    pub name: String,
    /// Where the file declares it.
    pub place: Place,
}

/// The route that won, and what its match captured. Rides in the request's extensions once the router has decided.
#[derive(Debug, Clone)]
pub struct MatchedRoute {
    /// The route.
    pub route: Arc<RouteInfo>,
    /// How many bytes at the start of the path the very match that matched calls its prefix (0 without one).
    pub prefix: usize,
    /// What the captures of the path that matched stand for.
    pub captures: Captures,
}

impl MatchedRoute {
    /// What a capture of the path pattern stands for, still percent-encoded.
    pub fn capture(&self, name: &str) -> Option<&str> {
        self.captures.get(name)
    }
}

/// One try to send one request to one instance.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// The service asked for.
    pub service: Arc<str>,
    /// The instance's address. Never shown to clients.
    pub instance: Arc<str>,
    /// When the attempt began.
    pub started: Instant,
    /// Whether it used a connection that was open already.
    pub reused: bool,
    /// How long it took to get a connection.
    pub connect: Option<Duration>,
    /// How long after its start the head of the answer was there.
    pub first_byte: Option<Duration>,
    /// How long after its start it was over, with the last byte of the answer or with its failure.
    pub end: Option<Duration>,
    /// The status the instance answered with.
    pub status: Option<StatusCode>,
    /// The answer's `Content-Length`, or the bytes that came.
    pub bytes: Option<u64>,
    /// Why it failed.
    pub cause: Option<Cause>,
}

/// Puts a header of its own on every attempt: each one upstream is a hop of its own in a trace.
pub trait StampAttempt: Send + Sync + 'static {
    /// Called with the target and the headers of attempt `number` (1 for the first) just before they are sent.
    fn stamp(&self, number: u32, target: &Uri, headers: &mut HeaderMap);
}

/// What the edge knows when a request arrives.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Who sent it; `None` if that cannot be told, so that whoever asks must refuse.
    pub client: Option<Client>,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The address that the client connected to; its port is the one of redirects. A unix socket has none.
    pub local: Option<SocketAddr>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// What the TLS handshake established; `None` on a connection without.
    pub tls: Option<Arc<Tls>>,
    /// Whether this is only asked about (`portcullis explain`): nothing may be counted, logged or sent.
    pub rehearsal: bool,
}

/// Nothing is known: whoever asks for the client must refuse.
impl Default for Arrival {
    fn default() -> Self {
        Self { client: None, listener: "".into(), local: None, scheme: "http", tls: None, rehearsal: false }
    }
}

/// One request and its answer. Cloning shares it.
#[derive(Clone)]
pub struct Exchange(Arc<Inner>);

struct Inner {
    arrival: Arrival,
    started: Instant,
    started_at: SystemTime,
    method: Method,
    target: Uri,
    host: Option<HeaderValue>,
    grpc: bool,
    request_id: OnceLock<Id>,
    trace_id: OnceLock<Id>,
    route: OnceLock<Arc<RouteInfo>>,
    service: OnceLock<Arc<str>>,
    received: AtomicU64,
    sent: AtomicU64,
    upstream: Mutex<Upstream>,
}

#[derive(Default)]
struct Upstream {
    attempts: Few<Attempt>,
    stamps: Few<Arc<dyn StampAttempt>>,
}

/// Makes copies of what is a part of the buffer that the request was read into, and keeps all of it. What becomes a tunnel
/// may last for days.
#[cold]
fn detach(target: &mut Uri, host: &mut Option<HeaderValue>) {
    if let Ok(copy) = Uri::try_from(target.to_string()) {
        *target = copy;
    }
    if let Some(Ok(copy)) = host.as_ref().map(|host| HeaderValue::from_bytes(host.as_bytes())) {
        *host = Some(copy);
    }
}

/// Whether a `Content-Type` makes its request a call of gRPC. Types are the same in capitals (RFC 9110 §8.3.1).
fn asks_for_grpc(kind: &HeaderValue) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    kind.as_bytes().split_at_checked(TYPE.len()).is_some_and(|(begin, rest)| {
        begin.eq_ignore_ascii_case(TYPE) && matches!(rest.first(), None | Some(b'+' | b';'))
    })
}

impl Exchange {
    /// The exchange of a request that has just arrived. [`Exchange::attach`] puts it on the request.
    pub fn new(arrival: Arrival, request: &Request) -> Self {
        let grpc = request.headers().get(CONTENT_TYPE).is_some_and(asks_for_grpc);
        let (started, started_at) = clock::now();
        let mut target = request.uri().clone();
        // The absolute form wins over `Host` (RFC 9112 §3.2.2).
        let mut host = match target.authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            None => request.headers().get(HOST).cloned(),
        };
        if request.headers().contains_key(UPGRADE) {
            detach(&mut target, &mut host);
        }
        Self(Arc::new(Inner {
            arrival,
            started,
            started_at,
            method: request.method().clone(),
            target,
            host,
            grpc,
            request_id: OnceLock::new(),
            trace_id: OnceLock::new(),
            route: OnceLock::new(),
            service: OnceLock::new(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            upstream: Mutex::default(),
        }))
    }

    /// Puts this exchange into a request's extensions.
    pub fn attach(&self, request: &mut Request) {
        request.extensions_mut().insert(self.clone());
    }

    /// The exchange a request belongs to.
    ///
    /// A request that came around the edge has none; it gets one without a client, so that whoever decides by the
    /// client's address refuses.
    pub fn of(request: &Request) -> Cow<'_, Exchange> {
        match request.extensions().get::<Exchange>() {
            Some(exchange) => Cow::Borrowed(exchange),
            None => Cow::Owned(Exchange::new(Arrival::default(), request)),
        }
    }

    /// Who sent the request. Unknown is a refusal: nothing that decides by address may guess.
    pub fn client(&self) -> Result<&Client, Rejection> {
        self.0.arrival.client.as_ref().ok_or_else(client_unknown)
    }

    /// What the edge knew when the request arrived.
    pub(crate) fn arrival(&self) -> &Arrival {
        &self.0.arrival
    }

    /// The name of the listener that took the request.
    pub fn listener(&self) -> &Arc<str> {
        &self.0.arrival.listener
    }

    /// The port of the listener that took the request.
    pub fn listener_port(&self) -> Option<u16> {
        self.0.arrival.local.map(|local| local.port())
    }

    /// The address that the client connected to, as far as it is known.
    pub fn local(&self) -> Option<SocketAddr> {
        self.0.arrival.local
    }

    /// `http` or `https`, as the client spoke it.
    pub fn scheme(&self) -> &'static str {
        self.0.arrival.scheme
    }

    /// What the TLS handshake of the client's connection established, a verified client certificate among it.
    ///
    /// `None` on a connection without TLS, and where a proxy in front of the gateway did it.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.0.arrival.tls.as_ref()
    }

    /// Whether this is only asked about (`portcullis explain`): nothing may be counted, logged or sent.
    ///
    /// Every middleware is run for it all the same, so that the answer is true.
    pub fn is_rehearsal(&self) -> bool {
        self.0.arrival.rehearsal
    }

    /// When the request arrived.
    pub fn started(&self) -> Instant {
        self.0.started
    }

    /// When the request arrived, by the calendar.
    pub fn started_at(&self) -> SystemTime {
        self.0.started_at
    }

    /// The method as the client sent it.
    pub fn method(&self) -> &Method {
        &self.0.method
    }

    /// The target as the client asked for it, before any rewriting.
    pub fn target(&self) -> &Uri {
        &self.0.target
    }

    /// The host and perhaps port that the client asked for, before any rewriting.
    pub fn host(&self) -> Option<&HeaderValue> {
        self.0.host.as_ref()
    }

    /// Whether the client speaks gRPC.
    pub fn is_grpc(&self) -> bool {
        self.0.grpc
    }

    /// The request's id: the one that was [settled](Exchange::settle_request_id), else a random one made on first use.
    pub fn request_id(&self) -> &str {
        self.0.request_id.get_or_init(Id::mint).as_str()
    }

    /// Takes over an id that came with the request. The first one stays.
    pub fn settle_request_id(&self, id: &str) {
        let _ = self.0.request_id.set(Id::given(id));
    }

    /// The trace the request belongs to, if a tracing middleware said so.
    pub fn trace_id(&self) -> Option<&str> {
        self.0.trace_id.get().map(Id::as_str)
    }

    /// Notes the trace the request belongs to. The first one stays.
    pub fn settle_trace_id(&self, id: &str) {
        let _ = self.0.trace_id.set(Id::given(id));
    }

    /// The route that won.
    pub fn route(&self) -> Option<&Arc<RouteInfo>> {
        self.0.route.get()
    }

    /// Notes the route that won. The first one stays.
    pub fn settle_route(&self, route: Arc<RouteInfo>) {
        let _ = self.0.route.set(route);
    }

    /// The service the request was sent to.
    pub fn service(&self) -> Option<&Arc<str>> {
        self.0.service.get()
    }

    /// Notes the service the request is sent to, even if no instance of it can be tried. The first one stays.
    pub fn settle_service(&self, service: Arc<str>) {
        let _ = self.0.service.set(service);
    }

    /// How many bytes of the request's body have come so far.
    pub fn received(&self) -> u64 {
        self.0.received.load(Relaxed)
    }

    /// So many more bytes of the request's body have come. Whoever takes them from the client says so, nobody after it.
    pub fn note_received(&self, bytes: u64) {
        self.0.received.fetch_add(bytes, Relaxed);
    }

    /// How many bytes the client got that are no body: those of another protocol.
    pub fn sent(&self) -> u64 {
        self.0.sent.load(Relaxed)
    }

    /// So many more bytes of another protocol went to the client. What it sends is [received](Exchange::note_received).
    pub fn note_sent(&self, bytes: u64) {
        self.0.sent.fetch_add(bytes, Relaxed);
    }

    /// Asks to put a header on every attempt upstream.
    pub fn stamp_attempts(&self, stamp: Arc<dyn StampAttempt>) {
        self.upstream().stamps.push(stamp);
    }

    /// Begins an attempt: stamps its headers and returns its number. `target` is what the instance is asked for, after
    /// all rewriting; with a scheme if that is not plain `http`.
    pub fn begin_attempt(&self, service: Arc<str>, instance: Arc<str>, target: &Uri, headers: &mut HeaderMap) -> u32 {
        let mut upstream = self.upstream();
        let number = upstream.attempts.as_slice().len() as u32 + 1;
        for stamp in upstream.stamps.as_slice() {
            stamp.stamp(number, target, headers);
        }
        upstream.attempts.push(Attempt {
            number,
            service,
            instance,
            started: Instant::now(),
            reused: false,
            connect: None,
            first_byte: None,
            end: None,
            status: None,
            bytes: None,
            cause: None,
        });
        number
    }

    /// Notes something about an attempt that [`begin_attempt`](Exchange::begin_attempt) numbered.
    pub fn note_attempt(&self, number: u32, note: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.upstream().attempts.as_mut_slice().get_mut((number as usize).wrapping_sub(1)) {
            note(attempt);
        }
    }

    /// Every attempt so far.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.upstream().attempts.as_slice().to_vec()
    }

    /// Reads the attempts without copying them.
    pub fn with_attempts<T>(&self, read: impl FnOnce(&[Attempt]) -> T) -> T {
        read(self.upstream().attempts.as_slice())
    }

    /// The attempts as they are now, for somebody who reads them later. Usually that copy allocates nothing.
    pub(crate) fn copy_attempts(&self) -> Few<Attempt> {
        self.upstream().attempts.clone()
    }

    /// About how many bytes of memory it keeps.
    pub(crate) fn weight(&self) -> usize {
        let text = |text: Option<&HeaderValue>| text.map_or(0, HeaderValue::len);
        let target = self.0.target.path_and_query().map_or(0, |path| path.as_str().len());
        size_of::<Inner>() + target + text(self.0.host.as_ref())
    }

    fn upstream(&self) -> MutexGuard<'_, Upstream> {
        // Only this request's own tasks ever meet here, and nothing that holds the lock can panic half-way.
        self.0.upstream.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("arrival", &self.0.arrival)
            .field("method", &self.0.method)
            .finish_non_exhaustive()
    }
}

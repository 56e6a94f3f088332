//! What happens to a request: decide, stamp, watch, remember.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, Instant, UNIX_EPOCH};

use axum::body::Body;
use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body::{Body as _, Frame, SizeHint};

use crate::body::CutShort;
use crate::exchange::StampAttempt;
use crate::router::fold_host;
use crate::{Around, Attempt, Cause, Exchange, Next, Origin, Rejection, Request, Response};

use super::counts::RequestCounts;
use super::exporter::Exporter;
use super::header::{self, Extras, Sampled, TraceHeader};
use super::ids::{SpanId, TraceId};
use super::naming::{HostPattern, segment_name};
use super::record::{Blame, Call, Failure, Profile, Record, Span};
use super::sampling::Sampler;
use super::settings::{ResponseHeader, Trust};

/// The middleware, built.
pub(super) struct Tracer {
    pub(super) profile: Arc<Profile>,
    pub(super) dynamic_name: Vec<HostPattern>,
    pub(super) annotate_headers: Vec<(Arc<str>, HeaderName)>,
    pub(super) metadata_headers: Vec<HeaderName>,
    pub(super) sampler: Sampler,
    pub(super) trust: Trust,
    /// Whether trace headers are read and written at all.
    pub(super) propagate: bool,
    pub(super) response_header: ResponseHeader,
    /// Whether attempts have subsegments.
    pub(super) subsegments: bool,
    /// `None` records nothing.
    pub(super) exporter: Option<Arc<Exporter>>,
    pub(super) counts: RequestCounts,
}

impl Around for Tracer {
    async fn handle(&self, mut request: Request, next: Next) -> Response {
        let exchange = settle_exchange(&mut request);
        let trace = self.enter(&mut request, &exchange);
        let answer_header = self.answer_header(&trace);

        let mut response = next.run(request).await;
        if let Some(mut watch) = trace.watch {
            watch.head(&response);
            response = response.map(|body| Body::new(Watched::new(body, watch)));
        }
        if let Some(value) = answer_header {
            response.headers_mut().insert(header::NAME, value);
        }
        response
    }
}

/// The request's exchange; one that came around the edge gets one, so that the proxy and we mean the same.
fn settle_exchange(request: &mut Request) -> Exchange {
    match Exchange::of(request) {
        Cow::Borrowed(exchange) => exchange.clone(),
        Cow::Owned(exchange) => {
            exchange.attach(request);
            exchange
        }
    }
}

/// What was settled about a request's trace when it arrived.
struct Trace {
    root: TraceId,
    sampled: bool,
    /// Whether a trusted caller asked for the decision.
    asked: bool,
    /// There if it is recorded.
    watch: Option<Watch>,
}

impl Tracer {
    /// Continues the caller's trace or begins one, decides, and stamps the request.
    fn enter(&self, request: &mut Request, exchange: &Exchange) -> Trace {
        let (caller, claimed) = self.caller(request, exchange);
        let started = exchange.started_at().duration_since(UNIX_EPOCH).unwrap_or_default();
        // The seconds since 1970 fit until 2106, and a trace id has no more room.
        let now = started.as_secs() as u32;

        let asked = caller.as_ref().map_or(Sampled::Unsaid, |caller| caller.sampled);
        let sampled = if exchange.is_rehearsal() {
            // Only asked about: it takes no real request's place in the reservoir, and is not counted.
            asked.decision().unwrap_or_default()
        } else {
            let decision = self.sampler.decide(asked.decision(), now, || fastrand::u64(..));
            self.counts.decided(decision);
            decision.sampled
        };
        let trace = Trace {
            root: caller.as_ref().map_or_else(|| TraceId::mint(now), |caller| caller.root),
            sampled,
            asked: asked == Sampled::Asked,
            watch: None,
        };
        let parent = caller.as_ref().and_then(|caller| caller.parent);
        let balancer = caller.as_ref().and_then(|caller| caller.balancer).filter(|_| trace.sampled).map(str::to_owned);
        let extras = caller.map(|caller| caller.extras).unwrap_or_default();

        let exporter = self.exporter.as_ref().filter(|_| trace.sampled && !exchange.is_rehearsal());
        let Some(exporter) = exporter else {
            // Nobody records a segment of ours, so the caller's stays the parent: a phantom would tear the trace.
            self.stamp(request, exchange, &trace, parent, &extras);
            return trace;
        };
        let id = SpanId::mint();
        self.stamp(request, exchange, &trace, Some(id), &extras);
        let stamps = self.subsegments.then(|| {
            let stamps = Stamps { root: trace.root, extras, propagate: self.propagate, given: Mutex::default() };
            let stamps = Arc::new(stamps);
            exchange.stamp_attempts(stamps.clone());
            stamps
        });
        let record = Record {
            profile: self.profile.clone(),
            name: self.name(request),
            trace: trace.root,
            id,
            parent,
            claimed,
            span: Span { start: micros(started), length: 0 },
            head: None,
            method: request.method().clone(),
            url: url(exchange.scheme(), host(request), request.uri().path()),
            user_agent: request.headers().get(USER_AGENT).cloned(),
            client: exchange.client().ok().map(|client| client.ip),
            forwarded: exchange
                .client()
                .is_ok_and(|client| matches!(client.origin, Origin::Forwarded(_) | Origin::XForwardedFor(_))),
            status: None,
            bytes: None,
            failure: None,
            grpc_status: None,
            route: None,
            service: None,
            annotations: pick(&self.annotate_headers, request, |(_, name)| name, |(key, _)| key.clone()),
            headers: pick(&self.metadata_headers, request, |name| name, Clone::clone),
            balancer,
            tries: 0,
            attempts: Vec::new(),
        };
        let watch = Watch {
            record: Some(Box::new(record)),
            exporter: exporter.clone(),
            exchange: exchange.clone(),
            stamps,
            sent: 0,
        };
        Trace { watch: Some(watch), ..trace }
    }

    /// What the caller says of its trace, if it is believed; else, where it is wanted, what it claims.
    fn caller<'a>(
        &self,
        request: &'a Request,
        exchange: &Exchange,
    ) -> (Option<TraceHeader<'a>>, Option<(TraceId, Option<SpanId>)>) {
        if !self.propagate {
            return (None, None);
        }
        // A tracer before us in the chain has written the header that is there now.
        let believed = exchange.trace_id().is_some()
            || match self.trust {
                Trust::Always => true,
                Trust::Never => false,
                Trust::TrustedProxies | Trust::Link => exchange.client().is_ok_and(|client| client.peer_is_trusted),
            };
        if !believed && self.trust != Trust::Link {
            return (None, None);
        }
        let values = request.headers().get_all(header::NAME);
        let header = header::read(values, |reason| {
            if !exchange.is_rehearsal() {
                self.counts.bad_header(reason);
            }
        });
        match header {
            Some(header) if believed => (Some(header), None),
            header => (None, header.map(|header| (header.root, header.parent))),
        }
    }

    /// Puts the one header onto the request that goes on, in place of all that came.
    fn stamp(
        &self,
        request: &mut Request,
        exchange: &Exchange,
        trace: &Trace,
        parent: Option<SpanId>,
        extras: &Extras,
    ) {
        if self.propagate {
            header::put(request.headers_mut(), trace.root, parent, trace.sampled, extras);
            exchange.settle_trace_id(trace.root.to_string());
        }
    }

    fn answer_header(&self, trace: &Trace) -> Option<HeaderValue> {
        let decision = trace.asked.then_some(trace.sampled);
        match self.response_header {
            ResponseHeader::Off => None,
            ResponseHeader::OnRequest => decision.map(|decision| header::answer(trace.root, Some(decision))),
            ResponseHeader::Always => Some(header::answer(trace.root, decision)),
        }
    }

    /// The segment's name, if the host may give it one. Anything a client can invent would make nodes of the service
    /// map without end.
    fn name(&self, request: &Request) -> Option<String> {
        if self.dynamic_name.is_empty() {
            return None;
        }
        let host = fold_host(host(request)?);
        self.dynamic_name.iter().any(|pattern| pattern.matches(&host)).then(|| segment_name(&host))
    }
}

/// The named headers that the request has, each with what it is kept as.
fn pick<W, K>(
    wanted: &[W],
    request: &Request,
    name: impl Fn(&W) -> &HeaderName,
    key: impl Fn(&W) -> K,
) -> Vec<(K, HeaderValue)> {
    let found = |wanted| request.headers().get(name(wanted)).map(|value| (key(wanted), value.clone()));
    wanted.iter().filter_map(found).collect()
}

/// The host that the client asked for, with its port. What stands before an `@` can be a password and is left out.
fn host(request: &Request) -> Option<&str> {
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = authority.or_else(|| request.headers().get(HOST)?.to_str().ok())?;
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    (!host.is_empty()).then_some(host)
}

/// Scheme, host and path. A path that stands for the whole server (`OPTIONS *`) is left out.
fn url(scheme: &str, host: Option<&str>, path: &str) -> String {
    let path = if path == "*" { "" } else { path };
    // A `Host` that is none could smuggle in what looks like a path or a query.
    let plain = |host: &&str| !host.contains(['/', '?', '#', '\\', ' ', '\t']);
    let Some(host) = host.filter(plain) else { return path.to_owned() };
    let mut url = String::with_capacity(scheme.len() + 3 + host.len() + path.len());
    url.push_str(scheme);
    url.push_str("://");
    url.push_str(host);
    url.push_str(path);
    url
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Gives every attempt a subsegment of its own, and tells the upstream its id.
struct Stamps {
    root: TraceId,
    extras: Extras,
    /// Whether the header may be touched.
    propagate: bool,
    given: Mutex<Vec<Stamped>>,
}

/// What one attempt was given.
struct Stamped {
    number: u32,
    id: SpanId,
    target: Uri,
}

impl StampAttempt for Stamps {
    fn stamp(&self, number: u32, target: &Uri, headers: &mut HeaderMap) {
        let id = SpanId::mint();
        let stamped = Stamped { number, id, target: target.clone() };
        self.given.lock().unwrap_or_else(PoisonError::into_inner).push(stamped);
        if self.propagate {
            header::put(headers, self.root, Some(id), true, &self.extras);
        }
    }
}

impl Stamps {
    /// The id that an attempt was given, and where it went. One that nobody stamped still has to have an id.
    fn of(&self, attempt: &Attempt) -> (SpanId, String) {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        match given.iter().find(|stamped| stamped.number == attempt.number) {
            Some(Stamped { id, target, .. }) => {
                (*id, url(target.scheme_str().unwrap_or("http"), Some(&attempt.instance), target.path()))
            }
            None => (SpanId::mint(), url("http", Some(&attempt.instance), "")),
        }
    }
}

/// Watches a recorded request to its end, however that comes: the last byte, a broken body, a client that leaves, a
/// panic. Dropped before that, it means that the client left.
struct Watch {
    /// There until it is handed over.
    record: Option<Box<Record>>,
    exporter: Arc<Exporter>,
    exchange: Exchange,
    /// `None` if attempts have no subsegments.
    stamps: Option<Arc<Stamps>>,
    /// Bytes of the body so far.
    sent: u64,
}

impl Watch {
    /// Notes the head of the answer.
    fn head(&mut self, response: &Response) {
        let Some(record) = &mut self.record else { return };
        record.status = Some(response.status().as_u16());
        record.head = Some(micros(self.exchange.started().elapsed()));
        if let Some(rejection) = Rejection::of(response) {
            record.failure = Some(Failure::refused(rejection.cause()));
        }
        // An answer without messages has its trailers in the head.
        self.trailers(response.headers());
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        let (Some(record), true) = (&mut self.record, self.exchange.is_grpc()) else { return };
        let status = trailers.get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
        record.grpc_status = status.or(record.grpc_status);
    }

    /// The answer is complete.
    fn complete(&mut self) {
        self.finish(None);
    }

    /// The answer broke off, and not by the client's doing.
    fn broken(&mut self, error: &axum::Error) {
        let cause = CutShort::cause_of(error).unwrap_or_else(|| {
            self.exchange.with_attempts(|attempts| match attempts.last() {
                Some(attempt) => attempt.cause.unwrap_or(Cause::ResetAfterHeaders),
                None => Cause::Internal,
            })
        });
        self.finish(Some(Failure::broken(cause)));
    }

    /// Nobody waits for the answer any more.
    fn abandoned(&mut self) {
        if std::thread::panicking() {
            return self.finish(Some(Failure::PANIC));
        }
        if let Some(record) = &mut self.record {
            record.status.get_or_insert(Cause::ClientClosed.status().as_u16());
        }
        self.finish(Some(Failure::CLIENT_GONE));
    }

    /// Completes the record and hands it over. Only the first call counts.
    fn finish(&mut self, failure: Option<Failure>) {
        let Some(mut record) = self.record.take() else { return };
        let (started, end) = (self.exchange.started(), Instant::now());
        record.span.length = micros(end.duration_since(started));
        record.failure = failure.or(record.failure);
        record.route = self.exchange.route().cloned();
        record.service = self.exchange.service().cloned();
        // The gateway writes the body of its own answers later; HEAD has none to count.
        let counted = record.head.is_some()
            && *self.exchange.method() != Method::HEAD
            && record.failure.is_none_or(|failure| failure.blame != Blame::Status);
        record.bytes = counted.then_some(self.sent);

        let (start, failure) = (record.span.start, record.failure);
        self.exchange.with_attempts(|attempts| {
            record.tries = attempts.len();
            let Some(stamps) = &self.stamps else { return };
            let last = attempts.len();
            record.attempts.extend(attempts.iter().enumerate().map(|(index, attempt)| {
                // How the request ended is how its last attempt ended, if that was still under way.
                let ending = failure.filter(|_| index + 1 == last);
                call(attempt, stamps.of(attempt), start, started, end, ending)
            }));
        });
        self.exporter.submit(record);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.abandoned();
    }
}

/// An attempt as it is recorded. `ending` is how the whole request failed, if this was its last attempt.
fn call(
    attempt: &Attempt,
    (id, url): (SpanId, String),
    start: u64,
    started: Instant,
    end: Instant,
    ending: Option<Failure>,
) -> Call {
    let begun = attempt.started.duration_since(started);
    let length = attempt.end.unwrap_or_else(|| end.duration_since(attempt.started));
    let failure = match (attempt.cause, ending) {
        // The proxy cannot tell why nobody waited any more: the client left, or a timeout around it struck.
        (Some(Cause::ClientClosed), Some(ending)) => Some(ending),
        (Some(cause), _) => Some(Failure::broken(cause)),
        // Complete as far as the attempt goes; whatever went wrong came after it.
        (None, _) if attempt.end.is_some() && attempt.status.is_some() => None,
        (None, Some(ending)) => Some(ending),
        (None, None) => attempt.status.is_none().then_some(Failure::NO_ANSWER),
    };
    Call {
        id,
        service: attempt.service.clone(),
        instance: attempt.instance.clone(),
        url,
        span: Span { start: start.saturating_add(micros(begun)), length: micros(length) },
        reused: attempt.reused,
        connect: attempt.connect.map(micros),
        head: attempt.first_byte.map(micros),
        status: attempt.status.map(|status| status.as_u16()),
        bytes: attempt.bytes,
        failure,
    }
}

/// A body on its way to the client.
struct Watched {
    body: Body,
    watch: Watch,
    /// Whether the answer is complete without a body: to HEAD, and by its status.
    bodiless: bool,
    /// How long it says it is.
    length: Option<u64>,
}

impl Watched {
    fn new(body: Body, watch: Watch) -> Self {
        let status =
            watch.record.as_ref().and_then(|record| record.status).and_then(|code| StatusCode::from_u16(code).ok());
        let bodiless = *watch.exchange.method() == Method::HEAD
            || status.is_some_and(|status| {
                status.is_informational() || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
            });
        let length = body.size_hint().exact();
        Self { body, watch, bodiless, length }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                self.watch.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(trailers) = frame.trailers_ref() {
                    self.watch.trailers(trailers);
                }
            }
            Some(Err(error)) => self.watch.broken(error),
            None => self.watch.complete(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    /// Servers stop asking when they know that nothing follows: then this is the last byte, and nobody left.
    fn drop(&mut self) {
        if self.bodiless || self.body.is_end_stream() || self.length == Some(self.watch.sent) {
            self.watch.complete();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_no_user_and_no_query() {
        let request = |uri: &str, host: Option<&str>| {
            let mut request = http::Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header(HOST, host);
            }
            request.body(Body::empty()).unwrap()
        };
        for (uri, given, wanted) in [
            ("/a/b?secret=1", Some("api.example.com:8080"), "http://api.example.com:8080/a/b"),
            ("http://h.example/x?q", Some("other"), "http://h.example/x"),
            ("http://user:password@h.example/x", None, "http://h.example/x"),
            ("/x", Some("user:password@h.example"), "http://h.example/x"),
            ("*", Some("h.example"), "http://h.example"),
            ("/only", None, "/only"),
            ("/only", Some("h.example/secret?token=1"), "/only"),
        ] {
            let request = request(uri, given);
            assert_eq!(url("http", host(&request), request.uri().path()), wanted);
        }
    }
}

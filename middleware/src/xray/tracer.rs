//! What happens to a request: decide, stamp, watch, remember.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Instant, UNIX_EPOCH};

use axum::body::Body;
use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::{Body as _, Frame, SizeHint};

use crate::body::{CutShort, is_bodiless};
use crate::{Around, Cause, Exchange, Next, Rejection, Request, Response};

use super::counts::RequestCounts;
use super::exporter::Exporter;
use super::header::{self, Sampled, TraceHeader};
use super::ids::{SpanId, TraceId};
use super::record::Failure;
use super::sampling::Sampler;
use super::segment::{About, Ending, Recorded, Segment, Targets, micros};
use super::settings::{ResponseHeader, Trust};

/// The middleware, built.
pub(super) struct Tracer {
    pub(super) about: Arc<About>,
    pub(super) annotate_headers: Vec<(Arc<str>, HeaderName)>,
    pub(super) metadata_headers: Vec<HeaderName>,
    pub(super) sampler: Sampler,
    pub(super) trust: Trust,
    pub(super) response_header: ResponseHeader,
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

/// What a caller says of its trace.
#[derive(Default)]
struct Caller<'a> {
    /// The header that is continued.
    believed: Option<TraceHeader<'a>>,
    /// What a caller that is not believed claims to continue.
    claimed: Option<(TraceId, Option<SpanId>)>,
    /// The header as it came, if there was only one.
    only: Option<&'a HeaderValue>,
}

impl Tracer {
    /// Continues the caller's trace or begins one, decides, and stamps the request.
    fn enter(&self, request: &mut Request, exchange: &Exchange) -> Trace {
        let Caller { believed: caller, claimed, only } = self.caller(request, exchange);
        // The seconds since 1970 fit until 2106, and a trace id has no more room.
        let now = exchange.started_at().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as u32;

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
        if self.about.propagate {
            exchange.settle_trace_id(TraceId::as_str(&trace.root.text()));
        }
        let parent = caller.as_ref().and_then(|caller| caller.parent);
        let balancer = caller.as_ref().and_then(|caller| caller.balancer).filter(|_| trace.sampled).map(str::to_owned);
        let extras = caller.map(|caller| caller.extras).unwrap_or_default();

        let exporter = self.exporter.as_ref().filter(|_| trace.sampled && !exchange.is_rehearsal());
        let Some(exporter) = exporter else {
            // Nobody records a segment of ours, so the caller's stays the parent: a phantom would tear the trace.
            if self.about.propagate
                && let Some(header) = header::renewed(only, trace.root, parent, trace.sampled, &extras)
            {
                request.headers_mut().insert(header::NAME, header);
            }
            return trace;
        };
        let id = SpanId::mint();
        let mut first_stamp = None;
        if self.about.propagate {
            // With the header of the attempt that most likely follows, for the price of one.
            let [ours, first] = header::pair(trace.root, [id, id.after(1)], &extras);
            request.headers_mut().insert(header::NAME, ours);
            first_stamp = Some(first);
        }
        let segment = Arc::new(Segment {
            about: self.about.clone(),
            trace: trace.root,
            id,
            parent,
            claimed,
            extras,
            balancer,
            user_agent: request.headers().get(USER_AGENT).cloned(),
            annotations: pick(&self.annotate_headers, request, |(_, name)| name, |(key, _)| key.clone()),
            headers: pick(&self.metadata_headers, request, |name| name, Clone::clone),
            first_stamp,
            targets: Targets::default(),
            ending: OnceLock::new(),
        });
        if self.about.subsegments {
            exchange.stamp_attempts(segment.clone());
        }
        let watch = Watch {
            recorded: Some(Recorded { segment, exchange: exchange.clone() }),
            exporter: exporter.clone(),
            head: None,
            status: None,
            failure: None,
            grpc_status: None,
            sent: 0,
        };
        Trace { watch: Some(watch), ..trace }
    }

    /// What the caller says of its trace, if it is believed; else, where it is wanted, what it claims.
    fn caller<'a>(&self, request: &'a Request, exchange: &Exchange) -> Caller<'a> {
        if !self.about.propagate {
            return Caller::default();
        }
        // A tracer before us in the chain has written the header that is there now.
        let believed = exchange.trace_id().is_some()
            || match self.trust {
                Trust::Always => true,
                Trust::Never => false,
                Trust::TrustedProxies | Trust::Link => exchange.client().is_ok_and(|client| client.peer_is_trusted),
            };
        if !believed && self.trust != Trust::Link {
            return Caller::default();
        }
        let values = request.headers().get_all(header::NAME);
        let header = header::read(values.iter(), |reason| {
            if !exchange.is_rehearsal() {
                self.counts.bad_header(reason);
            }
        });
        let only = header::only(&values);
        match header {
            Some(header) if believed => Caller { believed: Some(header), claimed: None, only },
            header => Caller { believed: None, claimed: header.map(|header| (header.root, header.parent)), only },
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

/// Watches a recorded request to its end, however that comes: the last byte, a broken body, a client that leaves, a
/// panic. Dropped before that, it means that the client left.
struct Watch {
    /// There until it is handed over.
    recorded: Option<Recorded>,
    exporter: Arc<Exporter>,
    head: Option<u64>,
    status: Option<StatusCode>,
    failure: Option<Failure>,
    grpc_status: Option<u32>,
    /// Bytes of the body so far.
    sent: u64,
}

impl Watch {
    /// Notes the head of the answer.
    fn head(&mut self, response: &Response) {
        let Some(recorded) = &self.recorded else { return };
        self.status = Some(response.status());
        self.head = Some(micros(recorded.exchange.started().elapsed()));
        if let Some(rejection) = Rejection::of(response) {
            self.failure = Some(Failure::refused(rejection.cause()));
        }
        // An answer without messages has its trailers in the head.
        self.trailers(response.headers());
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if !self.recorded.as_ref().is_some_and(|recorded| recorded.exchange.is_grpc()) {
            return;
        }
        let status = trailers.get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
        self.grpc_status = status.or(self.grpc_status);
    }

    /// Whether the answer is complete without a body: to HEAD, and by its status.
    fn is_bodiless(&self) -> bool {
        let method = self.recorded.as_ref().map_or(&Method::GET, |recorded| recorded.exchange.method());
        let status = self.status.unwrap_or_default();
        status.is_informational() || is_bodiless(method, status)
    }

    /// The answer is complete.
    fn complete(&mut self) {
        self.finish(None);
    }

    /// The answer broke off, and not by the client's doing.
    fn broken(&mut self, error: &axum::Error) {
        let Some(Recorded { exchange, .. }) = &self.recorded else { return };
        let cause = CutShort::cause_of(error).unwrap_or_else(|| {
            exchange.with_attempts(|attempts| match attempts.last() {
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
        self.status.get_or_insert(Cause::ClientClosed.status());
        self.finish(Some(Failure::CLIENT_GONE));
    }

    /// Notes how it ended and hands it over. Only the first call counts.
    fn finish(&mut self, failure: Option<Failure>) {
        let Some(recorded) = self.recorded.take() else { return };
        recorded.segment.ending.get_or_init(|| Ending {
            at: Instant::now(),
            head: self.head,
            status: self.status.map(|status| status.as_u16()),
            sent: self.sent,
            failure: failure.or(self.failure),
            grpc_status: self.grpc_status,
            attempts: recorded.exchange.copy_attempts(),
        });
        self.exporter.submit(recorded);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.abandoned();
    }
}

/// A body on its way to the client.
struct Watched {
    body: Body,
    watch: Watch,
    bodiless: bool,
    /// How long it says it is.
    length: Option<u64>,
}

impl Watched {
    fn new(body: Body, watch: Watch) -> Self {
        let bodiless = watch.is_bodiless();
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

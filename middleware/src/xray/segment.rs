//! A recorded request between the worker that serves it and the task that writes about it.
//!
//! A worker has better to do than to make texts. It leaves one [`Segment`] with what only it can know, and hands it on
//! together with the exchange, which knows the rest; the exporter's task makes a [`Record`] of the two.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::exchange::StampAttempt;
use crate::few::Few;
use crate::router::fold_host;
use crate::{Attempt, Cause, Exchange, Origin};

use super::header::{self, Extras};
use super::ids::{SpanId, TraceId};
use super::naming::{HostPattern, segment_name};
use super::record::{Blame, Call, Failure, Flags, Profile, Record, Span};

/// What all segments of one middleware have in common.
pub(super) struct About {
    pub(super) profile: Arc<Profile>,
    pub(super) dynamic_name: Vec<HostPattern>,
    /// Whether trace headers are read and written at all.
    pub(super) propagate: bool,
    /// Whether attempts have subsegments.
    pub(super) subsegments: bool,
}

/// One recorded request. All that recording it allocates besides its headers and the watch on its body.
pub(super) struct Segment {
    pub(super) about: Arc<About>,
    pub(super) trace: TraceId,
    pub(super) id: SpanId,
    pub(super) parent: Option<SpanId>,
    pub(super) claimed: Option<(TraceId, Option<SpanId>)>,
    pub(super) extras: Extras,
    pub(super) balancer: Option<String>,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) annotations: Vec<(Arc<str>, HeaderValue)>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// The header of the first attempt, made together with the request's own.
    pub(super) first_stamp: Option<HeaderValue>,
    pub(super) targets: Targets,
    pub(super) ending: OnceLock<Ending>,
}

/// How a request ended.
pub(super) struct Ending {
    pub(super) at: Instant,
    /// How long the head of the answer took, in microseconds.
    pub(super) head: Option<u64>,
    pub(super) status: Option<u16>,
    /// Bytes of body that were sent.
    pub(super) sent: u64,
    pub(super) failure: Option<Failure>,
    pub(super) grpc_status: Option<u32>,
    /// The attempts as they were then. What becomes of them later is not the request's any more.
    pub(super) attempts: Few<Attempt>,
}

/// What attempts were sent for. They all ask for the same, unless something odd stands between us and the proxy.
#[derive(Default)]
pub(super) struct Targets {
    usual: OnceLock<Uri>,
    others: Mutex<Vec<(u32, Uri)>>,
}

impl Targets {
    fn note(&self, number: u32, target: &Uri) {
        if self.usual.get_or_init(|| target.clone()) != target {
            self.others.lock().unwrap_or_else(PoisonError::into_inner).push((number, target.clone()));
        }
    }

    fn of(&self, number: u32) -> Option<Uri> {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let other = others.iter().find(|(other, _)| *other == number).map(|(_, target)| target);
        other.or_else(|| self.usual.get()).cloned()
    }
}

/// Gives every attempt a subsegment of its own, and tells the upstream its id.
impl StampAttempt for Segment {
    fn stamp(&self, number: u32, target: &Uri, headers: &mut HeaderMap) {
        self.targets.note(number, target);
        if self.about.propagate {
            let first = self.first_stamp.as_ref().filter(|_| number == 1).cloned();
            let header =
                first.unwrap_or_else(|| header::upstream(self.trace, Some(self.id.after(number)), true, &self.extras));
            headers.insert(header::NAME, header);
        }
    }
}

/// A recorded request that is over, as it waits for the exporter.
pub(super) struct Recorded {
    pub(super) segment: Arc<Segment>,
    pub(super) exchange: Exchange,
}

impl Recorded {
    /// Whether something went wrong that X-Ray shows in colour.
    pub(super) fn is_urgent(&self) -> bool {
        let ending = self.segment.ending.get();
        ending.is_some_and(|end| Flags::of_request(end.status, end.failure, end.grpc_status).any())
    }

    /// About how many bytes of memory it holds. Always the same for one request that is over.
    pub(super) fn weight(&self) -> usize {
        let Segment { balancer, user_agent, annotations, headers, ending, .. } = &*self.segment;
        let kept = annotations.iter().map(|(_, value)| value).chain(headers.iter().map(|(_, value)| value));
        let attempts = match ending.get().map(|ending| &ending.attempts) {
            Some(Few::Many(attempts)) => attempts.len() * size_of::<Attempt>(),
            _ => 0,
        };
        size_of::<Segment>()
            + self.exchange.weight()
            + balancer.as_ref().map_or(0, String::len)
            + user_agent.as_ref().map_or(0, HeaderValue::len)
            + kept.map(|value| 64 + value.len()).sum::<usize>()
            + attempts
    }

    /// All that is told of it.
    pub(super) fn record(&self) -> Record {
        let (segment, exchange) = (&*self.segment, &self.exchange);
        let ending = segment.ending.get();
        let started = exchange.started();
        let start = micros(exchange.started_at().duration_since(UNIX_EPOCH).unwrap_or_default());
        let end = ending.map_or(started, |ending| ending.at);
        let failure = ending.and_then(|ending| ending.failure);
        let head = ending.and_then(|ending| ending.head);
        let attempts = ending.map_or(&[][..], |ending| ending.attempts.as_slice());
        // The gateway writes the body of its own answers later; HEAD has none to count.
        let counted = head.is_some()
            && *exchange.method() != Method::HEAD
            && failure.is_none_or(|failure| failure.blame != Blame::Status);
        let told = if segment.about.subsegments { attempts } else { &[] };
        let calls = told.iter().enumerate().map(|(index, attempt)| {
            // How the request ended is how its last attempt ended, if that was still under way.
            let ending = failure.filter(|_| index + 1 == told.len());
            call(attempt, segment.call(attempt), start, started, end, ending)
        });
        Record {
            profile: segment.about.profile.clone(),
            name: segment.name(exchange),
            trace: segment.trace,
            id: segment.id,
            parent: segment.parent,
            claimed: segment.claimed,
            span: Span { start, length: micros(end.duration_since(started)) },
            head,
            method: exchange.method().clone(),
            url: url(exchange.scheme(), host(exchange.host()), exchange.target().path()),
            user_agent: segment.user_agent.clone(),
            client: exchange.client().ok().map(|client| client.ip),
            forwarded: exchange
                .client()
                .is_ok_and(|client| matches!(client.origin, Origin::Forwarded(_) | Origin::XForwardedFor(_))),
            status: ending.and_then(|ending| ending.status),
            bytes: ending.filter(|_| counted).map(|ending| ending.sent),
            failure,
            grpc_status: ending.and_then(|ending| ending.grpc_status),
            route: exchange.route().cloned(),
            service: exchange.service().cloned(),
            annotations: segment.annotations.clone(),
            headers: segment.headers.clone(),
            balancer: segment.balancer.clone(),
            tries: attempts.len(),
            attempts: calls.collect(),
        }
    }
}

impl Segment {
    /// Its name, if the host may give it one. Anything a client can invent would make nodes of the service map without
    /// end.
    fn name(&self, exchange: &Exchange) -> Option<String> {
        let patterns = &self.about.dynamic_name;
        if patterns.is_empty() {
            return None;
        }
        let host = fold_host(host(exchange.host())?);
        patterns.iter().any(|pattern| pattern.matches(&host)).then(|| segment_name(&host))
    }

    /// The id of an attempt's subsegment, and where it went.
    fn call(&self, attempt: &Attempt) -> (SpanId, String) {
        let target = self.targets.of(attempt.number);
        let scheme = target.as_ref().and_then(Uri::scheme_str).unwrap_or("http");
        let path = target.as_ref().map_or("", Uri::path);
        (self.id.after(attempt.number), url(scheme, Some(&attempt.instance), path))
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

/// The host that the client asked for, with its port. What stands before an `@` can be a password and is left out.
fn host(asked: Option<&HeaderValue>) -> Option<&str> {
    let host = asked?.to_str().ok()?;
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

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::header::HOST;

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
            let exchange = Exchange::of(&request(uri, given)).into_owned();
            assert_eq!(url("http", host(exchange.host()), exchange.target().path()), wanted);
        }
    }
}

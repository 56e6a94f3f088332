//! What is told of one recorded request: plain facts, put together when it is over by somebody who has time.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, Method};

use crate::{Cause, RouteInfo};

use super::ids::{SpanId, TraceId};

/// What all records of one middleware have in common.
#[derive(Debug, Default)]
pub struct Profile {
    /// The segments' name.
    pub name: String,
    /// Annotations that every segment carries.
    pub annotations: Vec<(String, Value)>,
}

/// An annotation's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Any other finite number.
    Number(f64),
    /// True or false.
    Flag(bool),
}

/// One request, from its arrival to the last byte of its answer.
#[derive(Debug)]
pub struct Record {
    /// What it shares with others.
    pub profile: Arc<Profile>,
    /// A name of its own, from its host.
    pub name: Option<String>,
    /// The trace.
    pub trace: TraceId,
    /// The segment.
    pub id: SpanId,
    /// The caller's subsegment.
    pub parent: Option<SpanId>,
    /// A trace that an untrusted caller claims to continue.
    pub claimed: Option<(TraceId, Option<SpanId>)>,
    /// When it began and ended.
    pub span: Span,
    /// How long the head of the answer took, in microseconds.
    pub head: Option<u64>,
    /// The method, as it was sent.
    pub method: Method,
    /// Scheme, host and path. Never a query, never a password.
    pub url: String,
    /// `User-Agent`.
    pub user_agent: Option<HeaderValue>,
    /// The client.
    pub client: Option<IpAddr>,
    /// Whether the client's address is somebody's word, from a forwarding header.
    pub forwarded: bool,
    /// The status that was sent.
    pub status: Option<u16>,
    /// How many bytes of body were sent.
    pub bytes: Option<u64>,
    /// What went wrong, if something did.
    pub failure: Option<Failure>,
    /// The answer's `grpc-status`.
    pub grpc_status: Option<u32>,
    /// The route.
    pub route: Option<Arc<RouteInfo>>,
    /// The service it was sent to.
    pub service: Option<Arc<str>>,
    /// Annotations of its own.
    pub annotations: Vec<(Arc<str>, HeaderValue)>,
    /// Headers worth keeping.
    pub headers: Vec<(http::HeaderName, HeaderValue)>,
    /// The `Self` of a load balancer.
    pub balancer: Option<String>,
    /// How many attempts there were upstream.
    pub tries: usize,
    /// Every attempt that has a subsegment, in order.
    pub attempts: Vec<Call>,
}

/// One attempt upstream.
#[derive(Debug)]
pub struct Call {
    /// The subsegment; the attempt's own `Parent` upstream.
    pub id: SpanId,
    /// The service asked for.
    pub service: Arc<str>,
    /// The instance's address.
    pub instance: Arc<str>,
    /// Where it was sent: scheme, host and path.
    pub url: String,
    /// When it began and ended.
    pub span: Span,
    /// Whether its connection was open already.
    pub reused: bool,
    /// How long it took to get a connection, in microseconds.
    pub connect: Option<u64>,
    /// How long the head of the answer took, in microseconds.
    pub head: Option<u64>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// The length of the answer.
    pub bytes: Option<u64>,
    /// What went wrong, if something did.
    pub failure: Option<Failure>,
}

/// A time and how long it lasted, in microseconds.
///
/// One reading of the calendar and one of a clock that only goes forward: whatever happens to the calendar in
/// between, nothing ends before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Since 1970.
    pub start: u64,
    /// From there on.
    pub length: u64,
}

impl Span {
    /// When it was over, since 1970.
    pub fn end(self) -> u64 {
        self.start.saturating_add(self.length)
    }
}

/// Something that went wrong, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// A short name, mostly that of a [`Cause`].
    pub kind: &'static str,
    /// A sentence.
    pub message: &'static str,
    /// Whose fault it is.
    pub blame: Blame,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The caller's, or nobody's: an `error` at most.
    Caller,
    /// Ours or the upstream's: a `fault`.
    Server,
    /// The status says it.
    Status,
}

impl Failure {
    /// The client went away before the answer was complete.
    pub const CLIENT_GONE: Failure = Failure {
        kind: "client_disconnect",
        message: "The client went away before the answer was complete.",
        blame: Blame::Caller,
    };

    /// The gateway's own code panicked.
    pub const PANIC: Failure =
        Failure { kind: "panic", message: "The gateway failed; its log says how.", blame: Blame::Server };

    /// The attempt was given up before there was an answer.
    pub const NO_ANSWER: Failure =
        Failure { kind: "no_answer", message: "The attempt was given up before its answer.", blame: Blame::Server };

    /// An answer that the gateway made itself: its status says whose fault it is.
    pub fn refused(cause: Cause) -> Self {
        match cause {
            Cause::ClientClosed => Self::CLIENT_GONE,
            cause => Self { kind: cause.name(), message: cause.meaning().trim(), blame: Blame::Status },
        }
    }

    /// Something that kept an answer from coming, or from being complete.
    pub fn broken(cause: Cause) -> Self {
        match cause {
            Cause::ClientClosed => Self::CLIENT_GONE,
            cause => Self { blame: Blame::Server, ..Self::refused(cause) },
        }
    }
}

/// What X-Ray shows in colour: the caller's error, too many requests, our fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// 4xx.
    pub error: bool,
    /// 429; `error` is set as well.
    pub throttle: bool,
    /// 5xx, or no answer.
    pub fault: bool,
}

impl Flags {
    /// Whether there is anything to show.
    pub fn any(self) -> bool {
        self.error || self.throttle || self.fault
    }

    /// Those of a whole request. gRPC says in a trailer how it went, under a status of 200.
    pub(super) fn of_request(status: Option<u16>, failure: Option<Failure>, grpc_status: Option<u32>) -> Self {
        let mut flags = Self::of(status, failure);
        match grpc_status {
            None | Some(0) => {}
            Some(8) => (flags.error, flags.throttle) = (true, true),
            Some(2 | 4 | 12..=15) => flags.fault = true,
            Some(_) => flags.error = true,
        }
        flags
    }

    fn of(status: Option<u16>, failure: Option<Failure>) -> Self {
        let status = status.unwrap_or(0);
        let blame = failure.map(|failure| failure.blame);
        Self {
            error: (400..500).contains(&status) || blame == Some(Blame::Caller),
            throttle: status == 429,
            fault: (500..600).contains(&status) || blame == Some(Blame::Server),
        }
    }
}

impl Record {
    /// The segment's flags.
    pub fn flags(&self) -> Flags {
        Flags::of_request(self.status, self.failure, self.grpc_status)
    }
}

impl Call {
    /// The subsegment's flags.
    pub fn flags(&self) -> Flags {
        Flags::of(self.status, self.failure)
    }
}

#[cfg(test)]
impl Record {
    /// A plain request that went well.
    pub(super) fn plain() -> Self {
        Self {
            profile: Arc::new(Profile { name: "edge".into(), annotations: Vec::new() }),
            name: None,
            trace: TraceId::mint(1_800_000_000),
            id: SpanId::mint(),
            parent: None,
            claimed: None,
            span: Span { start: 1_800_000_000_000_000, length: 1 },
            head: None,
            method: Method::GET,
            url: "http://h/".into(),
            user_agent: None,
            client: None,
            forwarded: false,
            status: Some(200),
            bytes: None,
            failure: None,
            grpc_status: None,
            route: None,
            service: None,
            annotations: Vec::new(),
            headers: Vec::new(),
            balancer: None,
            tries: 0,
            attempts: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_follow_the_status_and_who_is_to_blame() {
        let flags = |status, failure| {
            let flags = Flags::of(status, failure);
            (flags.error, flags.throttle, flags.fault)
        };
        let refused = |cause| Some(Failure::refused(cause));
        assert_eq!(flags(Some(200), None), (false, false, false));
        assert_eq!(flags(Some(404), None), (true, false, false));
        assert_eq!(flags(Some(403), refused(Cause::IpNotAllowed)), (true, false, false));
        assert_eq!(flags(Some(429), refused(Cause::RateLimited)), (true, true, false));
        assert_eq!(flags(Some(503), refused(Cause::NoInstance)), (false, false, true));
        assert_eq!(flags(Some(499), refused(Cause::ClientClosed)), (true, false, false));
        assert_eq!(flags(Some(200), Some(Failure::CLIENT_GONE)), (true, false, false));
        assert_eq!(flags(Some(200), Some(Failure::broken(Cause::ResetAfterHeaders))), (false, false, true));
        assert_eq!(flags(None, Some(Failure::broken(Cause::ConnectRefused))), (false, false, true));
        assert_eq!(flags(None, Some(Failure::PANIC)), (false, false, true));
    }
}

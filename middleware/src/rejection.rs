//! Every answer the gateway makes itself: one cause out of a closed list, made into a response in one place.
//!
//! A [`Rejection`] travels as a response without a body, and rides in the response's extensions so that the access
//! log, metrics and traces know why. [`finish`] writes the body when the answer leaves the gateway: there the request
//! id and the kind of client (gRPC or not) are known.

use std::borrow::Cow;
use std::fmt;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::Serialize;

use crate::Exchange;

macro_rules! causes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $status:literal;)+) => {
        /// Why the gateway answered a request itself. The list is closed: logs, metric labels and docs rely on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Cause { $($(#[doc = $doc])+ $variant,)+ }

        impl Cause {
            /// Every cause there is.
            pub const ALL: &'static [Cause] = &[$(Cause::$variant,)+];

            /// Its name in logs, metrics and problem bodies.
            pub const fn name(self) -> &'static str {
                match self { $(Cause::$variant => $name,)+ }
            }

            /// The status a client sees unless the middleware that refuses says otherwise.
            pub fn status(self) -> StatusCode {
                let code: u16 = match self { $(Cause::$variant => $status,)+ };
                StatusCode::from_u16(code).expect("the table holds valid status codes")
            }

            /// What it means, in one paragraph.
            pub const fn meaning(self) -> &'static str {
                match self { $(Cause::$variant => concat!($($doc, "\n"),+),)+ }
            }
        }
    };
}

causes! {
    /// No route matches the request.
    NoRoute = "no_route", 404;
    /// A route matches but for the method; `Allow` lists the methods that would do.
    MethodNotAllowed = "method_not_allowed", 405;
    /// The request is not well-formed HTTP, or not acceptable at an edge.
    BadRequest = "bad_request", 400;
    /// The connection was made for another host than the request is for, or under other terms than it needs.
    Misdirected = "misdirected", 421;
    /// The path is refused by the path policy, or can be read as a path of another route.
    PathRejected = "path_rejected", 400;
    /// The client's address is not allowed here.
    IpNotAllowed = "ip_not_allowed", 403;
    /// The client sent more than its share.
    RateLimited = "rate_limited", 429;
    /// The client did not prove who it is.
    Unauthenticated = "unauthenticated", 401;
    /// The client is known and may not do this.
    Forbidden = "forbidden", 403;
    /// The client did not send the request's head in time.
    HeaderTimeout = "header_timeout", 408;
    /// The request line is longer than this listener takes.
    UriTooLong = "uri_too_long", 414;
    /// The request's body is larger than this route takes.
    BodyTooLarge = "body_too_large", 413;
    /// The request's header block or one of its parts is too large.
    HeaderTooLarge = "header_too_large", 431;
    /// The service is not known to its registry.
    NoService = "no_service", 503;
    /// The service is known and has no instance at present.
    NoInstance = "no_instance", 503;
    /// Every instance of the service is ejected as unhealthy.
    AllEjected = "all_ejected", 503;
    /// The service's circuit breaker is open.
    CircuitOpen = "circuit_open", 503;
    /// No connection to the service became free in time, or too many requests wait for one.
    QueueFull = "queue_full", 503;
    /// The instance refused the connection, or could not be reached.
    ConnectRefused = "connect_refused", 502;
    /// The instance did not accept the connection in time.
    ConnectTimeout = "connect_timeout", 504;
    /// TLS with the instance failed.
    TlsUpstream = "tls_upstream", 502;
    /// The connection to the instance broke before its answer began.
    ResetBeforeHeaders = "reset_before_headers", 502;
    /// The connection to the instance broke in the middle of its answer.
    ResetAfterHeaders = "reset_after_headers", 502;
    /// The instance's answer was not well-formed HTTP.
    BadUpstreamResponse = "bad_upstream_response", 502;
    /// The instance did not begin its answer in time.
    FirstByteTimeout = "first_byte_timeout", 504;
    /// The request as a whole took longer than its route allows.
    RouteTimeout = "route_timeout", 504;
    /// Nothing moved on the connection for too long.
    IdleTimeout = "idle_timeout", 504;
    /// The client went away before the answer was complete.
    ClientClosed = "client_closed", 499;
    /// The gateway is about to stop and takes no new requests.
    Draining = "draining", 503;
    /// The gateway itself failed; its log says how.
    Internal = "internal", 500;
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Cause {
    /// The `grpc-status` a gRPC client sees for it.
    fn grpc_status(self, status: StatusCode) -> u8 {
        match (self, status.as_u16()) {
            (
                Cause::ConnectTimeout
                | Cause::FirstByteTimeout
                | Cause::RouteTimeout
                | Cause::IdleTimeout
                | Cause::HeaderTimeout,
                _,
            ) => 4,
            (_, 404 | 405) => 12,
            (_, 403) => 7,
            (_, 401) => 16,
            (_, 429 | 502..=504) => 14,
            (_, 400..=499) => 3,
            _ => 13,
        }
    }
}

/// A refusal: a cause, its status, and optional detail for the client.
///
/// The detail is public: it must never name an internal address.
#[derive(Debug, Clone)]
pub struct Rejection {
    cause: Cause,
    status: StatusCode,
    detail: Option<Cow<'static, str>>,
    note: Option<Cow<'static, str>>,
    headers: Option<Box<HeaderMap>>,
}

impl Rejection {
    /// A refusal with the cause's own status.
    pub fn new(cause: Cause) -> Self {
        Self { cause, status: cause.status(), detail: None, note: None, headers: None }
    }

    /// Another status than the cause's own.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// A sentence for the client.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// A sentence for the access log, which the client never sees: who was refused, and what decided.
    #[must_use]
    pub fn note(mut self, note: impl Into<Cow<'static, str>>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// A header on the answer, such as `Allow` or `Retry-After`.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.get_or_insert_default().insert(name, value);
        self
    }

    /// Logs what went wrong inside; the client never sees it.
    #[must_use]
    pub fn because(self, error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::warn!(cause = %self.cause, error, "refused a request");
        self
    }

    /// Why.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// The status the client sees.
    pub fn code(&self) -> StatusCode {
        self.status
    }

    /// The sentence for the client.
    pub fn told(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// The sentence for the access log.
    pub fn noted(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The rejection that a response carries, if the gateway made that response itself.
    pub fn of(response: &Response) -> Option<&Rejection> {
        response.extensions().get()
    }
}

impl IntoResponse for Rejection {
    /// A response that still lacks its body; [`finish`] writes it.
    fn into_response(mut self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        if let Some(headers) = self.headers.take() {
            *response.headers_mut() = *headers;
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// What a gRPC client is told at the end of an answer that had begun and was cut short for this cause.
pub fn grpc_trailers(cause: Cause) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    write_grpc(&mut trailers, cause, cause.status());
    trailers
}

fn write_grpc(headers: &mut HeaderMap, cause: Cause, status: StatusCode) {
    headers.insert("grpc-status", HeaderValue::from(u16::from(cause.grpc_status(status))));
    headers.insert("grpc-message", HeaderValue::from_static(cause.name()));
}

/// RFC 9457.
#[derive(Serialize)]
struct Problem<'a> {
    title: &'static str,
    status: u16,
    cause: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    request_id: &'a str,
}

/// Writes the body of an answer that the gateway made itself; any other answer is left alone.
///
/// The client gets `application/problem+json` with cause and request id (RFC 9457); a gRPC client gets a trailers-only
/// answer with the matching `grpc-status`.
pub fn finish(exchange: &Exchange, mut response: Response) -> Response {
    let Some(rejection) = response.extensions().get::<Rejection>() else { return response };
    let (cause, status) = (rejection.cause, rejection.status);

    if exchange.is_grpc() {
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        write_grpc(headers, cause, status);
        *response.status_mut() = StatusCode::OK;
        return response;
    }

    let problem = Problem {
        // A middleware may choose a status that nobody has named.
        title: status.canonical_reason().unwrap_or("Refused"),
        status: status.as_u16(),
        cause: cause.name(),
        detail: rejection.detail.as_deref(),
        request_id: exchange.request_id(),
    };
    let body = serde_json::to_vec(&problem).expect("strings and numbers serialise");
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    // RFC 9110 §9.3.2: an answer to HEAD describes the body and does not have it.
    *response.body_mut() = if *exchange.method() == Method::HEAD { Body::empty() } else { Body::from(body) };
    response
}

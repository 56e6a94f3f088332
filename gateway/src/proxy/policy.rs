//! How a service wants to be talked to: clocks, tries, headers.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use portcullis_config::Protocol;
use portcullis_config::file::{self, RetryOn};
use portcullis_config::units;

use super::pool::Limits;
use crate::tls;

/// How a service wants to be talked to.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What becomes of `Host`.
    pub host: Host,
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// When a request is tried again.
    pub retry: Retry,
    /// How to shake hands with instances, if they speak TLS.
    pub tls: Option<Arc<tls::Upstream>>,
    /// What is spoken with them.
    pub protocol: Protocol,
    /// What they are told of the client before anything else, if they want that.
    pub proxy_protocol: Option<file::ProxyProtocol>,
    /// How many connections to each there may be.
    pub limits: Limits,
}

/// Which `Host` an instance sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Host {
    /// The one the client asked for.
    #[default]
    Keep,
    /// The instance's own address.
    Instance,
}

/// How long each step of an attempt may take. `None` is without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until there is a connection, the lookup of a name included.
    pub connect: Option<Duration>,
    /// From the last byte of the request to the head of the answer.
    pub first_byte: Option<Duration>,
    /// Between two bytes of a body, either way; and in a tunnel that one side has nothing more to send through.
    pub idle: Option<Duration>,
    /// Between two bytes in a tunnel, either way.
    pub tunnel: Option<Duration>,
    /// From the begin of an attempt to the head of its answer.
    pub attempt: Option<Duration>,
}

/// When a request is tried again.
///
/// Two faults say that an instance did nothing with the request, and do not depend on its method: no connection came
/// about, or nothing of the request was looked at, since the connection was gone before anything was written to it or
/// the instance says so (HTTP/2 has words for that). A connection that was open already and breaks
/// before the answer begins most likely was closed by an idle instance; that is retried for idempotent methods. So are
/// all further reasons, of which a new connection that breaks is one unless a `retry` leaves it out: a `POST` that an
/// instance may have seen is never sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// How many tries there are, the first included.
    pub attempts: u32,
    /// Whether an instance that cannot be connected to is a reason.
    pub connect: bool,
    /// Whether any connection that breaks before the answer begins is a reason, not only one that was open already.
    pub reset: bool,
    /// The answers that are a reason.
    pub statuses: Vec<StatusCode>,
    /// Before the same instance is tried again, and after a status, the wait is a random part of this, doubled with
    /// every try.
    pub backoff: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 3, connect: true, reset: true, statuses: Vec::new(), backoff: Duration::from_millis(25) }
    }
}

/// What a route says itself about the services it sends to.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `timeouts.attempt` of the route.
    pub attempt: Option<Duration>,
    /// `retry` of the route.
    pub retry: Option<Retry>,
}

impl Default for Policy {
    fn default() -> Self {
        Self::from(&file::Service { keep_host: true, ..file::Service::default() })
    }
}

impl From<&file::Service> for Policy {
    fn from(service: &file::Service) -> Self {
        Self {
            host: if service.keep_host { Host::Keep } else { Host::Instance },
            timeouts: Timeouts {
                connect: service.timeouts.connect.limit(),
                first_byte: service.timeouts.first_byte.limit(),
                idle: service.timeouts.idle.limit(),
                tunnel: service.timeouts.tunnel.limit(),
                attempt: None,
            },
            retry: service.retry.as_ref().map(Retry::from).unwrap_or_default(),
            // Its files are read by whoever builds the plan.
            tls: None,
            protocol: service.protocol.value,
            proxy_protocol: service.proxy_protocol.as_ref().map(|version| version.value),
            limits: Limits::from(&service.connections),
        }
    }
}

/// A time so long that nobody waits for its end.
pub(super) const NEVER: Duration = units::Duration::LONGEST.get();

impl From<&file::Route> for Overrides {
    fn from(route: &file::Route) -> Self {
        Self {
            attempt: route.timeouts.as_ref().and_then(|timeouts| timeouts.attempt?.limit()),
            retry: route.retry.as_ref().map(Retry::from),
        }
    }
}

impl From<&file::Retry> for Retry {
    fn from(retry: &file::Retry) -> Self {
        let status = |on: &RetryOn| if let RetryOn::Status(status) = on { Some(*status) } else { None };
        Self {
            attempts: retry.attempts.get(),
            connect: retry.on.contains(&RetryOn::Connect),
            reset: retry.on.contains(&RetryOn::Reset),
            statuses: retry.on.iter().filter_map(status).collect(),
            backoff: retry.backoff.get(),
        }
    }
}

impl Retry {
    /// Whether a request may ever be sent again that an instance may have seen.
    pub(super) fn repeats(&self, method: &Method) -> bool {
        self.attempts > 1 && is_idempotent(method)
    }

    /// How long to wait before try number `next`.
    pub(super) fn wait(&self, next: u32) -> Duration {
        let longest = self.backoff.saturating_mul(1 << next.saturating_sub(2).min(16));
        longest.mul_f64(fastrand::f64())
    }
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_of_zero_is_off_and_none_is_longer_than_the_longest() {
        let timeouts = file::ServiceTimeouts {
            connect: units::Duration::from_secs(0),
            first_byte: units::Duration::from_secs(u64::MAX),
            ..file::ServiceTimeouts::default()
        };
        let timeouts = Policy::from(&file::Service { timeouts, ..file::Service::default() }).timeouts;
        assert_eq!((timeouts.connect, timeouts.first_byte), (None, Some(NEVER)));
        assert_eq!(timeouts.idle, Some(Duration::from_secs(60)));
    }

    #[test]
    fn the_wait_is_random_doubles_and_ends_somewhere() {
        let retry = Retry { backoff: Duration::from_millis(100), ..Retry::default() };
        for (next, longest) in [(2, 100), (3, 200), (4, 400)] {
            let waits: Vec<_> = (0..200).map(|_| retry.wait(next)).collect();
            assert!(waits.iter().all(|wait| *wait < Duration::from_millis(longest)));
            assert!(waits.iter().any(|wait| *wait > Duration::from_millis(longest / 2)));
        }
        let patient = Retry { backoff: NEVER, ..Retry::default() };
        assert!(patient.wait(u32::MAX) < Duration::MAX);
    }

    #[test]
    fn without_a_word_about_it_only_what_is_harmless_is_tried_again() {
        let retry = Policy::default().retry;
        assert!(retry.connect && retry.reset && retry.statuses.is_empty());
        assert!(retry.repeats(&Method::PUT) && !retry.repeats(&Method::POST) && !retry.repeats(&Method::PATCH));
        assert!(!Retry { attempts: 1, ..retry }.repeats(&Method::GET));
    }
}

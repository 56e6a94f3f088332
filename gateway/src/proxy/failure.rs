//! Why an attempt gave no answer, and whether another one may follow.

use http::StatusCode;
use portcullis_middleware::{Cause, Rejection};

/// Why an attempt gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    /// What is known about what the instance did.
    pub fault: Fault,
    /// What the client, the log and the metrics are told.
    pub cause: Cause,
    /// What the client did wrong.
    pub detail: Option<&'static str>,
}

/// What is known about what the instance did with the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing: there was no connection.
    Connect,
    /// Nothing: it has as many connections as it may have, and all were in use.
    Full,
    /// Nothing: the connection was gone before anything was written to it, or the instance says that it did not look at
    /// the request.
    Unsent,
    /// The connection broke before the answer began, and the instance may have acted.
    Reset,
    /// The same on a connection that had been open before: most likely it was closed as the request arrived.
    Stale,
    /// The answer did not begin in time.
    Timeout,
    /// It answered something that is not HTTP, or is so in two ways.
    BadAnswer,
    /// The client did not deliver the request.
    Client,
}

impl Failure {
    /// A fault and its cause.
    pub(super) fn new(fault: Fault, cause: Cause) -> Self {
        Self { fault, cause, detail: None }
    }

    /// The client did not deliver the request.
    pub(super) fn of_client((cause, detail): (Cause, Option<&'static str>)) -> Self {
        Self { fault: Fault::Client, cause, detail }
    }
}

impl From<Failure> for Rejection {
    fn from(failure: Failure) -> Self {
        let mut rejection = Rejection::new(failure.cause);
        if let Some(detail) = failure.detail {
            rejection = rejection.detail(detail).note(detail);
        }
        match failure {
            // The gateway did not wait in vain for an instance, but for the client.
            Failure { fault: Fault::Client, cause: Cause::IdleTimeout, .. } => {
                rejection.status(StatusCode::REQUEST_TIMEOUT)
            }
            // It has closed its side in the middle of its body, and may still listen.
            Failure { fault: Fault::Client, cause: Cause::ClientClosed, detail: Some(_) } => {
                rejection.status(StatusCode::BAD_REQUEST)
            }
            _ => rejection,
        }
    }
}

//! The last hop of a request that is only asked about: what would be sent, and to whom, without sending it.

use std::sync::{Arc, OnceLock};

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Uri};
use portcullis_middleware::{Cause, Rejection, Request, Response};

use super::headers::origin_form;
use super::policy::{Host, Retry, Timeouts};
use super::upstream::Upstream;
use crate::registry::Standing;

/// Where the last hop leaves what it would have done.
///
/// It rides in a request's extensions and makes it a rehearsal, which is only asked about: nothing of it is counted,
/// logged or sent.
#[derive(Debug, Clone, Default)]
pub struct Stage {
    offline: bool,
    sent: Arc<OnceLock<Rehearsed>>,
}

/// What the last hop would have done.
#[derive(Debug, Clone)]
pub struct Rehearsed {
    /// The service, by its name in the file or in the request.
    pub service: Arc<Upstream>,
    /// The method.
    pub method: Method,
    /// The target, as an instance would see it.
    pub target: Uri,
    /// The headers, as an instance would see them.
    pub headers: HeaderMap,
    /// The clocks in force.
    pub timeouts: Timeouts,
    /// When it would be tried again.
    pub retry: Retry,
}

impl Stage {
    /// A stage where no registry was asked, so that a service may have instances nobody knows of.
    pub fn offline() -> Self {
        Self { offline: true, ..Self::default() }
    }

    /// The stage of a request, if it is a rehearsal that somebody watches.
    pub fn of(request: &Request) -> Option<&Stage> {
        request.extensions().get()
    }

    /// Whether no registry was asked.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// What the last hop would have done, if it was reached and could.
    pub fn sent(&self) -> Option<&Rehearsed> {
        self.sent.get()
    }
}

/// Answers a request that was [prepared](super::headers) for an instance: `200` if there is one to send it to.
pub(super) fn rehearse(
    upstream: &Arc<Upstream>,
    timeouts: Timeouts,
    retry: &Retry,
    request: Request,
) -> Result<Response, Rejection> {
    let stage = Stage::of(&request).cloned().unwrap_or_default();
    let is_unknown = stage.offline && upstream.service().instances().standing == Standing::Pending;
    if !is_unknown && !upstream.table()?.has_turns() {
        return Err(Rejection::new(Cause::NoInstance));
    }
    let (mut head, _) = request.into_parts();
    if upstream.policy().host == Host::Instance {
        head.headers.insert(HOST, HeaderValue::from_static("(the instance's address)"));
    }
    let sent = Rehearsed {
        service: upstream.clone(),
        method: head.method,
        target: origin_form(&head.uri),
        headers: head.headers,
        timeouts,
        retry: retry.clone(),
    };
    // Only one hop of a chain sends the request on; copies of it are not sent in a rehearsal.
    let _ = stage.sent.set(sent);
    Ok(Response::default())
}

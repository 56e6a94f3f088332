//! The last hop of a chain: sends a request to an instance of a service, and streams the answer back.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::response::IntoResponse;
use http::StatusCode;
use portcullis_config::Forwarding;
use portcullis_middleware::layer::Hop;
use portcullis_middleware::timeout::until;
use portcullis_middleware::{Exchange, Rejection, Request, Response, Running};

use super::attempt::{Message, Turn};
use super::failure::{Failure, Fault};
use super::policy::{Overrides, Policy, Retry, Timeouts};
use super::rehearsal::rehearse;
use super::upstream::{Table, Upstream};
use super::{grpc, headers};

/// The end of a chain that sends requests to a service.
#[derive(Debug)]
pub struct Forward {
    service: Service,
    terms: Terms,
}

/// What the route says differently than its services.
#[derive(Debug, Clone)]
struct Terms {
    attempt: Option<Duration>,
    retry: Option<Arc<Retry>>,
}

/// Which service a request is sent to.
#[derive(Clone)]
pub enum Service {
    /// Always this one.
    Fixed(Arc<Upstream>),
    /// The one that the request names.
    Named(Arc<dyn Resolve>),
}

/// Finds the service that a request names.
pub trait Resolve: Send + Sync + 'static {
    /// The service, at once if it is known already.
    fn resolve(&self, request: &Request) -> Resolved;
}

/// What became of a request's service.
pub enum Resolved {
    /// It is known, or it is known that there is none.
    Now(Result<Arc<Upstream>, Rejection>),
    /// Somebody has to be asked.
    Later(Pin<Box<dyn Future<Output = Result<Arc<Upstream>, Rejection>> + Send>>),
}

impl Forward {
    /// Sends to this service, with what the route says differently.
    pub fn new(service: Service, overrides: Overrides) -> Self {
        let Overrides { attempt, retry } = overrides;
        Self { service, terms: Terms { attempt, retry: retry.map(Arc::new) } }
    }
}

impl Hop for Forward {
    fn run(&self, request: Request) -> Running {
        let terms = self.terms.clone();
        match &self.service {
            Service::Fixed(upstream) => send(upstream, terms, request),
            Service::Named(names) => {
                let resolved = names.resolve(&request);
                Running::boxed(async move {
                    let running = match resolved.upstream().await {
                        Ok(upstream) => send(&upstream, terms, request),
                        Err(rejection) => return rejection.into_response(),
                    };
                    running.await
                })
            }
        }
    }
}

/// Sends a request to a service. What it takes along refers to nothing that workers share, see [`Table`].
fn send(upstream: &Arc<Upstream>, terms: Terms, request: Request) -> Running {
    let exchange = Exchange::of(&request).into_owned();
    if exchange.is_rehearsal() {
        exchange.settle_service(upstream.name().clone());
        return Running::ready(
            rehearsal(upstream, &terms, &exchange, request).unwrap_or_else(Rejection::into_response),
        );
    }
    let deadline = if exchange.is_grpc() { grpc::deadline(&exchange, request.headers()) } else { None };
    match begin(upstream, &terms, &exchange, request) {
        Ok((table, mut message)) => {
            let answer =
                async move { forward(&table, &terms, &mut message).await.unwrap_or_else(Rejection::into_response) };
            match deadline {
                None => Running::boxed(answer),
                Some(deadline) => Running::boxed(until(deadline, answer)),
            }
        }
        Err(rejection) => Running::ready(rejection.into_response()),
    }
}

/// Finds out who is behind a service, and cleans the request's headers. What is done here and not in the future that
/// follows need not be kept in it.
fn begin(
    upstream: &Arc<Upstream>,
    terms: &Terms,
    exchange: &Exchange,
    mut request: Request,
) -> Result<(Arc<Table>, Message), Rejection> {
    let table = upstream.table().inspect_err(|_| exchange.settle_service(upstream.name().clone()))?;
    exchange.settle_service(table.name().clone());
    prepare(&mut request, exchange)?;
    let (head, body) = request.into_parts();
    let message = Message::new(exchange.clone(), head, body, terms.retry(table.policy()), table.policy())?;
    Ok((table, message))
}

fn rehearsal(
    upstream: &Arc<Upstream>,
    terms: &Terms,
    exchange: &Exchange,
    mut request: Request,
) -> Result<Response, Rejection> {
    prepare(&mut request, exchange)?;
    let policy = upstream.policy();
    rehearse(upstream, terms.timeouts(policy), terms.retry(policy), request)
}

/// The story of a forwarded request: pick an instance, try, perhaps try another, stream back.
async fn forward(table: &Table, terms: &Terms, message: &mut Message) -> Result<Response, Rejection> {
    let (timeouts, retry) = (terms.timeouts(table.policy()), terms.retry(table.policy()));
    let mut tried = Vec::new();
    let (mut pause, mut full) = (false, None);
    loop {
        let next = table.pick(&tried)?;
        // Others may have room. Who has none was waited for already.
        if let Some(failure) = full
            && tried.contains(&next)
        {
            return Err(Failure::into(failure));
        }
        if pause || tried.contains(&next) {
            tokio::time::sleep(retry.wait(tried.len() as u32 + 1)).await;
        }
        let another = retry.attempts > tried.len() as u32 + 1;
        let turn = Turn { may_reuse: tried.is_empty() || full.is_some(), is_last: !another };
        full = None;
        match message.send(table, next, &timeouts, turn).await {
            Ok(answer) if another && is_unwelcome(retry, message, answer.status()) => {
                answer.discard();
                pause = true;
            }
            Ok(answer) => return Ok(message.answer(answer, &timeouts)),
            Err(failure) if another && is_harmless(retry, message, failure) => {
                pause = false;
                full = (failure.fault == Fault::Full).then_some(failure);
            }
            Err(failure) => return Err(failure.into()),
        }
        tried.push(next);
    }
}

fn prepare(request: &mut Request, exchange: &Exchange) -> Result<(), Rejection> {
    let forwarding = request.extensions().get().copied().unwrap_or(Forwarding::X);
    headers::prepare(request, exchange, forwarding)
}

impl Terms {
    fn timeouts(&self, policy: &Policy) -> Timeouts {
        Timeouts { attempt: self.attempt.or(policy.timeouts.attempt), ..policy.timeouts }
    }

    fn retry<'a>(&'a self, policy: &'a Policy) -> &'a Retry {
        self.retry.as_deref().unwrap_or(&policy.retry)
    }
}

/// Whether another try may follow a failure: the instance did nothing, or the request can bear being done twice.
fn is_harmless(retry: &Retry, message: &Message, failure: Failure) -> bool {
    let allowed = match failure.fault {
        Fault::Unsent => true,
        Fault::Connect | Fault::Full => retry.connect,
        Fault::Stale => message.repeats,
        Fault::Reset => message.repeats && retry.reset,
        Fault::Timeout | Fault::BadAnswer | Fault::Client => false,
    };
    allowed && message.upload.can_be_sent()
}

/// Whether another instance should be asked although there is an answer.
fn is_unwelcome(retry: &Retry, message: &Message, status: StatusCode) -> bool {
    message.repeats && retry.statuses.contains(&status) && message.upload.can_be_sent()
}

impl Resolved {
    async fn upstream(self) -> Result<Arc<Upstream>, Rejection> {
        match self {
            Resolved::Now(upstream) => upstream,
            Resolved::Later(upstream) => upstream.await,
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Service::Fixed(upstream) => f.debug_tuple("Fixed").field(upstream).finish(),
            Service::Named(_) => f.write_str("Named"),
        }
    }
}

//! The last hop of a chain: sends a request to an instance of a service, and streams the answer back.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::response::IntoResponse;
use http::StatusCode;
use portcullis_config::Forwarding;
use portcullis_middleware::layer::Hop;
use portcullis_middleware::{Exchange, Rejection, Request, Response, Running};

use super::attempt::Message;
use super::failure::{Failure, Fault};
use super::headers;
use super::policy::{Overrides, Retry};
use super::rehearsal::rehearse;
use super::upstream::Upstream;

/// The end of a chain that sends requests to a service.
#[derive(Debug)]
pub struct Forward {
    service: Service,
    overrides: Arc<Overrides>,
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
        Self { service, overrides: Arc::new(overrides) }
    }
}

impl Hop for Forward {
    fn run(&self, request: Request) -> Running {
        let (service, overrides) = (self.service.clone(), self.overrides.clone());
        Running::boxed(async move {
            let upstream = match service {
                Service::Fixed(upstream) => Ok(upstream),
                Service::Named(names) => names.resolve(&request).upstream().await,
            };
            let answer = match upstream {
                Ok(upstream) => forward(&upstream, &overrides, request).await,
                Err(rejection) => Err(rejection),
            };
            answer.unwrap_or_else(Rejection::into_response)
        })
    }
}

/// The story of a forwarded request: clean its headers, pick an instance, try, perhaps try another, stream back.
async fn forward(upstream: &Arc<Upstream>, overrides: &Overrides, mut request: Request) -> Result<Response, Rejection> {
    let exchange = Exchange::of(&request).into_owned();
    exchange.settle_service(upstream.name().clone());
    let policy = upstream.policy();
    let (timeouts, retry) = (policy.timeouts_for(overrides), policy.retry_for(overrides));

    let forwarding = request.extensions().get().copied().unwrap_or(Forwarding::X);
    headers::prepare(&mut request, &exchange, forwarding)?;
    if exchange.is_rehearsal() {
        return rehearse(upstream, timeouts, retry, request);
    }
    let (head, body) = request.into_parts();
    let message = Message::new(exchange, head, body, retry);

    let table = upstream.table()?;
    let mut tried = Vec::new();
    let mut pause = false;
    loop {
        let next = table.pick(&tried)?;
        if pause || tried.contains(&next) {
            tokio::time::sleep(retry.wait(tried.len() as u32 + 1)).await;
        }
        // What is idle in the pools may be as stale as the connection that just broke.
        let fresh = !tried.is_empty();
        tried.push(next);
        let another = retry.attempts > tried.len() as u32;
        match message.send(upstream.name(), table.target(next), policy.host, &timeouts, fresh).await {
            Ok(answer) if another && is_unwelcome(retry, &message, answer.status()) => {
                answer.discard();
                pause = true;
            }
            Ok(answer) => {
                message.upload.settle();
                return Ok(answer.stream(message.upload, timeouts.idle));
            }
            Err(failure) if another && is_harmless(retry, &message, failure) => pause = false,
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// Whether another try may follow a failure: the instance did nothing, or the request can bear being done twice.
fn is_harmless(retry: &Retry, message: &Message, failure: Failure) -> bool {
    let allowed = match failure.fault {
        Fault::Unsent => true,
        Fault::Connect => retry.connect,
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

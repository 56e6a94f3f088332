//! One try to send one request to one instance, up to the head of its answer.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{CONTENT_LENGTH, EXPECT, HOST};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use portcullis_middleware::{Cause, Exchange};
use tokio::time::{Instant, sleep_until, timeout};

use super::answer::{self, Note};
use super::connection::Outgoing;
use super::failure::{Failure, Fault};
use super::headers;
use super::policy::{Host, NEVER, Retry, Timeouts};
use super::pool::Lease;
use super::upload::Upload;
use super::upstream::Target;

/// How long an instance may take to say `100 Continue`.
const GO_ON: Duration = Duration::from_secs(1);

/// A request, ready to be sent as often as need be.
pub(super) struct Message {
    pub(super) upload: Upload,
    /// Whether it can bear being done twice.
    pub(super) repeats: bool,
    exchange: Exchange,
    method: Method,
    target: Uri,
    headers: HeaderMap,
}

impl Message {
    /// Takes a request whose headers are [prepared](headers::prepare).
    pub(super) fn new(exchange: Exchange, head: Parts, body: Body, retry: &Retry) -> Self {
        let Parts { method, uri, mut headers, .. } = head;
        let repeats = retry.repeats(&method);
        let expects = headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let upload = Upload::new(body, repeats, expects);
        if !expects || upload.is_empty() {
            headers.remove(EXPECT);
        }
        Self { upload, repeats, exchange, target: headers::origin_form(&uri), method, headers }
    }

    /// Sends it to an instance. With `fresh`, over a connection that nobody used before.
    pub(super) async fn send(
        &self,
        service: &Arc<str>,
        target: &Target,
        host: Host,
        timeouts: &Timeouts,
        fresh: bool,
    ) -> Result<Answered, Failure> {
        let mut headers = self.headers.clone();
        if host == Host::Instance || !headers.contains_key(HOST) {
            headers.insert(HOST, target.authority.clone());
        }
        let number = self.exchange.begin_attempt(service.clone(), target.address.clone(), &self.target, &mut headers);
        let note = Note::new(&self.exchange, number);
        match self.try_send(headers, target, timeouts, fresh, &note).await {
            Ok((response, lease)) => Ok(Answered { response, lease, note }),
            Err(failure) => {
                note.failed(failure.cause);
                Err(failure)
            }
        }
    }

    async fn try_send(
        &self,
        headers: HeaderMap,
        target: &Target,
        timeouts: &Timeouts,
        fresh: bool,
        note: &Note,
    ) -> Result<(Response<hyper::body::Incoming>, Lease), Failure> {
        let deadline = note.started() + timeouts.attempt.unwrap_or(NEVER);
        let mut lease = connect(target, timeouts, deadline, fresh).await?;
        note.connected(lease.is_reused());

        let mut request: Outgoing = Request::new(self.upload.send());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = headers;

        let reused = lease.is_reused();
        let sent = self.in_time(timeouts, deadline, lease.connection().send(request)).await;
        let mut response = sent.map_err(|failure| self.explain(failure, reused))?;

        let length = response.body().size_hint().exact();
        note.answered(response.status(), length);
        headers::end_hop(response.headers_mut());
        if response.status() == StatusCode::NO_CONTENT {
            // RFC 9110 §8.6: there is no body, and no length of it.
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        Ok((response, lease))
    }

    /// Waits for the head of the answer as long as something moves: first the request's body, then the answer.
    async fn in_time<T>(
        &self,
        timeouts: &Timeouts,
        deadline: Instant,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut answer = pin!(answer);
        let sent = Instant::now();
        loop {
            let over = self.upload.is_over();
            let (limit, cause) = match over {
                true => (timeouts.first_byte, Cause::FirstByteTimeout),
                false => (timeouts.idle, Cause::IdleTimeout),
            };
            let moved = self.upload.moved().unwrap_or(sent);
            let (alarm, cause) = match moved + limit.unwrap_or(NEVER) {
                alarm if alarm < deadline => (alarm, cause),
                _ => (deadline, Cause::FirstByteTimeout),
            };
            if alarm <= Instant::now() {
                let client = cause == Cause::IdleTimeout && self.upload.is_starved();
                return Err(Failure::new(if client { Fault::Client } else { Fault::Timeout }, cause));
            }
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                () = sleep_until(alarm) => {}
                () = self.upload.over(), if !over => {}
                // RFC 9110 §10.1.1: nobody waits for ever to be told to go on.
                () = sleep_until(sent + GO_ON), if self.upload.is_held() => self.upload.go_on(),
            }
        }
    }

    /// Says whose fault it was.
    fn explain(&self, failure: Failure, reused: bool) -> Failure {
        match failure.fault {
            _ if let Some(cause) = self.upload.fault() => Failure::new(Fault::Client, cause),
            Fault::Reset if reused => Failure { fault: Fault::Stale, ..failure },
            _ => failure,
        }
    }
}

async fn connect(target: &Target, timeouts: &Timeouts, deadline: Instant, fresh: bool) -> Result<Lease, Failure> {
    if !fresh && let Some(lease) = target.pool.reuse() {
        return Ok(lease);
    }
    let left = deadline.saturating_duration_since(Instant::now()).min(timeouts.connect.unwrap_or(NEVER));
    let late = Failure::new(Fault::Connect, Cause::ConnectTimeout);
    timeout(left, target.pool.open()).await.unwrap_or(Err(late))
}

/// The head of an answer, and what its body comes over.
pub(super) struct Answered {
    response: Response<hyper::body::Incoming>,
    lease: Lease,
    note: Note,
}

impl Answered {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The answer for the client.
    pub(super) fn stream(self, upload: Upload, idle: Option<Duration>) -> Response<Body> {
        answer::stream(self.response, self.lease, self.note, upload, idle)
    }

    /// Another attempt follows.
    pub(super) fn discard(self) {
        self.note.discarded();
        if self.response.body().is_end_stream() {
            self.lease.release();
        }
    }
}

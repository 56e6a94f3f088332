//! One try to send one request to one instance, up to the head of its answer.

use std::future::poll_fn;
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Poll, ready};
use std::time::Duration;

use axum::body::Body;
use http::header::{CONTENT_LENGTH, EXPECT, HOST};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use portcullis_middleware::{Cause, Exchange};
use tokio::time::{Instant, timeout};

use super::answer::{self, Note};
use super::connection::{Connection, Outgoing, Reply, Unanswered};
use super::failure::{Failure, Fault};
use super::headers;
use super::policy::{Host, NEVER, Retry, Timeouts};
use super::pool::Lease;
use super::upload::{Progress, Upload};
use super::upstream::{Table, Target};

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
    /// Gone with the attempt after which no other one can follow.
    headers: HeaderMap,
    has_host: bool,
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
        let has_host = headers.contains_key(HOST);
        Self { upload, repeats, exchange, target: headers::origin_form(&uri), method, headers, has_host }
    }

    /// Sends it to an instance.
    pub(super) async fn send(
        &mut self,
        table: &Table,
        index: usize,
        timeouts: &Timeouts,
        turn: Turn,
    ) -> Result<Answered, Failure> {
        let target = table.target(index);
        if table.policy().host == Host::Instance || !self.has_host {
            self.headers.insert(HOST, target.authority.clone());
        }
        let (service, instance) = (table.name().clone(), target.address.clone());
        let number = match &table.policy().tls {
            None => self.exchange.begin_attempt(service, instance, &self.target, &mut self.headers),
            Some(_) => {
                let target = secure(&self.target, target);
                self.exchange.begin_attempt(service, instance, &target, &mut self.headers)
            }
        };
        let note = Note::new(&self.exchange, number, Instant::now());
        match self.try_send(target, timeouts, turn, &note).await {
            Ok((response, lease)) => Ok(Answered { response, lease, note }),
            Err(failure) => {
                note.failed(failure.cause);
                Err(failure)
            }
        }
    }

    async fn try_send(
        &mut self,
        target: &Target,
        timeouts: &Timeouts,
        turn: Turn,
        note: &Note,
    ) -> Result<(Reply, Lease), Failure> {
        let deadline = timeouts.attempt.map(|limit| note.started() + limit);
        let mut lease = connect(target, timeouts, deadline, note.started(), turn).await?;
        let clocks = Clocks { timeouts, deadline, sent: note.connected(lease.is_reused()) };

        // Once it may have been sent, another attempt follows only if it can bear being done twice.
        let keep = self.repeats && !turn.is_last;
        let reply = pin!(lease.connection().send(self.request(keep)));
        let mut response = match self.wait(lease.connection(), reply, &clocks).await {
            Ok(response) => response,
            Err(Unanswered { failure, unsent }) => {
                if let Some(unsent) = unsent {
                    self.headers = unsent;
                }
                return Err(self.explain(failure, lease.is_reused()));
            }
        };

        let length = response.body().size_hint().exact();
        note.answered(response.status(), length);
        headers::end_hop(response.headers_mut());
        if response.status() == StatusCode::NO_CONTENT {
            // RFC 9110 §8.6: there is no body, and no length of it.
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        Ok((response, lease))
    }

    /// The request for one attempt. Its headers are copied only if a further one may need them.
    fn request(&mut self, keep: bool) -> Outgoing {
        let mut request: Outgoing = Request::new(self.upload.send());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = if keep { self.headers.clone() } else { mem::take(&mut self.headers) };
        request
    }

    /// Waits for the head of the answer as long as something moves: first the request's body, then the answer.
    async fn wait(
        &self,
        connection: &mut Connection,
        mut reply: Pin<&mut impl Future<Output = Result<Reply, Unanswered>>>,
        clocks: &Clocks<'_>,
    ) -> Result<Reply, Unanswered> {
        poll_fn(|context| {
            loop {
                let quiet = self.upload.is_over();
                if let Poll::Ready(reply) = connection.poll_reply(reply.as_mut(), quiet, context) {
                    return Poll::Ready(reply);
                }
                let (alarm, then) = clocks.next(&self.upload);
                ready!(connection.poll_alarm(alarm, context));
                match then {
                    Then::GoOn => self.upload.go_on(),
                    Then::GiveUp(failure) => return Poll::Ready(Err(failure.into())),
                }
            }
        })
        .await
    }

    /// Says whose fault it was.
    fn explain(&self, failure: Failure, reused: bool) -> Failure {
        match failure.fault {
            _ if let Some(fault) = self.upload.fault() => Failure::of_client(fault),
            Fault::Reset if reused => Failure { fault: Fault::Stale, ..failure },
            _ => failure,
        }
    }
}

/// Which of a request's attempts one is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// What is idle in the pools may be as stale as the connection that just broke, so another try takes a new one.
    pub(super) is_first: bool,
    /// No other one can follow.
    pub(super) is_last: bool,
}

/// The clocks of one attempt.
struct Clocks<'a> {
    timeouts: &'a Timeouts,
    /// When the head of the answer must be there.
    deadline: Option<Instant>,
    /// When the request began to be sent.
    sent: Instant,
}

/// What happens when time is up.
enum Then {
    /// The body that was held goes out.
    GoOn,
    /// The attempt ends.
    GiveUp(Failure),
}

impl Clocks<'_> {
    /// What happens next if nothing moves, and when.
    fn next(&self, upload: &Upload) -> (Option<Instant>, Then) {
        let Progress { over, held, starved, moved } = upload.progress().unwrap_or(Progress::bodiless(self.sent));
        let (limit, cause) = match over {
            true => (self.timeouts.first_byte, Cause::FirstByteTimeout),
            false => (self.timeouts.idle, Cause::IdleTimeout),
        };
        let fault = if cause == Cause::IdleTimeout && starved { Fault::Client } else { Fault::Timeout };
        let mut next = (limit.map(|limit| moved + limit), Then::GiveUp(Failure::new(fault, cause)));
        let mut unless = |sooner: Option<Instant>, then| {
            if sooner.is_some_and(|sooner| next.0.is_none_or(|next| sooner <= next)) {
                next = (sooner, then);
            }
        };
        unless(self.deadline, Then::GiveUp(Failure::new(Fault::Timeout, Cause::FirstByteTimeout)));
        // RFC 9110 §10.1.1: nobody waits for ever to be told to go on.
        unless(held.then(|| self.sent + GO_ON), Then::GoOn);
        next
    }
}

/// What an instance is asked for over TLS, as others are told of it.
fn secure(asked: &Uri, target: &Target) -> Uri {
    let mut parts = asked.clone().into_parts();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Authority::try_from(target.authority.as_bytes()).ok();
    Uri::from_parts(parts).unwrap_or_else(|_| asked.clone())
}

async fn connect(
    target: &Target,
    timeouts: &Timeouts,
    deadline: Option<Instant>,
    now: Instant,
    turn: Turn,
) -> Result<Lease, Failure> {
    if turn.is_first
        && let Some(lease) = target.pool.reuse(now)
    {
        return Ok(lease);
    }
    let left = deadline.map_or(NEVER, |deadline| deadline.saturating_duration_since(Instant::now()));
    let late = Failure::new(Fault::Connect, Cause::ConnectTimeout);
    // Boxed, so that the requests which find an open connection have no room for it.
    let open = Box::pin(timeout(left.min(timeouts.connect.unwrap_or(NEVER)), target.pool.open()));
    open.await.unwrap_or(Err(late))
}

/// The head of an answer, and what its body comes over.
pub(super) struct Answered {
    response: Reply,
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
        let now = self.note.discarded();
        if self.response.body().is_end_stream() {
            self.lease.release(now);
        }
    }
}

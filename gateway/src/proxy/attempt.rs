//! One try to send one request to one instance, up to the head of its answer.

use std::future::poll_fn;
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use http::header::{CONTENT_LENGTH, EXPECT, HOST};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use portcullis_config::Protocol;
use portcullis_middleware::{Cause, Exchange, Rejection, Upgrade};
use tokio::time::{Instant, timeout};

use super::answer::{self, Carrier, Note, Stream};
use super::connection::stream::InFlight;
use super::connection::{Connection, Outgoing, Reply, Speak, Unanswered};
use super::failure::{Failure, Fault};
use super::headers;
use super::policy::{Host, NEVER, Policy, Retry, Timeouts};
use super::pool::Lease;
use super::sharing::{Seat, Way};
use super::trailers::Listed;
use super::tunnel::{self, Asked};
use super::upload::{Progress, Upload};
use super::upstream::{Table, Target};
use crate::proxy_protocol::Introduction;

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
    /// What an instance is told before the request, over a connection of the request's own.
    introduction: Option<Box<Introduction>>,
    /// Another protocol that the client asks for.
    asked: Option<Box<Asked>>,
}

impl Message {
    /// Takes a request whose headers are [prepared](headers::prepare).
    pub(super) fn new(
        exchange: Exchange,
        head: Parts,
        body: Body,
        retry: &Retry,
        policy: &Policy,
    ) -> Result<Self, Rejection> {
        let introduce = |version| Introduction::of(version, &exchange).map(Box::new);
        let introduction = policy.proxy_protocol.map(introduce).transpose()?;
        let Parts { method, uri, mut headers, mut extensions, .. } = head;
        // Connections that requests share go on in no other protocol.
        let asked = match policy.protocol {
            Protocol::Http1 | Protocol::Auto => Asked::take(&mut extensions),
            Protocol::H2 | Protocol::H2c => None,
        };
        // An instance may have begun another protocol by the time that its connection breaks.
        let repeats = asked.is_none() && retry.repeats(&method);
        // An instance that speaks HTTP/2 may say that it did nothing with a request whose body it got.
        let keep = repeats || retry.attempts > 1 && policy.protocol != Protocol::Http1;
        let expects = headers.contains_key(EXPECT);
        let upload = Upload::new(body, keep, expects);
        if upload.is_empty() {
            if expects {
                headers.remove(EXPECT);
            }
        } else if let Some(listed) = extensions.remove::<Listed>() {
            upload.leave_out(listed);
        }
        let has_host = headers.contains_key(HOST);
        let target = headers::origin_form(&uri);
        Ok(Self { upload, repeats, exchange, target, method, headers, has_host, introduction, asked })
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
            Ok((response, carrier)) => Ok(Answered { response, carrier, note }),
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
    ) -> Result<(Reply, Carrier), Failure> {
        let deadline = timeouts.attempt.map(|limit| note.started() + limit);
        let speak = match self.asked {
            Some(_) => Speak::Http1,
            None => target.pool.speak(self.exchange.is_grpc()),
        };
        let introduction = self.introduction.as_deref();
        // What becomes a tunnel is no connection for others, and must not turn out to have gone stale while it was idle.
        let must_be_new = self.asked.is_some() || introduction.is_some();
        let wanted = match turn {
            Turn { may_reuse: false, is_last: true } => Wanted::Another,
            Turn { may_reuse: true, .. } if !must_be_new => Wanted::Any,
            _ => Wanted::NotIdle,
        };
        let way = connect(target, speak, timeouts, deadline, note.started(), wanted, introduction).await?;
        let (mut response, carrier) = match way {
            Way::Alone(lease) => {
                let clocks = Clocks { timeouts, deadline, sent: note.connected(lease.is_reused()) };
                self.send_alone(lease, turn, &clocks).await?
            }
            // Boxed, so that requests over HTTP/1.1 have no room for it.
            Way::Shared(seat) => {
                let clocks = Clocks { timeouts, deadline, sent: note.connected(seat.is_reused()) };
                Box::pin(self.send_shared(seat, turn, &clocks)).await?
            }
        };

        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // A 101 that nobody asked for, or that agrees to something else, would leave the two ends in two protocols.
            if !self.asked.as_ref().is_some_and(|asked| asked.is_agreed_by(&response)) {
                return Err(Failure::new(Fault::BadAnswer, Cause::BadUpstreamResponse));
            }
        }

        let length = response.body().size_hint().exact();
        note.answered(response.status(), length);
        let required = Upgrade::required_by(&response);
        if let Some(listed) = headers::end_hop(response.headers_mut()) {
            response.extensions_mut().insert(listed);
        }
        // RFC 9110 §15.5.22: without it a 426 says nothing.
        if let Some(required) = required {
            required.write(response.headers_mut());
        }
        if response.status() == StatusCode::NO_CONTENT {
            // RFC 9110 §8.6: there is no body, and no length of it.
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        Ok((response, carrier))
    }

    async fn send_alone(
        &mut self,
        mut lease: Lease,
        turn: Turn,
        clocks: &Clocks<'_>,
    ) -> Result<(Reply, Carrier), Failure> {
        // Once it may have been sent, another attempt follows only if it can bear being done twice.
        let keep = self.repeats && !turn.is_last;
        let reply = pin!(lease.connection().send(self.request(keep)));
        match self.wait(Alone { connection: lease.connection(), reply }, clocks).await {
            Ok(mut response) => {
                // hyper goes on in the version of the answer, in which a body without a length would be lost.
                if mem::replace(response.version_mut(), Version::HTTP_11) == Version::HTTP_10 {
                    lease.use_once();
                }
                Ok((response, Carrier::Reader(lease)))
            }
            Err(Unanswered { failure, unsent }) => {
                if let Some(unsent) = unsent {
                    self.headers = unsent;
                }
                Err(self.explain(failure, lease.is_reused()))
            }
        }
    }

    async fn send_shared(&mut self, seat: Seat, turn: Turn, clocks: &Clocks<'_>) -> Result<(Reply, Carrier), Failure> {
        // The instance may yet say that it did nothing with it.
        let (mut stream, visit) = seat.send(self.request(!turn.is_last))?;
        match self.wait(&mut stream, clocks).await {
            Ok(response) => Ok((response, Carrier::Stream(Stream::new(stream.rest(), visit)))),
            Err(Unanswered { failure, .. }) => Err(self.explain(failure, false)),
        }
    }

    /// The answer for the client.
    pub(super) fn answer(&mut self, answered: Answered, timeouts: &Timeouts) -> Response<Body> {
        let Answered { response, carrier, note } = answered;
        self.upload.settle();
        match (self.asked.take(), carrier) {
            (Some(asked), Carrier::Reader(lease)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                tunnel::open(*asked, response, lease, note, self.exchange.clone(), timeouts)
            }
            (_, carrier) => answer::stream(response, carrier, note, self.upload.clone(), timeouts.idle),
        }
    }

    /// The request for one attempt. Its headers are copied only if a further one may need them.
    fn request(&mut self, keep: bool) -> Outgoing {
        let mut request: Outgoing = Request::new(self.upload.send());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = if keep { self.headers.clone() } else { mem::take(&mut self.headers) };
        if let Some(asked) = &self.asked {
            asked.write(request.headers_mut());
        }
        request
    }

    /// Waits for the head of the answer as long as something moves: first the request's body, then the answer.
    async fn wait(&self, mut answering: impl Answering, clocks: &Clocks<'_>) -> Result<Reply, Unanswered> {
        poll_fn(|context| {
            loop {
                let quiet = self.upload.is_over();
                if let Poll::Ready(reply) = answering.poll_reply(quiet, context) {
                    return Poll::Ready(reply);
                }
                let (alarm, then) = clocks.next(&self.upload);
                ready!(answering.poll_alarm(alarm, context));
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

/// What an answer comes over that has not begun.
trait Answering {
    /// The answer. With `quiet`, nothing is left to be sent.
    fn poll_reply(&mut self, quiet: bool, context: &mut Context<'_>) -> Poll<Result<Reply, Unanswered>>;

    /// Ready at a deadline.
    fn poll_alarm(&mut self, deadline: Option<Instant>, context: &mut Context<'_>) -> Poll<()>;
}

/// A connection that this exchange has for itself.
struct Alone<'a, F> {
    connection: &'a mut Connection,
    reply: Pin<&'a mut F>,
}

impl<F: Future<Output = Result<Reply, Unanswered>>> Answering for Alone<'_, F> {
    fn poll_reply(&mut self, quiet: bool, context: &mut Context<'_>) -> Poll<Result<Reply, Unanswered>> {
        self.connection.poll_reply(self.reply.as_mut(), quiet, context)
    }

    fn poll_alarm(&mut self, deadline: Option<Instant>, context: &mut Context<'_>) -> Poll<()> {
        self.connection.poll_alarm(deadline, context)
    }
}

impl Answering for &mut InFlight {
    fn poll_reply(&mut self, _: bool, context: &mut Context<'_>) -> Poll<Result<Reply, Unanswered>> {
        InFlight::poll_reply(self, context)
    }

    fn poll_alarm(&mut self, deadline: Option<Instant>, context: &mut Context<'_>) -> Poll<()> {
        InFlight::poll_alarm(self, deadline, context)
    }
}

/// Which connections will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Any,
    /// None that was idle: it may be gone.
    NotIdle,
    /// None that is there. Of those that are shared, one that is in use may be about to go, as an instance closes what it
    /// opened together, and this is the last chance.
    Another,
}

/// Which of a request's attempts one is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// A connection that is idle may do. It may be as stale as one that just broke, so the try after that takes a new one.
    pub(super) may_reuse: bool,
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
    speak: Speak,
    timeouts: &Timeouts,
    deadline: Option<Instant>,
    now: Instant,
    wanted: Wanted,
    introduction: Option<&Introduction>,
) -> Result<Way, Failure> {
    let limit = timeouts.connect.unwrap_or(NEVER);
    // A connection that is shared is watched by its driver, so that one which is gone is not among them.
    if speak != Speak::Http1
        && wanted != Wanted::Another
        && let Some(seat) = target.pool.enter(now, limit)
    {
        return Ok(Way::Shared(seat));
    }
    if speak != Speak::Http2
        && wanted == Wanted::Any
        && let Some(lease) = target.pool.reuse(now)
    {
        return Ok(Way::Alone(lease));
    }
    let left = deadline.map_or(NEVER, |deadline| deadline.saturating_duration_since(Instant::now()));
    let late = Failure::new(Fault::Connect, Cause::ConnectTimeout);
    // Boxed, so that the requests which find an open connection have no room for it.
    let open = async {
        match introduction {
            None if wanted == Wanted::Another && speak != Speak::Http1 => target.pool.open_another(speak, limit).await,
            None => target.pool.open(speak, limit).await,
            Some(introduction) => target.pool.open_for(introduction, limit).await,
        }
    };
    let most = limit.saturating_add(target.pool.limits.wait);
    Box::pin(timeout(left.min(most), open)).await.unwrap_or(Err(late))
}

/// The head of an answer, and what its body comes over.
pub(super) struct Answered {
    response: Reply,
    carrier: Carrier,
    note: Note,
}

impl Answered {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Another attempt follows.
    pub(super) fn discard(self) {
        let now = self.note.discarded();
        if let Carrier::Reader(lease) = self.carrier
            && self.response.body().is_end_stream()
        {
            lease.release(now);
        }
    }
}

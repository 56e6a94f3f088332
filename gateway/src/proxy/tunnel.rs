//! What follows a `101`: bytes of another protocol, both ways, until both sides have said that no more come.
//!
//! A tunnel opens only if the client asked for a protocol and the instance agreed to that very one; any other `101` is no
//! answer. The client's own `101` has a body that is not sent: it is the tunnel. Whoever serves the client reads it to its
//! end once the client's connection was given up by HTTP. So a tunnel lives and ends with the client's connection and counts
//! as one, and whatever follows bodies to their end (the access log, traces) sees how long it was open, and how it ended.
//!
//! Nothing is parsed, and nothing is kept but what one side has sent and the other has no room for. One side's end is passed
//! on, and the other may go on.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_LENGTH;
use http::{Extensions, HeaderMap, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use portcullis_middleware::body::CutShort;
use portcullis_middleware::{Cause, Exchange, Upgrade};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::answer::Note;
use super::connection::{Connection, Reply};
use super::policy::Timeouts;
use super::pool::{Lease, Tunnelled};
use crate::alarm::Alarm;

/// How much is read at a time.
const CHUNK: usize = 16 * 1024;

/// A client that asks for another protocol, and its connection, once HTTP has given it up.
pub(super) struct Asked {
    upgrade: Upgrade,
    client: OnUpgrade,
}

impl Asked {
    /// What a request asks for, out of its extensions.
    pub(super) fn take(extensions: &mut Extensions) -> Option<Box<Self>> {
        let upgrade = extensions.remove()?;
        Some(Box::new(Self { upgrade, client: extensions.remove()? }))
    }

    /// Asks an instance for the same. `TE` is of no use there, and would have to be named beside it.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        headers.remove(http::header::TE);
        self.upgrade.write(headers);
    }

    /// Whether an instance's `101` is an answer to it.
    pub(super) fn is_agreed_by(&self, reply: &Reply) -> bool {
        self.upgrade.is_agreed_by(reply)
    }
}

/// Makes the answer that goes to the client out of an instance's `101`.
pub(super) fn open(
    asked: Asked,
    mut reply: Reply,
    lease: Lease,
    note: Note,
    exchange: Exchange,
    timeouts: &Timeouts,
) -> Response<Body> {
    let instance = hyper::upgrade::on(&mut reply);
    let (mut head, _) = reply.into_parts();
    // RFC 9110 §8.6 has no length here; some instances say 0.
    head.headers.remove(CONTENT_LENGTH);
    asked.upgrade.write(&mut head.headers);
    let (connection, tunnelled) = lease.into_tunnel();
    let tunnel = Tunnel {
        client: asked.client,
        instance,
        connection,
        note,
        exchange,
        timeouts: *timeouts,
        _tunnelled: tunnelled,
    };
    let over = async move { tunnel.run().await.map(|()| Bytes::new()) };
    Response::from_parts(head, Body::from_stream(stream::once(over)))
}

struct Tunnel {
    client: OnUpgrade,
    instance: OnUpgrade,
    connection: Connection,
    note: Note,
    exchange: Exchange,
    timeouts: Timeouts,
    _tunnelled: Tunnelled,
}

impl Tunnel {
    /// From the moment that HTTP has given up both connections to the tunnel's end.
    async fn run(self) -> Result<(), CutShort> {
        let Self { client, instance, mut connection, note, exchange, timeouts, _tunnelled } = self;
        // Driven to its end, which is where hyper lets go of it. What is left is of no use: a queue for requests, which is
        // the largest part of a connection that rests.
        connection.settle().await;
        drop(connection);
        let joined = match (instance.await, client.await) {
            (Ok(instance), Ok(client)) => join(client, instance, &exchange, &timeouts).await,
            (Err(_), _) => Err(Cause::ResetAfterHeaders),
            (_, Err(_)) => Err(Cause::ClientClosed),
        };
        note.tunnelled(exchange.sent(), joined.err());
        joined.map_err(CutShort)
    }
}

/// Passes bytes both ways.
async fn join(client: Upgraded, instance: Upgraded, exchange: &Exchange, timeouts: &Timeouts) -> Result<(), Cause> {
    let (mut client, mut instance) = (TokioIo::new(client), TokioIo::new(instance));
    let (mut up, mut down) = (Flow::default(), Flow::default());
    let (mut moved, mut one_sided, mut alarm) = (Instant::now(), false, Alarm::default());
    poll_fn(|context| {
        let sent = up.pass(Pin::new(&mut client), Pin::new(&mut instance), context).map_err(|_| Cause::ClientClosed)?;
        let came =
            down.pass(Pin::new(&mut instance), Pin::new(&mut client), context).map_err(|_| Cause::ResetAfterHeaders)?;
        match (up.end, down.end) {
            (End::Broken, End::Passed | End::Broken) => return Poll::Ready(Err(Cause::ResetAfterHeaders)),
            (End::Passed, End::Broken) => return Poll::Ready(Err(Cause::ClientClosed)),
            (End::Passed, End::Passed) => return Poll::Ready(Ok(())),
            _ => {}
        }
        if sent + came > 0 {
            moved = Instant::now();
            exchange.note_received(sent);
            exchange.note_sent(came);
        }
        // One side alone has less time, from then on: the other may have left for good.
        if !one_sided && (up.is_over() || down.is_over()) {
            (one_sided, moved) = (true, Instant::now());
        }
        let limit = match one_sided {
            true => timeouts.idle.into_iter().chain(timeouts.tunnel).min(),
            false => timeouts.tunnel,
        };
        alarm.poll_until(limit.map(|limit| moved + limit), context).map(|()| Err(Cause::IdleTimeout))
    })
    .await
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// What was read and not written yet. An idle tunnel holds none.
    held: Vec<u8>,
    /// How much of it was written.
    written: usize,
    /// Whether something was written that may lie in a buffer of the receiver's.
    unflushed: bool,
    end: End,
}

/// How far the end of a direction has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum End {
    /// More may come.
    #[default]
    Open,
    /// The sender has said that no more comes.
    Seen,
    /// The receiver was told so.
    Passed,
    /// The receiver takes no more. What it has sent before may still be on its way.
    Broken,
}

impl Flow {
    fn is_over(&self) -> bool {
        matches!(self.end, End::Passed | End::Broken)
    }

    /// Passes on what there is and what there is room for. Returns how many bytes that were; an error is the sender's.
    fn pass(
        &mut self,
        from: Pin<&mut impl AsyncRead>,
        to: Pin<&mut impl AsyncWrite>,
        context: &mut Context<'_>,
    ) -> io::Result<u64> {
        let (mut from, mut to, mut passed) = (from, to, 0);
        while let Poll::Ready(step) = self.step(from.as_mut(), to.as_mut(), &mut passed, context) {
            match step {
                Ok(()) if self.is_over() => break,
                Ok(()) => {}
                Err(Broken::Sender(error)) => return Err(error),
                Err(Broken::Receiver) => {
                    (self.held, self.end) = (Vec::new(), End::Broken);
                    break;
                }
            }
        }
        Ok(passed)
    }

    fn step(
        &mut self,
        from: Pin<&mut impl AsyncRead>,
        mut to: Pin<&mut impl AsyncWrite>,
        passed: &mut u64,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        if self.is_over() {
            return Poll::Ready(Ok(()));
        }
        if !self.held.is_empty() {
            self.written += ready!(write(to, &self.held[self.written..], passed, context))?;
            if self.written == self.held.len() {
                (self.held, self.written) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        if self.end == End::Seen {
            // Whoever does not even hear this has sent all it had to send.
            let _ = ready!(to.poll_shutdown(context));
            self.end = End::Passed;
            return Poll::Ready(Ok(()));
        }
        let mut space = [const { MaybeUninit::uninit() }; CHUNK];
        let mut buffer = ReadBuf::uninit(&mut space);
        if from.poll_read(context, &mut buffer).map_err(Broken::Sender)?.is_pending() {
            if self.unflushed {
                ready!(to.poll_flush(context)).map_err(|_| Broken::Receiver)?;
                self.unflushed = false;
            }
            return Poll::Pending;
        }
        let mut rest = buffer.filled();
        if rest.is_empty() {
            self.end = End::Seen;
        }
        while !rest.is_empty() {
            self.unflushed = true;
            let Poll::Ready(count) = write(to.as_mut(), rest, passed, context)? else {
                self.held = rest.to_vec();
                return Poll::Pending;
            };
            rest = &rest[count..];
        }
        Poll::Ready(Ok(()))
    }
}

/// Who a direction broke at.
enum Broken {
    Sender(io::Error),
    Receiver,
}

fn write(
    to: Pin<&mut impl AsyncWrite>,
    bytes: &[u8],
    passed: &mut u64,
    context: &mut Context<'_>,
) -> Poll<Result<usize, Broken>> {
    match ready!(to.poll_write(context, bytes)) {
        Ok(count) if count > 0 => {
            *passed += count as u64;
            Poll::Ready(Ok(count))
        }
        _ => Poll::Ready(Err(Broken::Receiver)),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_the_receiver_has_no_room_for_is_all_that_is_kept() {
        let (mut sender, from) = duplex(1024 * 1024);
        let (to, mut receiver) = duplex(64);
        let (mut from, mut to) = (pin!(from), pin!(to));
        let mut flow = Flow::default();
        let sent: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        sender.write_all(&sent).await.unwrap();
        drop(sender);

        let pass = poll_fn(|context| match flow.pass(from.as_mut(), to.as_mut(), context) {
            Err(error) => Poll::Ready(Err(error)),
            Ok(_) if flow.is_over() => Poll::Ready(Ok(flow.end)),
            Ok(_) => {
                assert!(flow.held.capacity() <= CHUNK, "{}", flow.held.capacity());
                Poll::Pending
            }
        });
        let mut came = Vec::new();
        let (end, read) = tokio::join!(pass, receiver.read_to_end(&mut came));
        assert_eq!((end.unwrap(), read.unwrap()), (End::Passed, sent.len()));
        assert_eq!(came, sent);
    }

    #[tokio::test]
    async fn an_idle_direction_holds_nothing() {
        let (mut sender, from) = duplex(1024);
        let (to, mut receiver) = duplex(4);
        let (mut from, mut to) = (pin!(from), pin!(to));
        let mut flow = Flow::default();
        sender.write_all(b"something").await.unwrap();
        let mut came = [0; 9];
        let pass = poll_fn(|context| {
            flow.pass(from.as_mut(), to.as_mut(), context).unwrap();
            Poll::<()>::Pending
        });
        tokio::select! {
            () = pass => {}
            read = receiver.read_exact(&mut came) => drop(read.unwrap()),
        }
        assert_eq!((&came, flow.held.capacity()), (b"something", 0));
    }

    #[tokio::test]
    async fn a_receiver_that_is_gone_is_told_from_a_sender_that_is() {
        let (mut sender, from) = duplex(1024);
        let (to, receiver) = duplex(64);
        drop(receiver);
        let (mut from, mut to) = (pin!(from), pin!(to));
        let mut flow = Flow::default();
        sender.write_all(b"nobody hears").await.unwrap();
        let passed = poll_fn(|context| Poll::Ready(flow.pass(from.as_mut(), to.as_mut(), context))).await;
        assert_eq!((passed.unwrap(), flow.end), (0, End::Broken));
    }
}

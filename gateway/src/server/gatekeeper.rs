//! The [gate](super::strict) on a connection, and the clocks that run while it is shut.
//!
//! Nearly always a head comes whole. Then it is judged where the parser will read it, and costs no copy. Only what is not
//! whole yet is kept, in memory that is gone once the rest has come; so a parser never sees half of a head.
//!
//! A connection that rests for a while is left to [whoever waits with it](super::rest), so that the parser's memory is
//! free until the client asks again.
//!
//! What is refused is the end of the connection. Within a body, whoever reads the body gets the error. For a head there is
//! nobody to tell: the parser is told that the client is done, and once all earlier answers are out the connection
//! [takes its leave](super::farewell) with an answer of its own.

use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use portcullis_middleware::Cause;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Manners;
use super::exit::Exit;
use super::phase::Phase;
use super::strict::{Fault, Gate, Limits, Place, Refusal};
use crate::alarm::Alarm;

/// How much is read ahead while nobody knows which protocol it is of.
const AHEAD: usize = 16 * 1024;

/// How long a connection rests before the parser leaves it. Who asks once a second never notices.
const NAP_AFTER: Duration = Duration::from_secs(1);

/// The first line of HTTP/2's preface.
const PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// A connection whose bytes pass a gate.
pub(super) struct Gatekeeper<I> {
    /// Gone once the connection takes its leave.
    io: Option<I>,
    gate: Gate,
    /// What has come and was not read yet.
    held: Vec<u8>,
    /// How much of it may be read.
    free: usize,
    refusal: Option<Refusal>,
    /// Whether the parser was told that there is no more, because of the refusal.
    told: bool,
    phase: Phase,
    exit: Exit<Left<I>>,
    header: Option<Duration>,
    /// How long the connection may rest before it is left.
    rest: Duration,
    body_idle: Option<Duration>,
    /// Whether the client takes what is written as fast as it is written.
    writes_wait: bool,
    flush_waits: bool,
    /// Since when a head is on its way.
    head_since: Option<Instant>,
    // Boxed once per connection: hyper wants connections that can be moved.
    clock: Option<Pin<Box<Sleep>>>,
    /// Since when the client has no room for what is written.
    full_since: Option<Instant>,
    patience: Alarm,
}

/// A connection that hyper is done with, but that must not be closed yet.
pub(super) struct Left<I> {
    pub(super) io: I,
    pub(super) ending: Ending,
}

/// How hyper's part in a connection ended.
pub(super) enum Ending {
    /// The client asks for nothing, for now.
    Rest {
        /// Since then.
        since: Instant,
        /// Whether it has asked for something before.
        asked: bool,
        /// What has come all the same: line ends, or a half of one, which may stand before a request.
        held: Vec<u8>,
    },
    /// The client is not done. This is still to be answered.
    Undone(Option<Refusal>),
    /// An answer broke off that only the end of the connection tells from a whole one.
    Broken,
    /// It began with the preface of HTTP/2, so far as it was read. This is the answer where that may not be.
    Http2(Vec<u8>, Option<Refusal>),
}

impl<I> Gatekeeper<I> {
    /// The keeper of a connection of which `come` was read already.
    pub(super) fn new(io: I, come: Vec<u8>, manners: &Manners, phase: Phase, exit: Exit<Left<I>>) -> Self {
        let limits = Limits { request_line: manners.request_line, head: manners.header_size, headers: manners.headers };
        let mut keeper = Self {
            io: Some(io),
            gate: Gate::new(limits),
            held: come,
            free: 0,
            refusal: None,
            told: false,
            phase,
            exit,
            header: manners.header,
            rest: manners.idle.map_or(NAP_AFTER, |idle| idle.min(NAP_AFTER)),
            body_idle: manners.body_idle,
            writes_wait: false,
            flush_waits: false,
            head_since: None,
            clock: None,
            full_since: None,
            patience: Alarm::default(),
        };
        if !keeper.held.is_empty() {
            keeper.judge_held();
        }
        keeper
    }

    /// Whether a request that was let through has no answer yet, or one that is not over.
    fn owes_an_answer(&self) -> bool {
        self.gate.requests() > self.phase.answered()
    }

    /// Leaves the connection to whoever comes next.
    fn leave(&mut self, ending: Ending) {
        if let Some(io) = self.io.take() {
            self.exit.leave(Left { io, ending });
        }
    }

    /// Judges what has come into `buffer` behind `before`. Whatever may not be read yet is taken out again.
    fn judge(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let new = &buffer.filled()[before..];
        if self.held.is_empty() {
            let verdict = self.gate.judge(new);
            if verdict.pass < new.len() {
                self.hold(&new[verdict.pass..], verdict.refusal);
                buffer.set_filled(before + verdict.pass);
            }
            if verdict.pass > 0 {
                self.head_is_whole();
            }
        } else {
            self.held.extend_from_slice(new);
            buffer.set_filled(before);
            self.judge_held();
        }
    }

    #[cold]
    fn hold(&mut self, rest: &[u8], refusal: Option<Refusal>) {
        self.refusal = refusal;
        if self.refusal.as_ref().is_none_or(|refusal| refusal.fault == Fault::Http2) {
            self.held.extend_from_slice(rest);
        }
    }

    fn judge_held(&mut self) {
        let verdict = self.gate.judge(&self.held);
        self.free = verdict.pass;
        self.refusal = verdict.refusal;
        if self.free > 0 {
            self.head_is_whole();
        }
    }

    fn head_is_whole(&mut self) {
        if self.head_since.take().is_some() {
            self.phase.head(false);
        }
    }

    /// Moves into `buffer` what of the held bytes may be read.
    fn release(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.free.min(buffer.remaining());
        buffer.put_slice(&self.held[..count]);
        self.held.drain(..count);
        self.free -= count;
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }

    /// Finds out whether the request for another protocol was answered by now.
    fn is_answered(&mut self) -> bool {
        if self.phase.has_switched() || !self.owes_an_answer() {
            self.gate.answered(self.phase.has_switched());
            self.judge_held();
            return true;
        }
        false
    }

    /// What a reader hears of a refusal.
    fn tell(&mut self, refusal: Refusal, context: &Context<'_>) -> Poll<io::Result<()>> {
        if self.gate.place(&self.held) == Place::Broken {
            self.phase.shut();
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal)));
        }
        if self.owes_an_answer() {
            self.phase.wake_after_the_answer(context.waker());
            return Poll::Pending;
        }
        self.told = true;
        Poll::Ready(Ok(()))
    }

    /// Waits for bytes, but not for ever. Ready when it took too long.
    ///
    /// The clock is not set anew for every request. It is left to ring, and then looks whether it was for nothing.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // What is spoken after HTTP has clocks of its own.
        if self.phase.has_switched() {
            return Poll::Pending;
        }
        let place = if self.owes_an_answer() { Place::Body } else { self.gate.place(&self.held) };
        let deadline = match place {
            Place::Head => {
                let since = *self.head_since.get_or_insert_with(Instant::now);
                self.phase.head(true);
                self.header.map(|header| since + header)
            }
            // What the client has not taken yet would be lost.
            Place::Rest if !self.writes_wait && !self.flush_waits => Some(self.phase.rests_since() + self.rest),
            _ => None,
        };
        if self.gate.asks() {
            self.phase.wake_after_the_answer(context.waker());
        }
        loop {
            let clock = match &mut self.clock {
                Some(clock) if deadline.is_none_or(|deadline| clock.deadline() <= deadline) => clock,
                clock => {
                    // Nobody reads when an answer is over, so the clock must be running by then.
                    let at = deadline.unwrap_or_else(|| Instant::now() + self.rest);
                    match clock {
                        Some(clock) => clock.as_mut().reset(at),
                        None => *clock = Some(Box::pin(sleep_until(at))),
                    }
                    clock.as_mut().expect("it was set just now")
                }
            };
            ready!(clock.as_mut().poll(context));
            let now = Instant::now();
            match deadline {
                Some(deadline) if deadline <= now => return Poll::Ready(()),
                deadline => clock.as_mut().reset(deadline.unwrap_or(now + self.rest)),
            }
        }
    }
}

impl<I> Drop for Gatekeeper<I> {
    fn drop(&mut self) {
        if self.phase.would_look_whole() {
            self.leave(Ending::Broken);
        } else if self.phase.is_in_a_head() && self.phase.broken() == Some(Cause::Draining) {
            // A head that has no more time is answered, as one that takes too long.
            let refusal = self.gate.refuse(Fault::Draining, &self.held);
            self.leave(Ending::Undone(Some(refusal)));
        } else if self.told {
            // hyper closes nothing where a client has asked for another protocol and got an ordinary answer.
            let refusal = self.refusal.take();
            self.leave(Ending::Undone(refusal));
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Gatekeeper<I> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        loop {
            if this.free > 0 {
                this.release(buffer);
                return Poll::Ready(Ok(()));
            }
            if let Some(refusal) = &this.refusal {
                let refusal = refusal.clone();
                return this.tell(refusal, context);
            }
            if this.gate.asks() && this.is_answered() {
                continue;
            }
            let Some(io) = &mut this.io else { return Poll::Ready(Ok(())) };
            if this.gate.asks() && this.held.len() >= AHEAD {
                this.phase.wake_after_the_answer(context.waker());
                return Poll::Pending;
            }
            if Pin::new(io).poll_read(context, buffer)?.is_pending() {
                ready!(this.wait(context));
                if this.gate.place(&this.held) == Place::Rest {
                    let (since, asked) = (this.phase.rests_since(), this.gate.requests() > 0);
                    let held = mem::take(&mut this.held);
                    this.leave(Ending::Rest { since, asked, held });
                    return Poll::Ready(Ok(()));
                }
                this.refusal = Some(this.gate.refuse(Fault::HeaderTimeout, &this.held));
                continue;
            }
            if buffer.filled().len() == before {
                this.phase.shut();
                // Whoever leaves while we owe an answer has left; whoever stops in a head may still listen.
                if this.owes_an_answer() || this.gate.place(&this.held) != Place::Head {
                    return Poll::Ready(Ok(()));
                }
                this.refusal = Some(this.gate.refuse(Fault::Unfinished, &this.held));
                continue;
            }
            this.judge(buffer, before);
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<I: AsyncWrite + Unpin> Gatekeeper<I> {
    fn io(&mut self) -> io::Result<Pin<&mut I>> {
        self.io.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// What becomes of writing `all` so many bytes.
    fn written(
        &mut self,
        written: Poll<io::Result<usize>>,
        all: impl FnOnce() -> usize,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.writes_wait = !matches!(written, Poll::Ready(Ok(count)) if count == all());
        self.patiently(written, context)
    }

    /// Gives a client up that has had no room for too long.
    fn patiently<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        match written {
            Poll::Pending => self.wait_for_room(context).map(Err),
            written => {
                self.full_since = None;
                written
            }
        }
    }

    #[cold]
    fn wait_for_room(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if self.phase.has_switched() {
            return Poll::Pending;
        }
        let Some(limit) = self.body_idle else { return Poll::Pending };
        let since = *self.full_since.get_or_insert_with(Instant::now);
        ready!(self.patience.poll_until(since.checked_add(limit), context));
        self.phase.break_off(Cause::IdleTimeout);
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client did not read its answer"))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Gatekeeper<I> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.io()?.poll_write(context, data);
        this.written(written, || data.len(), context)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = this.io()?.poll_flush(context);
        this.flush_waits = flushed.is_pending();
        this.patiently(flushed, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(io) = &mut this.io else { return Poll::Ready(Ok(())) };
        if matches!(this.gate.place(&this.held), Place::Rest | Place::Elsewhere) {
            let closed = Pin::new(io).poll_shutdown(context);
            return this.patiently(closed, context);
        }
        // The client is not done. If we closed now, what it still sends would be answered with a reset, and that would
        // overtake our last words.
        let refusal = if this.told { this.refusal.take() } else { None };
        // Somebody who speaks HTTP/2 says so at once.
        let is_preface = this.gate.requests() == 0 && this.held.starts_with(PREFACE_LINE);
        let ending = match is_preface {
            true => Ending::Http2(mem::take(&mut this.held), refusal),
            false => Ending::Undone(refusal),
        };
        this.leave(ending);
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.io()?.poll_write_vectored(context, data);
        this.written(written, || data.iter().map(|part| part.len()).sum(), context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;

    fn kept() -> (DuplexStream, Gatekeeper<DuplexStream>, Phase) {
        let (client, io) = duplex(4096);
        let phase = Phase::since(Instant::now());
        (client, Gatekeeper::new(io, Vec::new(), &Manners::default(), phase.clone(), Exit::new()), phase)
    }

    async fn read(keeper: &mut Gatekeeper<DuplexStream>) -> Vec<u8> {
        let mut bytes = [0; 16];
        let count = keeper.read(&mut bytes).await.unwrap();
        bytes[..count].to_vec()
    }

    #[tokio::test]
    async fn a_head_is_read_once_it_is_whole_also_in_small_pieces_and_leaves_nothing_behind() {
        let (mut client, mut keeper, _) = kept();
        let head = b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n";
        client.write_all(&head[..20]).await.unwrap();
        assert_eq!(read(&mut keeper).now_or_never(), None);
        client.write_all(&head[20..]).await.unwrap();
        let mut came = Vec::new();
        while came.len() < head.len() {
            came.extend(read(&mut keeper).await);
        }
        assert_eq!(came, head);
        assert_eq!(keeper.held.capacity(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_rests_is_left_but_not_while_the_client_has_not_taken_all() {
        let (mut client, io) = duplex(8);
        let exit = Exit::new();
        let mut keeper =
            Gatekeeper::new(io, Vec::new(), &Manners::default(), Phase::since(Instant::now()), exit.clone());
        assert_eq!(keeper.write(b"answered").await.unwrap(), 8);
        assert!(keeper.write(b"more").now_or_never().is_none());
        let reading = timeout(Duration::from_secs(30), keeper.read(&mut [0; 16])).await;
        assert!(reading.is_err() && exit.take().is_none(), "the rest of the answer is still here");

        client.read_exact(&mut [0; 8]).await.unwrap();
        assert_eq!(keeper.write(b"more").await.unwrap(), 4);
        assert_eq!(read(&mut keeper).await, b"");
        assert!(matches!(exit.take(), Some(Left { ending: Ending::Rest { .. }, .. })));
    }

    #[tokio::test]
    async fn another_protocol_passes_as_it_is_once_both_agree_on_it() {
        let (mut client, mut keeper, phase) = kept();
        let asks = b"GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n";
        client.write_all(&[&asks[..], b"\0early"].concat()).await.unwrap();
        let mut came = Vec::new();
        while came.len() < asks.len() {
            came.extend(read(&mut keeper).await);
        }
        assert_eq!(came, asks);
        assert_eq!(read(&mut keeper).now_or_never(), None, "nobody knows yet what it is");

        phase.switch();
        drop(phase.until_the_answer_ends(Some(Body::empty())));
        assert_eq!(read(&mut keeper).await, b"\0early");
        client.write_all(b"\0\n\r").await.unwrap();
        assert_eq!(read(&mut keeper).await, b"\0\n\r");
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_is_woken_when_it_is_over() {
        let (mut client, mut keeper, phase) = kept();
        let (head, bad) = (b"GET /a HTTP/1.1\r\n", b"\0");
        client.write_all(&[&head[..], b"\r\n", bad].concat()).await.unwrap();
        let mut came = Vec::new();
        while came.len() < head.len() + 2 {
            came.extend(read(&mut keeper).await);
        }
        let answer = phase.until_the_answer_ends(Some(Body::empty()));
        let reading = tokio::spawn(async move { read(&mut keeper).await });
        tokio::task::yield_now().await;
        assert!(!reading.is_finished());
        drop(answer);
        assert_eq!(reading.await.unwrap(), b"", "the reader is told that there is no more");
    }
}

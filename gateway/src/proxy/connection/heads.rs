//! What hyper would take as the head of an answer and nobody should: lines that end in a bare line feed, empty lines
//! before the status line, and interim answers without end.
//!
//! RFC 9112 §2.2 lets a reader take a bare line feed as the end of a line. Then two readers may see two answers, and one
//! of them may be a cache. Interim answers (1xx) are dropped one by one, all in one turn of the connection's: an instance that sends nothing
//! else could keep a worker busy for ever.
//!
//! Only heads are looked at, as they arrive. A body is hyper's to read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many interim answers may come before the answer.
const INTERIM: u32 = 16;

/// As much of a status line as says the status: `HTTP/1.1 200`.
const STATUS: usize = 12;

/// A connection to an instance, whose answers' heads are looked at.
pub(super) struct Heads<S> {
    stream: S,
    awaited: Awaited,
    head: Head,
}

/// Whether the head of an answer comes next. Said by who sends a request, taken back when the head is over.
#[derive(Clone, Default)]
pub(super) struct Awaited(Arc<AtomicBool>);

impl Awaited {
    pub(super) fn begin(&self) {
        self.0.store(true, Relaxed);
    }
}

impl<S> Heads<S> {
    pub(super) fn new(stream: S) -> (Self, Awaited) {
        let awaited = Awaited::default();
        (Self { stream, awaited: awaited.clone(), head: Head::default() }, awaited)
    }
}

/// How far a head is.
#[derive(Default)]
struct Head {
    /// The status line's begin.
    status: [u8; STATUS],
    /// How many bytes of the line are here.
    line: usize,
    /// Whether the line is not the first.
    begun: bool,
    /// The last byte that was looked at.
    last: u8,
    interim: u32,
}

impl Head {
    /// Looks at what has come. `true` once the head of the answer itself is over.
    fn look(&mut self, mut bytes: &[u8]) -> Result<bool, &'static str> {
        loop {
            if !self.begun && self.line < STATUS {
                let room = &mut self.status[self.line..];
                let count = room.len().min(bytes.len());
                room[..count].copy_from_slice(&bytes[..count]);
            }
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.last = bytes.last().copied().unwrap_or(self.last);
                self.line += bytes.len();
                return Ok(false);
            };
            let before = if end == 0 { self.last } else { bytes[end - 1] };
            if before != b'\r' {
                return Err("a line of the answer's head ends in a bare line feed");
            }
            let is_empty = self.line + end == 1;
            (self.line, self.last, bytes) = (0, b'\n', &bytes[end + 1..]);
            match (self.begun, is_empty) {
                (false, true) => return Err("the answer begins with an empty line"),
                (false, false) => self.begun = true,
                (true, false) => {}
                (true, true) if self.is_interim() => {
                    self.begun = false;
                    self.interim += 1;
                    if self.interim > INTERIM {
                        return Err("too many interim answers");
                    }
                }
                (true, true) => return Ok(true),
            }
        }
    }

    fn is_interim(&self) -> bool {
        self.status[STATUS - 3] == b'1' && !self.status.ends_with(b"101")
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        if this.awaited.0.load(Relaxed) {
            match this.head.look(&buffer.filled()[before..]) {
                Ok(false) => {}
                Ok(true) => {
                    this.awaited.0.store(false, Relaxed);
                    this.head = Head::default();
                }
                Err(fault) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, data)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a look at these bytes comes to, cut in two anywhere, and how many of them were looked at by then.
    fn looked(bytes: &str) -> Result<bool, &'static str> {
        let whole = Head::default().look(bytes.as_bytes());
        for at in 0..bytes.len() {
            let mut head = Head::default();
            let (one, other) = bytes.as_bytes().split_at(at);
            let parts = match head.look(one) {
                Ok(false) => head.look(other),
                early => early,
            };
            assert_eq!(parts, whole, "{bytes:?} cut at {at}");
        }
        whole
    }

    #[test]
    fn a_head_is_over_at_its_empty_line_and_what_follows_is_not_looked_at() {
        assert_eq!(looked("HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody\nwith\nlines\n"), Ok(true));
        assert_eq!(looked("HTTP/1.1 101 Switching\r\n\r\n\n\n"), Ok(true));
        assert_eq!(looked("HTTP/1.1 200 OK\r\nA: b\r\n"), Ok(false));
        assert_eq!(looked(""), Ok(false));
    }

    #[test]
    fn interim_answers_are_looked_through_but_not_for_ever() {
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n";
        let last = "HTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(looked(&format!("{}{last}", interim.repeat(16))), Ok(true));
        assert!(looked(&interim.repeat(17)).is_err());
        assert!(looked(&format!("{interim}HTTP/1.1 200 OK\n\r\n")).is_err());
    }

    #[test]
    fn lines_end_in_both_bytes_and_none_comes_before_the_status() {
        for bad in
            ["HTTP/1.1 200 OK\n\n", "HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n", "HTTP/1.1 200 OK\r\n\n", "\r\nHTTP", "\n"]
        {
            assert!(looked(bad).is_err(), "{bad:?}");
        }
    }
}

//! What hyper would take as an answer's framing and nobody should: lines that end in a bare line feed, empty lines before
//! the status line, interim answers without end, and sizes of chunks that are not what RFC 9112 says they are.
//!
//! RFC 9112 §2.2 lets a reader take a bare line feed as the end of a line, and hyper overlooks white space behind a
//! chunk's size and nearly anything in its extension. Then two readers may see two answers, and one of them may be a cache.
//! Interim answers (1xx) are dropped one by one, all in one turn of the connection's: an instance that sends nothing else
//! could keep a worker busy for ever.
//!
//! Bytes are looked at as they arrive, and go on to hyper whatever they are a part of. A body that is as long as its head
//! says, or as long as its connection lasts, is hyper's alone to read.

use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::last_words::LastWords;
use super::strict::INTERIM;
use crate::server::strict::Chunks;

/// What says that a body comes in chunks. Names that differ from this are no such header for hyper either.
const CODING: &[u8] = b"transfer-encoding:";

/// A connection to an instance, whose answers' framing is looked at.
pub(super) struct Framing<S> {
    stream: LastWords<S>,
    awaited: Awaited,
    answer: Answer,
}

/// Whether an answer is awaited whose framing is to be looked at. Said by who sends a request, taken back once nothing is
/// left of the answer but a body without frames.
#[derive(Clone, Default)]
pub(super) struct Awaited(Arc<AtomicU8>);

impl Awaited {
    const NOTHING: u8 = 0;
    const ANSWER: u8 = 1;
    const BODILESS: u8 = 2;

    /// `bodiless`: whatever the answer's head says, no body follows it.
    pub(super) fn begin(&self, bodiless: bool) {
        self.0.store(if bodiless { Self::BODILESS } else { Self::ANSWER }, Relaxed);
    }
}

impl<S> Framing<S> {
    pub(super) fn new(stream: S) -> (Self, Awaited) {
        let awaited = Awaited::default();
        (Self { stream: LastWords::new(stream), awaited: awaited.clone(), answer: Answer::default() }, awaited)
    }
}

/// How far an answer is.
#[derive(Default)]
struct Answer {
    place: Place,
    lines: Lines,
    follows: Follows,
    chunked: bool,
    interim: u32,
}

#[derive(Default)]
enum Place {
    /// The status line.
    #[default]
    Status,
    Headers,
    Chunks(Chunks),
    Trailers,
}

/// What follows a head, as its status has it.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Follows {
    /// A body, if there is one.
    #[default]
    Body,
    /// Another head.
    Head,
    /// Nothing that belongs to the answer.
    Nothing,
    /// Another protocol.
    Another,
}

impl Answer {
    /// Looks at what has come. `true` once there is nothing left to look at.
    fn look(&mut self, mut bytes: &[u8], bodiless: bool) -> Result<bool, &'static str> {
        let Self { place, lines, follows, chunked, interim } = self;
        loop {
            if let Place::Chunks(chunks) = place {
                match chunks.read(bytes) {
                    Ok((length, true)) => (*place, bytes) = (Place::Trailers, &bytes[length..]),
                    Ok((_, false)) => return Ok(false),
                    Err((_, fault)) => return Err(fault.sentence()),
                }
            }
            let Some(line) = lines.next(&mut bytes)? else { return Ok(false) };
            match (&place, line.is_empty()) {
                (Place::Status, true) => return Err("the answer begins with an empty line"),
                (Place::Status, false) => (*place, *follows) = (Place::Headers, Follows::said_by(line)),
                (Place::Headers, false) => *chunked |= is_coding(line),
                (Place::Headers, true) => match *follows {
                    Follows::Head => {
                        *interim += 1;
                        if *interim > INTERIM {
                            return Err("too many interim answers");
                        }
                        (*place, *chunked) = (Place::Status, false);
                    }
                    Follows::Body if *chunked && !bodiless => *place = Place::Chunks(Chunks::new()),
                    Follows::Body | Follows::Nothing | Follows::Another => return Ok(true),
                },
                (Place::Trailers, false) => {}
                (Place::Trailers | Place::Chunks(_), _) => return Ok(true),
            }
        }
    }
}

impl Follows {
    fn said_by(status_line: &[u8]) -> Self {
        match status_line.get(9..12) {
            Some(b"101") => Self::Another,
            Some(b"204" | b"304") => Self::Nothing,
            Some([b'1', ..]) => Self::Head,
            _ => Self::Body,
        }
    }
}

/// Whether a line says how the body is coded. What it says is judged where it was read: all but `chunked` is refused.
fn is_coding(line: &[u8]) -> bool {
    matches!(line, [b't' | b'T', ..]) && line.get(..CODING.len()).is_some_and(|name| name.eq_ignore_ascii_case(CODING))
}

/// Lines that come in pieces.
#[derive(Default)]
struct Lines {
    /// What a line begins with that has not come at once.
    begin: [u8; CODING.len()],
    /// How many bytes of it are here.
    length: usize,
    /// The last one of them.
    last: u8,
}

impl Lines {
    /// What the next line begins with, once its end is there. What was looked at is taken from the bytes.
    fn next<'a, 'b: 'a>(&'a mut self, bytes: &mut &'b [u8]) -> Result<Option<&'a [u8]>, &'static str> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.keep(mem::take(bytes));
            return Ok(None);
        };
        let line = &bytes[..end];
        *bytes = &bytes[end + 1..];
        // Nearly always it has come at once, and is looked at where it is.
        if self.length == 0
            && let [line @ .., b'\r'] = line
        {
            return Ok(Some(line));
        }
        self.keep(line);
        let length = mem::take(&mut self.length);
        if length == 0 || self.last != b'\r' {
            return Err("a line of the answer's head or trailers ends in a bare line feed");
        }
        Ok(Some(&self.begin[..(length - 1).min(CODING.len())]))
    }

    fn keep(&mut self, part: &[u8]) {
        if let Some(room) = self.begin.get_mut(self.length..) {
            let count = room.len().min(part.len());
            room[..count].copy_from_slice(&part[..count]);
        }
        self.length += part.len();
        self.last = part.last().copied().unwrap_or(self.last);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Framing<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let awaited = this.awaited.0.load(Relaxed);
        if awaited != Awaited::NOTHING {
            match this.answer.look(&buffer.filled()[before..], awaited == Awaited::BODILESS) {
                Ok(false) => {}
                Ok(true) => {
                    if this.answer.follows == Follows::Another {
                        this.stream.let_go();
                    }
                    this.awaited.0.store(Awaited::NOTHING, Relaxed);
                    this.answer = Answer::default();
                }
                Err(fault) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Framing<S> {
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

    /// What a look at these bytes comes to, cut in two anywhere, and byte by byte.
    fn looked(bytes: &str) -> Result<bool, &'static str> {
        looked_at(bytes, false)
    }

    fn looked_at(bytes: &str, bodiless: bool) -> Result<bool, &'static str> {
        let pieces = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut answer = Answer::default();
            pieces.map(|piece| answer.look(piece, bodiless)).find(|looked| *looked != Ok(false)).unwrap_or(Ok(false))
        };
        let whole = pieces(&mut [bytes.as_bytes()].into_iter());
        for at in 0..bytes.len() {
            let (one, other) = bytes.as_bytes().split_at(at);
            assert_eq!(pieces(&mut [one, other].into_iter()), whole, "{bytes:?} cut at {at}");
        }
        assert_eq!(pieces(&mut bytes.as_bytes().chunks(1)), whole, "{bytes:?} byte by byte");
        whole
    }

    #[test]
    fn a_head_is_over_at_its_empty_line_and_what_follows_is_not_looked_at() {
        assert_eq!(looked("HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody\nwith\nlines\n"), Ok(true));
        assert_eq!(looked("HTTP/1.1 101 Switching\r\nTransfer-Encoding: chunked\r\n\r\n\n\n"), Ok(true));
        assert_eq!(looked("HTTP/1.1 200 OK\r\nA: b\r\n"), Ok(false));
        assert_eq!(looked(""), Ok(false));
    }

    #[test]
    fn interim_answers_are_looked_through_but_not_for_ever() {
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let last = "HTTP/1.1 200 OK\r\n\r\nno chunk";
        assert_eq!(looked(&format!("{}{last}", interim.repeat(INTERIM as usize))), Ok(true));
        assert!(looked(&interim.repeat(INTERIM as usize + 1)).is_err());
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

    #[test]
    fn chunks_are_looked_at_up_to_their_last_trailer_where_there_is_a_body() {
        let head = |status: &str| format!("HTTP/1.1 {status}\r\nA: b\r\ntransfer-ENCODING:chunked\r\n\r\n");
        for (body, comes) in [
            ("2\r\nok\r\n0\r\n\r\n", Ok(true)),
            ("2;a=b\r\n\n\n\r\n0\r\nX: y\r\nZ: \r\n\r\n\n", Ok(true)),
            ("2\r\nok\r\n0\r\nX: y\r\n", Ok(false)),
            ("2\r\nok", Ok(false)),
        ] {
            assert_eq!(looked(&(head("200 OK") + body)), comes, "{body:?}");
        }
        for bad in ["2 \r\nok\r\n", "2\nok\r\n", "\r\n", "0\r\nX: y\n\r\n", "0\r\n\n", "2;\r\nok\r\n"] {
            assert!(looked(&(head("200 OK") + bad)).is_err(), "{bad:?}");
            for bodiless in ["204 No Content", "304 Not Modified"] {
                assert_eq!(looked(&(head(bodiless) + bad)), Ok(true), "{bodiless} {bad:?}");
            }
            assert_eq!(looked_at(&(head("200 OK") + bad), true), Ok(true), "{bad:?}");
        }
    }
}

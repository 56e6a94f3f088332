//! What may come in: a gate in front of the parser that lets through only bytes with exactly one reading.
//!
//! Two readers that disagree about where a request ends are how requests are smuggled. Our parser is hyper's, and it is
//! kind: it takes a bare line feed for a line's end, `Transfer-Encoding` beside `Content-Length`, `chunked` twice, empty
//! lines without end. What it does refuse it answers itself, so that no log tells of it. So every byte passes a [`Gate`]
//! first, which knows where each request ends, by the letter of RFC 9112, and refuses what could be read in another way.
//! Whatever passes, hyper reads the same; the tests hold the two against each other.
//!
//! | refused | answered |
//! |---|---|
//! | `Content-Length` that is not a plain number, or several that differ; beside `Transfer-Encoding` | 400 |
//! | `Transfer-Encoding` other than one `chunked`; in HTTP/1.0 | 400; 501 if only the coding is unknown |
//! | sizes and extensions of chunks, and ends of chunks, that are malformed; extensions of more than 1 KiB in all | 400 |
//! | a bare carriage return or line feed, NUL and other control bytes, folded lines | 400 |
//! | white space before a name or its colon; a name that is no token; a line without a colon | 400 |
//! | `Content_Length` and `Transfer_Encoding`, which CGI and its heirs take for the real ones | 400 |
//! | a method that is no token; a target with `#`, a space, a control byte, or of the wrong form | 400 |
//! | more than two empty lines before a request; bytes that are not HTTP; a TLS handshake | 400 |
//! | a version other than 1.0 and 1.1; the preface of HTTP/2 where it comes too late | 505 |
//! | `Upgrade` or `CONNECT` with a body; but for `Upgrade: h2c`, which clients send along and nobody here accepts | 400 |
//! | trailers that frame or route a message | 400 |
//! | a request line over its limit | 414 |
//! | a head or trailers over their limits, or too many headers | 431 |
//!
//! Who the request is for (`Host`, and an absolute target) is judged behind the parser, for HTTP/2 as well:
//! [`authority`](crate::authority).
//!
//! A `Gate` does no I/O. It sees bytes in whatever pieces they come and says how many may pass.

mod chunks;
pub mod frames;
mod head;
pub mod http2;
mod refusal;
#[cfg(test)]
mod tests;

pub(crate) use chunks::Chunks;
pub use http2::PREFACE;
pub(crate) use refusal::noted;
pub use refusal::{Asked, Fault, Refusal};

use head::{Head, Trailers};

/// How much a head may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The request line, in bytes.
    pub request_line: usize,
    /// The request line and all headers together, in bytes; also all trailers together.
    pub head: usize,
    /// The number of headers; also of trailers.
    pub headers: usize,
}

/// Lets bytes of a connection through as long as they have exactly one reading.
#[derive(Debug)]
pub struct Gate {
    limits: Limits,
    state: State,
    requests: u64,
}

#[derive(Debug)]
enum State {
    /// A head, or nothing yet.
    Head(Head),
    /// So many bytes of a body.
    Length(u64),
    /// A body in chunks.
    Chunks(Chunks),
    /// What follows the last chunk.
    Trailers(Trailers),
    /// Another protocol was asked for. What follows is of this one or of that, and nobody knows yet.
    Asks,
    /// Another protocol is spoken now.
    Open,
    /// A head was refused, or if so, something in a body.
    Shut { within: bool },
}

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// A body of so many bytes, and then the next head.
    Length(u64),
    /// A body in chunks.
    Chunked,
    /// Nothing before it is known which protocol is spoken.
    Asks,
}

/// How many bytes may pass, and what is wrong with those behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// So many bytes may pass.
    pub pass: usize,
    /// Why the rest may not. If there is no reason, the rest is a part of something that must be seen whole.
    pub refusal: Option<Refusal>,
}

/// What a connection is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Between requests.
    Rest,
    /// In a head.
    Head,
    /// Behind a head.
    Body,
    /// In another protocol, or on the way to it.
    Elsewhere,
    /// At a head that was refused.
    Refused,
    /// At something in a body that was refused.
    Broken,
}

impl Gate {
    /// A gate in front of a new connection.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Head(Head::default()), requests: 0 }
    }

    /// Judges what comes next.
    ///
    /// What it does not let pass must be part of the next call, in front of what came since.
    pub fn judge(&mut self, bytes: &[u8]) -> Verdict {
        let mut pass = 0;
        loop {
            let rest = &bytes[pass..];
            let step = match &mut self.state {
                State::Open => return Verdict { pass: bytes.len(), refusal: None },
                State::Asks | State::Shut { .. } => return Verdict { pass, refusal: None },
                _ if rest.is_empty() => return Verdict { pass, refusal: None },
                State::Head(head) => head.read(rest, &self.limits).map(|whole| {
                    whole.map(|(length, framing)| {
                        self.requests += 1;
                        (length, framing.into())
                    })
                }),
                State::Length(left) => {
                    let stride = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let left = *left - stride as u64;
                    Ok(Some((stride, if left == 0 { State::Head(Head::default()) } else { State::Length(left) })))
                }
                State::Chunks(chunks) => match chunks.read(rest) {
                    Ok((length, true)) => Ok(Some((length, State::Trailers(Trailers::default())))),
                    Ok((length, false)) => return Verdict { pass: pass + length, refusal: None },
                    Err((length, fault)) => {
                        pass += length;
                        Err(Refusal::at(fault, &rest[length..=length]))
                    }
                },
                State::Trailers(trailers) => trailers
                    .read(rest, &self.limits)
                    .map(|whole| whole.map(|length| (length, State::Head(Head::default())))),
            };
            match step {
                Ok(Some((length, next))) => {
                    pass += length;
                    self.state = next;
                }
                Ok(None) => return Verdict { pass, refusal: None },
                Err(refusal) => {
                    self.state = State::Shut { within: !matches!(self.state, State::Head(_)) };
                    return Verdict { pass, refusal: Some(refusal) };
                }
            }
        }
    }

    /// Whether another protocol was asked for, and nothing passes before that is [answered](Gate::answered).
    pub fn asks(&self) -> bool {
        matches!(self.state, State::Asks)
    }

    /// The request that asked for another protocol was answered: with it, or with an answer like any other.
    pub fn answered(&mut self, switched: bool) {
        if matches!(self.state, State::Asks) {
            self.state = if switched { State::Open } else { State::Head(Head::default()) };
        }
    }

    /// Refuses a head for something that its bytes do not show. `held` is what of it has come.
    pub fn refuse(&mut self, fault: Fault, held: &[u8]) -> Refusal {
        let refusal = match &self.state {
            State::Head(head) => head.told(fault.into(), held),
            _ => fault.into(),
        };
        self.state = State::Shut { within: false };
        refusal
    }

    /// How many heads were let through.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// What the connection is in the middle of, if `held` is what was not let pass yet.
    pub fn place(&self, held: &[u8]) -> Place {
        match &self.state {
            State::Head(head) if head.has_begun(held) => Place::Head,
            State::Head(_) => Place::Rest,
            State::Length(_) | State::Chunks(_) | State::Trailers(_) => Place::Body,
            State::Asks | State::Open => Place::Elsewhere,
            State::Shut { within: false } => Place::Refused,
            State::Shut { within: true } => Place::Broken,
        }
    }
}

impl From<Framing> for State {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => State::Head(Head::default()),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunks(Chunks::new()),
            Framing::Asks => State::Asks,
        }
    }
}

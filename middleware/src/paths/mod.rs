//! One reading of a path: what is put in order before routes are compared, and what is refused.
//!
//! A guard that stands before `/admin` must also stand before `/x/../admin`, `//admin` and `/%61dmin`, since whoever
//! answers may take them for the same. So every path is brought into one form first, and that form is what routes are
//! compared with and what an instance gets. By default:
//!
//! | in the path | becomes |
//! |---|---|
//! | segments `.` and `..`, also as `%2e` | resolved (RFC 3986 §5.2.4); `dot_segments` can refuse them |
//! | `//` | `/`; `slashes` can keep or refuse it |
//! | `%2F`, `%5C` | refused; `encoded_slashes` can keep them, or take both for slashes |
//! | the escape of a letter, a digit, or one of `-._~` | the character (RFC 3986 §6.2.2.2) |
//! | any other escape | the same in upper case |
//! | what a path cannot hold, such as `é`, `{` or `|` | its escape |
//! | `\`, `%00`, an escape that is none, an overlong one | refused |
//! | a segment that is `.` or `..` only for some readers: `..;x`, `%252e`, `..%2F` | refused |
//!
//! Some paths have more than one reading even so. What stands behind a `;` is a parameter of its segment for some; a `%2F`
//! that was kept is a slash for some, and `%252F` is one for who decodes twice; `%3A` is a `:` for most. The path stays as
//! it is, but is marked [doubtful](Trait::Doubtful): the [router](crate::router) takes such a request only if the path is
//! for the same route in every reading.

mod readings;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use http::Uri;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode;
use portcullis_config::one_form::{escape, is_pchar, is_unreserved, push_escape};
use portcullis_config::{DotSegments, EncodedSlashes, Paths, Slashes};

use crate::{Cause, MatchedRoute, Rejection, Request};

pub use portcullis_config::one_form::literal;
pub use readings::readings;

/// How much of a path the log shows from where it is wrong.
const EXCERPT: usize = 48;

/// A path in its one form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled<'a> {
    /// The path; borrowed if it had this form already.
    pub path: Cow<'a, str>,
    /// What it had about it.
    pub traits: Traits,
}

/// What about a path is decided by a policy, or is read differently by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Trait {
    /// It had dot segments.
    Dots = 1,
    /// It had several slashes in a row.
    Slashes = 2,
    /// It had escapes of slashes or backslashes.
    EncodedSlashes = 4,
    /// In its form it has another reading still.
    Doubtful = 8,
}

/// A set of [`Trait`]s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traits(u8);

impl Traits {
    /// Whether the path had nothing of all that.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it had this.
    pub fn has(self, one: Trait) -> bool {
        self.0 & one as u8 != 0
    }

    fn note(&mut self, one: Trait) {
        self.0 |= one as u8;
    }
}

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong with it.
    pub fault: Fault,
    /// At which byte of the path.
    pub at: usize,
}

/// What is wrong with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It does not begin with a slash, and is not the `*` of `OPTIONS`.
    Form,
    /// `\`
    Backslash,
    /// `%2F` or `%5C`, and the policy refuses them.
    EncodedSlash,
    /// `%00`, or the character itself.
    Nul,
    /// `%` without two hexadecimal digits behind it.
    Escape,
    /// A longer encoding of an ASCII character than there need be, such as `%C0%AF`.
    Overlong,
    /// A character that a path cannot hold as it is, where nobody may send it.
    Character,
    /// `.` or `..`, and the policy refuses them.
    DotSegment,
    /// A segment that is a dot segment for some readers.
    HiddenDotSegment,
    /// `//`, and the policy refuses it.
    Slashes,
    /// It has come to be too long.
    TooLong,
}

impl Fault {
    /// What the client is told.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Form => "the path does not begin with a slash",
            Self::Backslash => "the path has a backslash",
            Self::EncodedSlash => "the path has an encoded slash or backslash",
            Self::Nul => "the path has a NUL",
            Self::Escape => "the path has a percent sign that begins no escape",
            Self::Overlong => "the path has an overlong escape",
            Self::Character => "the path has characters that it cannot hold as they are",
            Self::DotSegment => "the path has a dot segment",
            Self::HiddenDotSegment => "the path has a segment that some take for a dot segment",
            Self::Slashes => "the path has several slashes in a row",
            Self::TooLong => "the path is too long",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, at byte {}", self.fault.sentence(), self.at)
    }
}

impl Refusal {
    /// The answer to a request with this path.
    pub fn rejection(self, path: &str) -> Rejection {
        let cut: Vec<u8> = path.bytes().skip(self.at).take(EXCERPT).collect();
        let note = format!("{self}: `{}`", cut.escape_ascii());
        Rejection::new(Cause::PathRejected).detail(self.fault.sentence()).note(note)
    }
}

/// Brings a path into its one form.
pub fn settle(path: &str, policy: Paths) -> Result<Settled<'_>, Refusal> {
    if is_plain(path.as_bytes()) {
        return Ok(Settled { path: Cow::Borrowed(path), traits: Traits::default() });
    }
    let (settled, traits) = Writer::new(policy, path.len()).write(path.as_bytes())?;
    let path = if settled == path { Cow::Borrowed(path) } else { Cow::Owned(settled) };
    Ok(Settled { path, traits })
}

/// Brings a request's path into its one form. Its query stays as it is.
pub fn settle_request(request: &mut Request, policy: Paths) -> Result<Traits, Rejection> {
    let path = request.uri().path();
    if is_plain(path.as_bytes()) {
        return Ok(Traits::default());
    }
    if path == "*" && request.method() == http::Method::OPTIONS {
        return Ok(Traits::default());
    }
    let Settled { path: settled, traits } = settle(path, policy).map_err(|refusal| refusal.rejection(path))?;
    if let Cow::Owned(settled) = settled {
        replace(request, &settled).map_err(|refusal| refusal.rejection(&settled))?;
    }
    Ok(traits)
}

/// Gives a request another path. Its query stays.
pub fn replace(request: &mut Request, path: &str) -> Result<(), Refusal> {
    let refused = |_| Refusal { fault: Fault::TooLong, at: 0 };
    let target = match request.uri().query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.path_and_query = Some(target.map_err(refused)?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Refusal { fault: Fault::Form, at: 0 })?;
    Ok(())
}

/// What a request's path was found to be on its arrival. Rides in its extensions if that is anything.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    /// What the listener says.
    pub policy: Paths,
    /// By what the path was settled, before it was known which route it is for.
    pub by: Paths,
}

/// Settles the path of a request that has arrived, by what can be said before its route is known.
pub fn arrive(request: &mut Request, arrived: Arrived) -> Result<(), Rejection> {
    if !settle_request(request, arrived.by)?.is_empty() {
        request.extensions_mut().insert(arrived);
    }
    Ok(())
}

/// Gives a request a path that a middleware put together, and whose first `prefix` bytes a later one may replace.
///
/// It must have its one form already, apart from letters that cannot stand in a path.
pub fn rewrite(request: &mut Request, path: &str, prefix: usize) -> Result<(), Rejection> {
    let rejected = |what: fmt::Arguments<'_>| {
        let note = format!("rewritten to `{}`: {what}", path.escape_default());
        Rejection::new(Cause::PathRejected).detail("the path that a rewrite makes of it is refused").note(note)
    };
    check_rewrite(path).map_err(|refusal| rejected(format_args!("{refusal}")))?;
    replace(request, path).map_err(|refusal| rejected(format_args!("{refusal}")))?;
    // The router must not go back to what the client sent.
    request.extensions_mut().remove::<Arrived>();
    if let Some(matched) = request.extensions_mut().get_mut::<MatchedRoute>() {
        matched.prefix = prefix;
    }
    Ok(())
}

/// What is wrong with a path that a middleware put together, if anything. Its pieces were settled by the policy of their
/// route or come from the file; that some of them have slashes in them is known by then.
pub(crate) fn check_rewrite(path: &str) -> Result<(), Refusal> {
    let policy =
        Paths { dot_segments: DotSegments::Reject, slashes: Slashes::Keep, encoded_slashes: EncodedSlashes::Keep };
    // Who takes the path out of the request finds a host in it.
    if path.starts_with("//") {
        return Err(Refusal { fault: Fault::Slashes, at: 1 });
    }
    match settle(path, policy)?.path {
        Cow::Borrowed(_) => Ok(()),
        Cow::Owned(_) => Err(Refusal { fault: Fault::Character, at: 0 }),
    }
}

/// Whether a path has its one form already, and no other reading: nearly every path. One look at each byte.
fn is_plain(path: &[u8]) -> bool {
    let (mut found, mut before) = (0, 0);
    for &byte in path {
        let kind = KINDS[usize::from(byte)];
        // To the end in any case: a branch for each byte costs more than the bytes behind an odd one.
        found |= kind & (ODD | before >> 1);
        before = kind;
    }
    found == 0 && path.first() == Some(&b'/')
}

/// What a path cannot hold as it is, or what a closer look is for.
const ODD: u8 = 1;
/// What asks for a closer look behind a slash.
const BEHIND_SLASH: u8 = 2;
/// A slash. One place to the right, it is what it makes of the next byte.
const SLASH: u8 = 4;
const _: () = assert!(SLASH >> 1 == BEHIND_SLASH && BEHIND_SLASH >> 1 == ODD);

static KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        kinds[byte] = match byte as u8 {
            b'/' => BEHIND_SLASH | SLASH,
            b'.' => BEHIND_SLASH,
            b';' => ODD,
            byte if is_pchar(byte) => 0,
            _ => ODD,
        };
        byte += 1;
    }
    kinds
};

/// Whether the escape at this place begins a longer encoding of a character than there need be (RFC 3629 §3).
fn is_overlong(bytes: &[u8], at: usize, first: u8) -> bool {
    let second = escape(bytes, at + 3);
    match first {
        0xC0 | 0xC1 => matches!(second, Some(0x80..=0xBF)),
        0xE0 => matches!(second, Some(0x80..=0x9F)),
        0xF0 => matches!(second, Some(0x80..=0x8F)),
        _ => false,
    }
}

/// Writes a path anew, segment by segment.
struct Writer {
    policy: Paths,
    out: Vec<u8>,
    /// Where the segment begins that is being written.
    segment: usize,
    traits: Traits,
}

impl Writer {
    fn new(policy: Paths, length: usize) -> Self {
        Self { policy, out: Vec::with_capacity(length), segment: 0, traits: Traits::default() }
    }

    fn write(mut self, path: &[u8]) -> Result<(String, Traits), Refusal> {
        if path.first() != Some(&b'/') {
            return Err(Refusal { fault: Fault::Form, at: 0 });
        }
        self.out.push(b'/');
        self.segment = 1;
        let mut at = 1;
        while let Some(&byte) = path.get(at) {
            let refuse = |fault| Err(Refusal { fault, at });
            match byte {
                b'/' => self.end_segment(true, at)?,
                b'\\' => return refuse(Fault::Backslash),
                0 => return refuse(Fault::Nul),
                b'%' => {
                    match escape(path, at) {
                        None => return refuse(Fault::Escape),
                        Some(0) => return refuse(Fault::Nul),
                        Some(first) if is_overlong(path, at, first) => return refuse(Fault::Overlong),
                        Some(value @ (b'/' | b'\\')) => self.encoded_slash(value, at)?,
                        Some(value) if is_unreserved(value) => self.out.push(value),
                        Some(value) => {
                            // It may stand there as it is, and most readers take both for the same.
                            if is_pchar(value) {
                                self.traits.note(Trait::Doubtful);
                            }
                            push_escape(&mut self.out, value);
                        }
                    }
                    at += 2;
                }
                b';' => {
                    self.traits.note(Trait::Doubtful);
                    self.out.push(byte);
                }
                _ if is_pchar(byte) => self.out.push(byte),
                _ => push_escape(&mut self.out, byte),
            }
            at += 1;
        }
        self.end_segment(false, at)?;
        if has_double_escape(&self.out) {
            self.traits.note(Trait::Doubtful);
        }
        let settled = String::from_utf8(self.out).expect("nothing but ASCII was written");
        if self.traits.has(Trait::Doubtful) && readings::has_hidden_dots(&settled) {
            return Err(Refusal { fault: Fault::HiddenDotSegment, at: 0 });
        }
        Ok((settled, self.traits))
    }

    fn encoded_slash(&mut self, value: u8, at: usize) -> Result<(), Refusal> {
        self.traits.note(Trait::EncodedSlashes);
        match self.policy.encoded_slashes {
            EncodedSlashes::Reject => Err(Refusal { fault: Fault::EncodedSlash, at }),
            EncodedSlashes::Decode => self.end_segment(true, at),
            EncodedSlashes::Keep => {
                self.traits.note(Trait::Doubtful);
                push_escape(&mut self.out, value);
                Ok(())
            }
        }
    }

    /// The segment that was being written is over, with a slash behind it or with the path.
    fn end_segment(&mut self, slash: bool, at: usize) -> Result<(), Refusal> {
        let Self { policy, out, segment, traits } = self;
        let dots = match &out[*segment..] {
            b"." => 1,
            b".." => 2,
            b"" if slash => {
                traits.note(Trait::Slashes);
                match policy.slashes {
                    Slashes::Reject => return Err(Refusal { fault: Fault::Slashes, at }),
                    Slashes::Merge => {}
                    Slashes::Keep => {
                        traits.note(Trait::Doubtful);
                        out.push(b'/');
                    }
                }
                *segment = out.len();
                return Ok(());
            }
            _ => 0,
        };
        if dots > 0 {
            traits.note(Trait::Dots);
            if policy.dot_segments == DotSegments::Reject {
                return Err(Refusal { fault: Fault::DotSegment, at: at.saturating_sub(dots) });
            }
            out.truncate(*segment);
            // `..` takes the segment before it along, if there is one. The slash before that stays.
            if dots == 2 && out.len() > 1 {
                out.pop();
                let slash = out.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                out.truncate(slash + 1);
            }
        } else if slash {
            out.push(b'/');
        }
        *segment = out.len();
        Ok(())
    }
}

/// Whether somebody who decodes twice reads another character than somebody who decodes once.
fn has_double_escape(path: &[u8]) -> bool {
    let mut windows = path.windows(5);
    windows.any(|window| window.starts_with(b"%25") && window[3..].iter().all(u8::is_ascii_hexdigit))
}

/// Decodes every escape once.
fn decoded(path: &[u8]) -> Vec<u8> {
    percent_decode(path).collect()
}

//! A head, or a section of trailers, judged line by line as it comes.
//!
//! Every line is looked at once, when its end is there. So a head that comes in pieces is judged like one that comes
//! whole, and nothing is gained by sending it a byte at a time.

use http::Uri;

use super::refusal::{Asked, Fault, Refusal};
use super::{Framing, Limits};

/// RFC 9112 §2.2 asks servers to overlook an empty line before a request, which old clients send after a body.
const BLANKS: u8 = 2;

/// `http::Uri` takes no more.
const LONGEST_TARGET: usize = 65_534;

/// `http::HeaderName` takes no more.
const LONGEST_NAME: usize = 65_535;

/// How far a head has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    lines: Lines,
    blanks: u8,
    started: bool,
    facts: Facts,
}

/// How far a section of trailers has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Trailers {
    lines: Lines,
}

/// What the lines so far say about what follows them.
#[derive(Debug, Clone, Default)]
struct Facts {
    before_11: bool,
    connect: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

/// Where the lines of a section are.
#[derive(Debug, Clone, Default)]
struct Lines {
    /// Where the first line begins that was not judged yet.
    next: usize,
    /// What was searched for a line's end.
    searched: usize,
    /// Header lines so far.
    count: usize,
}

impl Head {
    /// Reads on in `bytes`, which begin where the head begins. Returns its length and what follows, once it is whole.
    pub(super) fn read(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<(usize, Framing)>, Refusal> {
        let read = match self.begin(bytes, limits) {
            Ok(true) => self.headers(bytes, limits),
            Ok(false) => return Ok(None),
            Err(refusal) => Err(refusal),
        };
        read.map_err(|refusal| self.told(refusal, bytes))
    }

    /// Reads on in the request line. Returns whether it is whole.
    fn begin(&mut self, bytes: &[u8], limits: &Limits) -> Result<bool, Refusal> {
        while !self.started {
            let start = self.lines.next;
            match bytes.get(start) {
                None => return Ok(false),
                Some(b'\r') => {}
                Some(&byte) => begins_a_request(byte, &bytes[start..])?,
            }
            let limit = limits.head.min(start + limits.request_line);
            let Some(line) = self.lines.advance(bytes, limit, Fault::UriTooLong)? else { return Ok(false) };
            if line.is_empty() {
                self.blanks += 1;
                if self.blanks > BLANKS {
                    return Err(Fault::BlankLines.into());
                }
                continue;
            }
            self.facts.request_line(line)?;
            self.started = true;
        }
        Ok(true)
    }

    fn headers(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<(usize, Framing)>, Refusal> {
        while let Some(line) = self.lines.advance(bytes, limits.head, Fault::HeadTooLarge)? {
            if line.is_empty() {
                return Ok(Some((self.lines.next, self.facts.framing()?)));
            }
            self.lines.another(limits)?;
            self.facts.header(line)?;
        }
        Ok(None)
    }

    /// Whether more has come of it than empty lines.
    pub(super) fn has_begun(&self, held: &[u8]) -> bool {
        self.started || held.iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
    }

    /// A refusal that says what was asked for.
    #[cold]
    pub(super) fn told(&self, refusal: Refusal, bytes: &[u8]) -> Refusal {
        let asked = || {
            let mut words = bytes.get(usize::from(self.blanks) * 2..)?.split(|&byte| byte == b' ');
            let (method, target) = (words.next()?, words.next()?);
            if !self.started {
                // The method is known before the rest is, and an answer to HEAD has no body, whatever it says.
                return (method == b"HEAD").then(|| Asked { method: "HEAD".into(), path: "*".into(), kind: None });
            }
            let text = |word| std::str::from_utf8(word).ok();
            Some(Asked { method: text(method)?.into(), path: text(target)?.split('?').next()?.into(), kind: None })
        };
        Refusal { asked: asked(), ..refusal }
    }
}

impl Trailers {
    /// Reads on in `bytes`, which begin where the trailers begin. Returns their length, once they are whole.
    pub(super) fn read(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
        while let Some(line) = self.lines.advance(bytes, limits.head, Fault::HeadTooLarge)? {
            if line.is_empty() {
                return Ok(Some(self.lines.next));
            }
            self.lines.another(limits)?;
            let (name, _) = split(line)?;
            // RFC 9110 §6.5.1: what frames or routes a message has no business behind it.
            if names(name, b"content-length") || names(name, b"transfer-encoding") || names(name, b"host") {
                return Err(Refusal::at(Fault::Trailer, name));
            }
        }
        Ok(None)
    }
}

impl Lines {
    /// The next line without its end, once that is there. No control byte but a tab is in it.
    #[inline]
    fn advance<'a>(&mut self, bytes: &'a [u8], limit: usize, over: Fault) -> Result<Option<&'a [u8]>, Refusal> {
        let end = self.searched + control(&bytes[self.searched..]);
        match bytes[end..] {
            [b'\r', b'\n', ..] if end + 2 <= limit => {
                let line = &bytes[self.next..end];
                (self.next, self.searched) = (end + 2, end + 2);
                Ok(Some(line))
            }
            _ => self.refuse_or_wait(bytes, end, limit, over),
        }
    }

    /// The line is not at its end at a control byte, or the bytes have none.
    #[cold]
    fn refuse_or_wait<'a>(
        &mut self,
        bytes: &[u8],
        at: usize,
        limit: usize,
        over: Fault,
    ) -> Result<Option<&'a [u8]>, Refusal> {
        self.searched = at;
        // Judged when the line is there, as if it had come at once.
        let Some(feed) = bytes[at..].iter().position(|&byte| byte == b'\n') else {
            return if bytes.len() > limit { Err(over.into()) } else { Ok(None) };
        };
        if at + feed >= limit {
            return Err(over.into());
        }
        let line = &bytes[self.next..at + feed];
        let fault = match bytes[at] {
            b'\n' => Fault::BareLineFeed,
            b'\r' => Fault::BareReturn,
            _ => Fault::Control,
        };
        // Of a header only the name is shown, of a target not the query: the rest may be a secret.
        let shown = line.iter().position(|byte| b":?#\r\n".contains(byte)).unwrap_or(line.len());
        Err(Refusal::at(fault, &line[..shown]))
    }

    /// Counts a header.
    fn another(&mut self, limits: &Limits) -> Result<(), Refusal> {
        self.count += 1;
        if self.count > limits.headers { Err(Fault::TooManyHeaders.into()) } else { Ok(()) }
    }
}

impl Facts {
    fn request_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let refused = |fault| Err(Refusal::at(fault, until_query(line)));
        let (method, rest) = line.split_at(run(&TOKEN, line));
        let [b' ', rest @ ..] = rest else {
            return refused(if line.contains(&b' ') { Fault::Method } else { Fault::RequestLine });
        };
        let plain = run(&PLAIN, rest);
        let end = match rest.get(plain) {
            Some(b' ') => plain,
            _ => rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len()),
        };
        let (target, version) = rest.split_at(end);
        match version {
            b" HTTP/1.1" => {}
            b" HTTP/1.0" => self.before_11 = true,
            b" HTTP/2.0" if (method, target) == (b"PRI", b"*") => return Err(Fault::Http2.into()),
            [b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(Refusal::at(Fault::Version, &version[1..]));
            }
            _ => return refused(Fault::RequestLine),
        }
        self.connect = method == b"CONNECT";
        match target {
            _ if method.is_empty() || target.is_empty() => refused(Fault::RequestLine),
            // What nearly every request has.
            [b'/', ..] if end == plain && end <= LONGEST_TARGET && !self.connect => Ok(()),
            target => odd_target(method, target).map_err(|fault| Refusal::at(fault, until_query(target))),
        }
    }

    #[inline]
    fn header(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let (name, value) = split(line)?;
        // No other name that frames a message has one of these lengths.
        match name.len() {
            7 if names(name, b"upgrade") => {
                self.upgrade |= !self.before_11 && !trim(value).eq_ignore_ascii_case(b"h2c")
            }
            14 if resembles(name, b"content-length") => self.length(name, value)?,
            17 if resembles(name, b"transfer-encoding") => self.coding(name, value)?,
            _ => {}
        }
        Ok(())
    }

    #[cold]
    fn length(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if name.contains(&b'_') {
            return Err(Refusal::at(Fault::LikeFraming, name));
        }
        let value = trim(value);
        let number = plain_number(value).ok_or_else(|| Refusal::at(Fault::Length, value))?;
        if self.length.is_some_and(|known| known != number) {
            return Err(Refusal::at(Fault::Lengths, value));
        }
        self.length = Some(number);
        Ok(())
    }

    #[cold]
    fn coding(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if name.contains(&b'_') {
            return Err(Refusal::at(Fault::LikeFraming, name));
        }
        let value = trim(value);
        if self.before_11 {
            return Err(Refusal::at(Fault::CodingBefore11, value));
        }
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::at(if self.chunked { Fault::Coding } else { fault_of_coding(value) }, value));
        }
        self.chunked = true;
        Ok(())
    }

    /// What follows the head, now that all of it was seen.
    fn framing(&self) -> Result<Framing, Refusal> {
        let has_body = self.chunked || self.length.is_some_and(|length| length > 0);
        match self.length {
            Some(_) if self.chunked => Err(Fault::LengthAndCoding.into()),
            _ if (self.upgrade || self.connect) && has_body => Err(Fault::UpgradeWithBody.into()),
            _ if self.upgrade || self.connect => Ok(Framing::Asks),
            _ if self.chunked => Ok(Framing::Chunked),
            length => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

/// Refuses at once what can become no request, rather than wait for a line's end that a machine which speaks something
/// else will never send.
fn begins_a_request(byte: u8, bytes: &[u8]) -> Result<(), Refusal> {
    match byte {
        _ if TOKEN[usize::from(byte)] => Ok(()),
        0x16 => Err(Fault::Tls.into()),
        b' ' | b'\t' => Err(Fault::RequestLine.into()),
        b'\n' => Err(Fault::BareLineFeed.into()),
        _ => Err(Refusal::at(Fault::NotHttp, &bytes[..1])),
    }
}

/// A header's name and its value.
#[inline]
fn split(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    match line.split_at(run(&TOKEN, line)) {
        (name, [b':', value @ ..]) if !name.is_empty() && name.len() <= LONGEST_NAME => Ok((name, value)),
        (name, _) => Err(no_header(line, name.len())),
    }
}

/// Why a line is no header: what stands in place of its colon.
#[cold]
fn no_header(line: &[u8], end: usize) -> Refusal {
    let colon = line.iter().position(|&byte| byte == b':');
    let name = &line[..colon.unwrap_or(end)];
    let fault = match line.get(end) {
        Some(b' ' | b'\t') if end == 0 => Fault::Folded,
        _ if colon.is_none() => Fault::NoColon,
        Some(b':') if end > LONGEST_NAME => Fault::HeadTooLarge,
        Some(b' ' | b'\t') if trim(&name[end..]).is_empty() => Fault::SpaceBeforeColon,
        _ => Fault::HeaderName,
    };
    Refusal::at(fault, name)
}

/// Targets other than a plain path are left to the parser that reads them later, so that it refuses nothing after us.
#[cold]
fn odd_target(method: &[u8], target: &[u8]) -> Result<(), Fault> {
    if target.contains(&b'#') {
        return Err(Fault::Fragment);
    }
    if target.len() > LONGEST_TARGET {
        return Err(Fault::UriTooLong);
    }
    let uri = Uri::try_from(target).map_err(|_| Fault::Target)?;
    let fits = match target {
        _ if method == b"CONNECT" => {
            uri.scheme().is_none() && uri.authority().is_some() && uri.path_and_query().is_none()
        }
        b"*" => method == b"OPTIONS",
        [b'/', ..] => true,
        _ => uri.scheme().is_some() && uri.authority().is_some(),
    };
    if fits { Ok(()) } else { Err(Fault::Target) }
}

/// RFC 9112 §6.1 tells a coding that is not known from a body whose end cannot be known.
fn fault_of_coding(value: &[u8]) -> Fault {
    let mut codings = value.split(|&byte| byte == b',').map(trim);
    let last = codings.next_back().unwrap_or_default();
    let ends_well = last.eq_ignore_ascii_case(b"chunked");
    let known = codings.all(|coding| is_token(coding) && !coding.eq_ignore_ascii_case(b"chunked"));
    if ends_well && known { Fault::UnknownCoding } else { Fault::Coding }
}

/// One way to write a number: no sign, no list, and no zeros in front, which somebody may take for octal.
pub(super) fn plain_number(value: &[u8]) -> Option<u64> {
    let plain = matches!(value, [b'0'] | [b'1'..=b'9', ..]) && value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().filter(|_| plain)?.parse::<i64>().ok()?;
    u64::try_from(number).ok()
}

/// What of a request line may be shown.
fn until_query(text: &[u8]) -> &[u8] {
    &text[..text.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(text.len())]
}

/// Without the white space around it (RFC 9110 §5.6.3).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn names(name: &[u8], known: &[u8]) -> bool {
    name.eq_ignore_ascii_case(known)
}

/// Whether it is a known name, also with underscores: CGI and its heirs make no difference.
pub(super) fn resembles(name: &[u8], known: &[u8]) -> bool {
    name.iter().zip(known).all(|(&byte, &known)| byte.to_ascii_lowercase() == known || (byte == b'_' && known == b'-'))
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| TOKEN[usize::from(byte)])
}

/// How many bytes at the beginning of a text are of a kind.
#[inline]
fn run(kind: &[bool; 256], text: &[u8]) -> usize {
    text.iter().position(|&byte| !kind[usize::from(byte)]).unwrap_or(text.len())
}

/// Where the first control byte is that no line may have within, or the end of the text.
///
/// Looks at eight bytes at once: subtracting borrows from a byte's highest bit if the byte is below a space, or, behind an
/// exclusive or, if it is DEL. A borrow may spoil the bytes above, so that only the lowest find counts.
#[inline]
fn control(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let (words, rest) = text.as_chunks::<8>();
    for (index, bytes) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*bytes);
        let delete = word ^ (ONES * 0x7f);
        let found = ((word.wrapping_sub(ONES * 0x20) & !word) | (delete.wrapping_sub(ONES) & !delete)) & (ONES * 0x80);
        if found != 0 {
            let first = found.trailing_zeros() as usize / 8;
            if bytes[first] != b'\t' {
                return index * 8 + first;
            }
            if let Some(first) = bytes.iter().position(is_control) {
                return index * 8 + first;
            }
        }
    }
    text.len() - rest.len() + rest.iter().position(is_control).unwrap_or(rest.len())
}

fn is_control(byte: &u8) -> bool {
    byte.is_ascii_control() && *byte != b'\t'
}

/// RFC 9110 §5.6.2.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-'
            | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

/// What `http::Uri` takes everywhere in path and query.
static PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8, b'!' | b'$'..=b';' | b'=' | b'?'..=b'_' | b'a'..=b'z' | b'|' | b'~');
        byte += 1;
    }
    table
};

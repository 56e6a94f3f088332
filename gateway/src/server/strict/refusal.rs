//! Why bytes are not let through.

use std::borrow::Cow;
use std::fmt;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode, Uri, Version};
use portcullis_middleware::{Cause, Rejection, Request};

/// How much of what was wrong a log gets to see.
const EXCERPT: usize = 64;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $variant:ident = $cause:ident, $status:literal, $sentence:literal;)+) => {
        /// What was wrong with what a client sent.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Fault { $($(#[doc = $doc])+ $variant,)+ }

        impl Fault {
            /// Every fault there is.
            pub const ALL: &'static [Fault] = &[$(Fault::$variant,)+];

            /// Its cause in logs and metrics.
            pub const fn cause(self) -> Cause {
                match self { $(Fault::$variant => Cause::$cause,)+ }
            }

            /// The status of the answer.
            pub fn status(self) -> StatusCode {
                let code: u16 = match self { $(Fault::$variant => $status,)+ };
                StatusCode::from_u16(code).expect("the table holds valid status codes")
            }

            /// What the client is told.
            pub const fn sentence(self) -> &'static str {
                match self { $(Fault::$variant => $sentence,)+ }
            }
        }
    };
}

faults! {
    /// The first byte cannot begin a method.
    NotHttp = BadRequest, 400, "this is not HTTP";
    /// A TLS handshake where plain HTTP is spoken.
    Tls = BadRequest, 400, "this port speaks plain HTTP, and a TLS handshake came";
    /// The preface of HTTP/2 where HTTP/1.1 was agreed on, or behind a request of HTTP/1.1.
    Http2 = BadRequest, 505, "this connection speaks HTTP/1.1, and the preface of HTTP/2 came";
    /// Something else than the preface of HTTP/2 where that was agreed on.
    Preface = BadRequest, 400, "this connection was to speak HTTP/2, and does not begin with its preface";
    /// More empty lines before a request than old clients are known to send.
    BlankLines = BadRequest, 400, "there are too many empty lines before the request";
    /// A line feed without a carriage return before it (RFC 9112 §2.2 lets a lenient reader take it for a line's end).
    BareLineFeed = BadRequest, 400, "a line ends without a carriage return";
    /// A carriage return that ends no line.
    BareReturn = BadRequest, 400, "there is a carriage return in the middle of a line";
    /// NUL, or another control byte.
    Control = BadRequest, 400, "there is a control byte in the head";
    /// Not three words with one space between them.
    RequestLine = BadRequest, 400, "the request line is malformed";
    /// The method is no token.
    Method = BadRequest, 400, "the method is malformed";
    /// The target is none of the forms of RFC 9112 §3.2.
    Target = BadRequest, 400, "the target is malformed";
    /// A fragment is for the client alone: a reader that drops it sees another path than one that does not.
    Fragment = BadRequest, 400, "the target contains a `#`";
    /// A version of HTTP, but none that is spoken here.
    Version = BadRequest, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here";
    /// The request line is over its limit.
    UriTooLong = UriTooLong, 414, "the request line is too long";
    /// The head is over its limit.
    HeadTooLarge = HeaderTooLarge, 431, "the header block is too large";
    /// More headers than allowed.
    TooManyHeaders = HeaderTooLarge, 431, "there are too many headers";
    /// A line that begins with white space: for some a header's continuation (RFC 9112 §5.2), for others a header.
    Folded = BadRequest, 400, "a header line begins with white space";
    /// White space between a name and its colon, which some readers trim (RFC 9112 §5.1).
    SpaceBeforeColon = BadRequest, 400, "there is white space before a header's colon";
    /// A line without a colon.
    NoColon = BadRequest, 400, "a header line has no colon";
    /// A name that is no token.
    HeaderName = BadRequest, 400, "a header's name is malformed";
    /// A name that some readers take for one that frames a message, such as `Content_Length`.
    LikeFraming = BadRequest, 400, "a header's name can be mistaken for one that frames the message";
    /// Not a plain number.
    Length = BadRequest, 400, "the Content-Length is malformed";
    /// Lengths that differ.
    Lengths = BadRequest, 400, "there are different values of Content-Length";
    /// A length beside a coding: CL.TE and TE.CL.
    LengthAndCoding = BadRequest, 400, "Content-Length and Transfer-Encoding exclude each other";
    /// Anything that does not end in one `chunked`.
    Coding = BadRequest, 400, "the Transfer-Encoding is malformed, or does not end in one chunked";
    /// A coding that is not spoken here, then `chunked`.
    UnknownCoding = BadRequest, 501, "the only Transfer-Encoding that is spoken here is chunked";
    /// HTTP/1.0 knows no codings (RFC 9112 §6.1).
    CodingBefore11 = BadRequest, 400, "HTTP/1.0 has no Transfer-Encoding";
    /// What follows would be a body for one reader and the new protocol for another.
    UpgradeWithBody = BadRequest, 400, "a request that asks for another protocol has a body";
    /// No hexadecimal number, or one that is too large.
    ChunkSize = BadRequest, 400, "the size of a chunk is malformed";
    /// An extension that is not of the form of RFC 9112 §7.1.1.
    ChunkExtension = BadRequest, 400, "the extension of a chunk is malformed";
    /// Extensions mean nothing here, so there is no need for many.
    ChunkExtensions = BadRequest, 400, "the extensions of the chunks are too long";
    /// A chunk is longer or shorter than it said.
    ChunkEnd = BadRequest, 400, "a chunk does not end where its size says";
    /// A trailer that says how the message is framed or where it goes.
    Trailer = BadRequest, 400, "a trailer has a name that only a header may have";
    /// `Host` beside another `:authority` (RFC 9113 §8.3.1).
    Authority = BadRequest, 400, "the Host header and the authority are not the same";
    /// White space at an end of a value, which HTTP/2 does not have (RFC 9113 §8.2.1) and HTTP/1.1 cuts off.
    SpaceAroundValue = BadRequest, 400, "a header's value begins or ends with white space";
    /// More or fewer bytes of DATA than `content-length` says.
    BodyLength = BadRequest, 400, "the body is not as long as the Content-Length says";
    /// A stream that h2 has reset: its header block breaks the rules of RFC 9113 §8.
    Block = BadRequest, 400, "the header block of a stream is malformed";
    /// A stream whose header list is over its limit.
    HeaderList = HeaderTooLarge, 431, "the header list of a stream is too large";
    /// More streams at once than the client was told to open.
    Streams = BadRequest, 400, "there are more streams at once than allowed";
    /// Frames without end that carry nothing: SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA.
    Flood = BadRequest, 400, "there are too many frames that carry nothing";
    /// Requests without end that are given up at once, or that nobody could answer.
    Resets = BadRequest, 400, "too many requests are given up";
    /// What h2 ends a connection for.
    Protocol = BadRequest, 400, "the connection breaks the rules of HTTP/2";
    /// The end of the connection in the middle of a head.
    Unfinished = BadRequest, 400, "the connection ended in the middle of the head";
    /// The head took longer than allowed.
    HeaderTimeout = HeaderTimeout, 408, "the head was not complete in time";
    /// The gateway stops, and has no more time for the head.
    Draining = Draining, 503, "the gateway stopped before the head was complete";
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

/// The sentence for the log on what was wrong, with the place where it was. The log escapes it.
pub(crate) fn noted(wrong: &'static str, place: &[u8]) -> Cow<'static, str> {
    match excerpt(place) {
        [] => wrong.into(),
        place => format!("{wrong}: {}", String::from_utf8_lossy(place)).into(),
    }
}

fn excerpt(place: &[u8]) -> &[u8] {
    &place[..place.len().min(EXCERPT)]
}

/// What a client sent, and why it goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was wrong.
    pub fault: Fault,
    /// The place where it was, as it was sent.
    pub excerpt: Option<Box<[u8]>>,
    /// Method and path, if the request line was in order.
    pub asked: Option<Asked>,
    /// What was spoken.
    pub version: Version,
}

/// What a refused request asked for. The query is left out, because it may hold what no log should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The method.
    pub method: Box<str>,
    /// The target without its query.
    pub path: Box<str>,
    /// Its `Content-Type`, if that was read: calls of gRPC are refused in words of their own.
    pub kind: Option<HeaderValue>,
}

impl Refusal {
    pub(in crate::server) fn at(fault: Fault, place: &[u8]) -> Self {
        let excerpt = (!place.is_empty()).then(|| excerpt(place).into());
        Self { fault, excerpt, asked: None, version: Version::HTTP_11 }
    }

    /// The same, of HTTP/2.
    pub(in crate::server) fn over_http2(self) -> Self {
        Self { version: Version::HTTP_2, ..self }
    }

    /// The sentence for the log: what was wrong, and where. The log escapes it.
    pub fn note(&self) -> Cow<'static, str> {
        noted(self.fault.sentence(), self.excerpt.as_deref().unwrap_or_default())
    }

    /// What is known of the request, for whoever remembers requests. What is not known is `-` and `*`.
    pub fn request(&self) -> Request {
        let (method, path) = self.asked.as_ref().map_or(("-", "*"), |asked| (&*asked.method, &*asked.path));
        let mut request = Request::default();
        *request.version_mut() = self.version;
        *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap_or_default();
        let kind = self.asked.as_ref().and_then(|asked| asked.kind.clone());
        request.headers_mut().extend(kind.map(|kind| (CONTENT_TYPE, kind)));
        *request.uri_mut() = path.parse().unwrap_or_else(|_| Uri::from_static("*"));
        request
    }

    /// The answer to it.
    pub fn rejection(&self) -> Rejection {
        let rejection = Rejection::new(self.fault.cause()).status(self.fault.status());
        rejection.detail(self.fault.sentence()).note(self.note())
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::at(fault, b"")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.fault.sentence())
    }
}

impl std::error::Error for Refusal {}

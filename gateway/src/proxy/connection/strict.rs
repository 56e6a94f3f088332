//! What of an instance's answer could be read in two ways, and so is refused. It stands beside the
//! [gate](crate::server::strict) that requests pass.
//!
//! Bytes are judged by hyper first, which refuses most of what is malformed: folded lines, white space before a colon,
//! control bytes, names that are no tokens, lengths that are no numbers or differ, codings in HTTP/1.0, versions it does not
//! know. What it lets through is judged here.
//!
//! | in the answer | becomes |
//! |---|---|
//! | a line of the head or the trailers that ends in a bare line feed, an empty line before the status line | 502, by [`framing`](super::framing) |
//! | more than 16 interim answers (1xx) | 502, by [`framing`](super::framing), over HTTP/2 by [`stream`](super::stream) |
//! | sizes, extensions and ends of chunks that the [gate](crate::server::strict) would refuse in a request | 502, by [`framing`](super::framing); the body is cut if its head has gone on by then |
//! | more than 100 headers | 502 |
//! | a status from 600 up | 502 |
//! | `Content-Length` that is a list, or has zeros before it | 502 |
//! | the same `Content-Length` in several lines | one line |
//! | `Transfer-Encoding` beside `Content-Length`, or anything but one `chunked` | 502 |
//! | over HTTP/2, white space at an end of a value | 502, by [`stream`](super::stream); the body is cut if it is a trailer's |
//! | `Content-Length` of a 204, which has no body for anybody | removed |
//!
//! The connection that such an answer came over is not used again.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, StatusCode};

/// How many interim answers an instance may give to one request.
pub(super) const INTERIM: u32 = 16;

/// hyper takes no more over HTTP/1.1, and h2 does not count them.
const HEADERS: usize = 100;

/// Whether the head of an answer has one reading. What can be said in one way only is said so afterwards.
pub(super) fn is_clear(status: StatusCode, headers: &mut HeaderMap) -> bool {
    // RFC 9110 §15: these do not exist, and clients disagree about what they are.
    if status.as_u16() >= 600 || headers.len() > HEADERS {
        return false;
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        // Any other coding than `chunked` would have to be undone before the header is removed.
        if headers.contains_key(CONTENT_LENGTH) || !is_chunked(headers) {
            return false;
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return true };
    // hyper takes a list of equal lengths, and would pass it on as it is.
    let mut several = false;
    let agree = lengths.all(|length| {
        several = true;
        length == first
    });
    if !is_plain(first) || !agree {
        return false;
    }
    if status == StatusCode::NO_CONTENT {
        // RFC 9110 §8.6. Whoever believed it would wait for the next answer's bytes.
        headers.remove(CONTENT_LENGTH);
    } else if several {
        let first = first.clone();
        headers.insert(CONTENT_LENGTH, first);
    }
    true
}

fn is_plain(length: &HeaderValue) -> bool {
    match length.as_bytes() {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

fn is_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let first = codings.next().is_some_and(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
    first && codings.next().is_none()
}

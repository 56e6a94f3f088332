//! Parts of inputs that several targets read.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use portcullis_middleware::{Request, testing};

/// No more than a gateway lets in by default.
const MOST_HEADERS: usize = 100;

/// The first line, and what stands behind it.
pub fn first_line(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (input, &[]),
    }
}

/// A header a line, `name: value`. What can be none is passed over.
pub fn headers(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(MOST_HEADERS) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// `GET /path HTTP/1.1` and headers. Of the version only the last digit counts.
pub fn request(head: &[u8]) -> Option<Request> {
    let (line, lines) = first_line(head);
    let mut words = line.split(|byte| *byte == b' ');
    let mut request = testing::request("GET", "/");
    *request.method_mut() = Method::from_bytes(words.next()?).ok()?;
    *request.uri_mut() = Uri::try_from(words.next()?).ok()?;
    *request.version_mut() = match words.next().and_then(<[u8]>::last) {
        Some(b'0') => Version::HTTP_10,
        Some(b'2') => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    *request.headers_mut() = headers(lines);
    Some(request)
}

//! What may come in over HTTP/2.
//!
//! There bytes have one reading: frames and header blocks are h2's to read. It resets a stream whose header block is
//! malformed, and ends a connection whose bytes are. What it lets through, and what another version of HTTP could not
//! say or would read differently, is judged here.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request};

use super::head::{plain_number, resembles};
use super::{Asked, Fault, Refusal};

/// What every connection begins with (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Judges a request by its head.
pub fn check<B>(request: &Request<B>, headers: usize, request_line: usize) -> Result<(), Refusal> {
    target(request, request_line)
        .and_then(|()| fields(request.headers(), headers))
        .map_err(|refusal| Refusal { asked: Some(asked(request)), ..refusal.over_http2() })
}

fn target<B>(request: &Request<B>, limit: usize) -> Result<(), Refusal> {
    let (method, uri) = (request.method(), request.uri());
    if *method == Method::CONNECT {
        // It has no path, and is refused further on.
        return Ok(());
    }
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    if method.as_str().len() + target.len() > limit {
        return Err(Fault::UriTooLong.into());
    }
    match target.as_bytes() {
        // A target that is not there reads as a slash too.
        [b'/', ..] if !uri.path().is_empty() => {}
        b"*" if *method == Method::OPTIONS => {}
        _ => return Err(Refusal::at(Fault::Target, uri.path().as_bytes())),
    }
    // RFC 9113 §8.3.1: a `Host` that says something else than `:authority` makes a request malformed.
    if let Some(authority) = uri.authority()
        && request.headers().get_all(HOST).iter().any(|host| !same(host, authority.as_str()))
    {
        return Err(Fault::Authority.into());
    }
    Ok(())
}

fn same(host: &HeaderValue, authority: &str) -> bool {
    host.as_bytes().eq_ignore_ascii_case(authority.as_bytes())
}

fn fields(headers: &HeaderMap, limit: usize) -> Result<(), Refusal> {
    if headers.len() > limit {
        return Err(Fault::TooManyHeaders.into());
    }
    for (name, value) in headers {
        if is_spaced(value) {
            return Err(Refusal::at(Fault::SpaceAroundValue, name.as_str().as_bytes()));
        }
        let name = name.as_str().as_bytes();
        match name.len() {
            14 if resembles(name, CONTENT_LENGTH.as_str().as_bytes()) => {
                if name.contains(&b'_') {
                    return Err(Refusal::at(Fault::LikeFraming, name));
                }
                if plain_number(value.as_bytes()).is_none() {
                    return Err(Refusal::at(Fault::Length, value.as_bytes()));
                }
            }
            17 if resembles(name, TRANSFER_ENCODING.as_str().as_bytes()) => {
                return Err(Refusal::at(Fault::LikeFraming, name));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a value begins or ends with white space, which makes a message malformed (RFC 9113 §8.2.1).
///
/// HTTP/1.1 cuts it off, so that who is behind us would read another value than we do.
pub(crate) fn is_spaced(value: &HeaderValue) -> bool {
    matches!(value.as_bytes(), [b' ' | b'\t', ..] | [.., b' ' | b'\t'])
}

/// Judges the trailers of a request. RFC 9110 §6.5.1: what frames or routes a message has no business behind it.
pub fn check_trailers(trailers: &HeaderMap) -> Result<(), Refusal> {
    if let Some((name, _)) = trailers.iter().find(|(_, value)| is_spaced(value)) {
        return Err(Refusal::at(Fault::SpaceAroundValue, name.as_str().as_bytes()));
    }
    match [CONTENT_LENGTH, TRANSFER_ENCODING, HOST].iter().find(|name| trailers.contains_key(*name)) {
        Some(name) => Err(Refusal::at(Fault::Trailer, name.as_str().as_bytes())),
        None => Ok(()),
    }
}

/// RFC 9113 §8.2.3: what a client has split, so that it compresses better, is one header for everybody else.
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    // An empty one would leave white space at an end of the line.
    let crumbs: Vec<_> =
        headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).filter(|it| !it.is_empty()).collect();
    let line = crumbs.join(&b"; "[..]);
    // It consists of values and `; `, so it is one.
    if let Ok(line) = HeaderValue::from_maybe_shared(bytes::Bytes::from(line)) {
        headers.insert(COOKIE, line);
    }
}

fn asked<B>(request: &Request<B>) -> Asked {
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    Asked { method: request.method().as_str().into(), path: request.uri().path().into(), kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Option<Fault> {
        let request = build(Request::builder().version(http::Version::HTTP_2)).body(()).unwrap();
        check(&request, 5, 40).err().map(|refusal| {
            assert_eq!(refusal.version, http::Version::HTTP_2);
            refusal.fault
        })
    }

    #[test]
    fn a_request_has_a_path_one_host_and_plain_values() {
        let asks = |target: &'static str| move |builder: http::request::Builder| builder.uri(target);
        assert_eq!(judged(asks("http://a/x?y")), None);
        assert_eq!(judged(|builder| builder.method("OPTIONS").uri("*").header("host", "a")), None);
        assert_eq!(judged(|builder| builder.uri("*").header("host", "a")), Some(Fault::Target));
        assert_eq!(judged(asks("http://a/0123456789012345678901234567890123456789")), Some(Fault::UriTooLong));
        assert_eq!(judged(|builder| builder.uri("http://a/").header("host", "A")), None);
        assert_eq!(judged(|builder| builder.uri("http://a/").header("host", "b")), Some(Fault::Authority));
        for (name, value, fault) in [
            ("x", "a b", None),
            ("x", "", None),
            ("x", " a", Some(Fault::SpaceAroundValue)),
            ("x", "a\t", Some(Fault::SpaceAroundValue)),
            ("content-length", "7", None),
            ("content-length", "07", Some(Fault::Length)),
            ("content-length", "", Some(Fault::Length)),
            ("content_length", "7", Some(Fault::LikeFraming)),
            ("transfer_encoding", "chunked", Some(Fault::LikeFraming)),
        ] {
            assert_eq!(judged(|builder| builder.uri("http://a/").header(name, value)), fault, "{name}: {value:?}");
        }
        let many = |builder: http::request::Builder| (0..6).fold(builder, |builder, _| builder.header("x", "y"));
        assert_eq!(judged(|builder| many(builder.uri("http://a/"))), Some(Fault::TooManyHeaders));
    }

    #[test]
    fn crumbs_become_one_cookie_in_their_order() {
        for (crumbs, cookie) in [
            (&["a=1", "b=2", "c=3; d=4"][..], "a=1; b=2; c=3; d=4"),
            (&["a=1"], "a=1"),
            (&["", "a=1", "", "b=2", ""], "a=1; b=2"),
        ] {
            let mut headers = HeaderMap::new();
            crumbs.iter().for_each(|crumb| _ = headers.append(COOKIE, HeaderValue::from_static(crumb)));
            join_cookies(&mut headers);
            assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), [cookie]);
        }
    }
}

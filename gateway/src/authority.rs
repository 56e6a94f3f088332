//! Whom a request is addressed to: one host, agreed on by everything that matches, logs and forwards.
//!
//! The absolute form of a target wins over `Host` (RFC 9112 §3.2.2). After [`settle`] a request has one `Host` header
//! with what won, and a target in origin form, so that nobody further down can read another host than the one that was
//! judged here. Listeners and routes compare it [folded](fold_host) by the same function.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use http::header::{ALLOW, HOST};
use http::uri::Authority;
use http::{HeaderValue, Method, Version};
use portcullis_middleware::router::{fold_host, host_of};
use portcullis_middleware::{Cause, Rejection, Request};

use crate::proxy::headers::origin_form;
use crate::server::strict::noted;

/// What a 405 names where no route was asked yet (RFC 9110 §15.5.6 wants a list).
const SERVED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Makes the request's host unambiguous, and returns it folded: in lower case, without port and trailing dot.
///
/// An HTTP/1.0 request may lack a host; it is the empty string then, which only `any` matches.
pub fn settle(request: &mut Request) -> Result<Cow<'_, str>, Rejection> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        // The first would make us a tunnel to anywhere, the second an echo of headers that clients must not see.
        let refusal = Rejection::new(Cause::MethodNotAllowed).detail("CONNECT and TRACE are not served");
        return Err(refusal.header(ALLOW, HeaderValue::from_static(SERVED)));
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    if let Some(other) = hosts.next() {
        return Err(refused("there is more than one Host header", other.as_bytes()));
    }
    // RFC 9112 §3.2: it is there and is well-formed, also beside a target that wins over it.
    let mut anew = match host {
        Some(host) => check(host, "the Host header is malformed")?,
        None if request.version() == Version::HTTP_11 => return Err(refused("there is no Host header", b"")),
        None if request.version() == Version::HTTP_10 || request.uri().authority().is_some() => None,
        None => return Err(refused("the request names no host", b"")),
    };
    if let Some(authority) = request.uri().authority() {
        if let Some(scheme) = request.uri().scheme_str().filter(|scheme| !matches!(*scheme, "http" | "https")) {
            return Err(refused("the target's scheme is neither http nor https", scheme.as_bytes()));
        }
        let malformed = "the target's authority is malformed";
        let value =
            HeaderValue::from_str(authority.as_str()).map_err(|_| refused(malformed, authority.as_str().as_bytes()))?;
        anew = check(&value, malformed)?.or(Some(value));
        *request.uri_mut() = origin_form(request.uri());
    }
    if let Some(host) = anew {
        request.headers_mut().insert(HOST, host);
    }
    Ok(host_of(request))
}

/// Whether an authority is one that everybody reads alike, and what it is if it can be said shorter. If it is not one,
/// that is what is `wrong`.
fn check(value: &HeaderValue, wrong: &'static str) -> Result<Option<HeaderValue>, Rejection> {
    if is_plain(value.as_bytes()) { Ok(None) } else { look_closely(value, wrong) }
}

#[cold]
fn look_closely(value: &HeaderValue, wrong: &'static str) -> Result<Option<HeaderValue>, Rejection> {
    // What stands before an `@` may be a password, which no log should hold.
    let place = value.as_bytes();
    let place = &place[place.iter().rposition(|byte| *byte == b'@').unwrap_or(0)..];
    let malformed = || refused(wrong, place);
    let text = value.to_str().map_err(|_| malformed())?;
    let authority: Authority = text.parse().map_err(|_| malformed())?;
    let host = authority.host();
    // User information has no place in a request, and a comma means that somebody joined two headers.
    if text.contains(['@', ',']) {
        return Err(malformed());
    }
    // `Authority` overlooks a port that is none, and takes the host before it.
    let port = &text[host.len()..];
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    // RFC 3986 §3.2.3: one may be empty, and should not be written then.
    if !matches!(port, "" | ":") && !port.strip_prefix(':').is_some_and(is_port) {
        return Err(malformed());
    }
    // Nor does it read what stands between brackets.
    let is_address = |literal: &str| literal.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    if host.strip_prefix('[').is_some_and(|literal| !is_address(literal)) {
        return Err(malformed());
    }
    if fold_host(host).is_empty() {
        return Err(malformed());
    }
    if port == ":" { HeaderValue::from_str(host).map(Some).map_err(|_| malformed()) } else { Ok(None) }
}

/// Whether this is what nearly every request says, a name or an IPv4 address and perhaps a port, so that a short look
/// is enough. What is not so may still be good.
fn is_plain(authority: &[u8]) -> bool {
    let colon = authority.iter().position(|byte| *byte == b':').unwrap_or(authority.len());
    let (host, port) = authority.split_at(colon);
    let (Some(first), Some(last)) = (host.first(), host.last()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && host.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        && (port.is_empty() || is_plain_port(&port[1..]))
}

/// Whether these are digits, and no higher than a port goes.
fn is_plain_port(digits: &[u8]) -> bool {
    let number = || digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
    matches!(digits.len(), 1..=5) && digits.iter().all(u8::is_ascii_digit) && number() <= u32::from(u16::MAX)
}

/// What was wrong, and where. The client is told the former.
fn refused(wrong: &'static str, place: &[u8]) -> Rejection {
    Rejection::new(Cause::BadRequest).detail(wrong).note(noted(wrong, place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::response::IntoResponse;

    fn request(target: &str, hosts: &[&str]) -> Request {
        let mut request = http::Request::builder().uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(Body::empty()).expect("a valid request")
    }

    #[test]
    fn a_host_is_compared_in_lower_case_without_port_and_trailing_dot() {
        for host in
            ["api.example.com", "API.Example.COM", "api.example.com:8080", "api.example.com.", "api.example.com.:80"]
        {
            assert_eq!(settle(&mut request("/", &[host])).expect("a good host"), "api.example.com", "{host}");
        }
        // A route reads the very host that the listener was found by, also of an address that can be written in many ways.
        for host in ["[2001:DB8::1]:80", "[2001:db8:0:0::1]", "[2001:db8::0:1]:8443"] {
            let mut asked = request("/", &[host]);
            assert_eq!(settle(&mut asked).expect("a good host"), "[2001:db8::1]", "{host}");
            assert_eq!(host_of(&asked), "[2001:db8::1]", "{host}");
        }
    }

    #[test]
    fn the_absolute_form_wins_and_is_what_goes_on() {
        let mut request = request("http://Real.example/x?y=1", &["other.example"]);
        assert_eq!(settle(&mut request).expect("a good host"), "real.example");
        assert_eq!(request.headers()[HOST], "Real.example");
        assert_eq!(request.uri().to_string(), "/x?y=1");
    }

    #[test]
    fn a_port_that_is_empty_is_none() {
        for (target, host, told) in [
            ("/", "a.example:", "a.example"),
            ("/", "[::1]:", "[::1]"),
            ("http://A.example:/", "b", "A.example"),
            ("http://b/", "a:", "b"),
        ] {
            let mut request = request(target, &[host]);
            assert_eq!(settle(&mut request).expect("a good host"), told.to_ascii_lowercase(), "{target} {host}");
            assert_eq!(request.headers()[HOST], told, "{target} {host}");
        }
    }

    #[test]
    fn the_absolute_form_makes_no_good_host_of_a_bad_one() {
        for hosts in [&[][..], &["a b"], &["a", "a"]] {
            let refused = settle(&mut request("http://real.example/", hosts)).expect_err("no request of HTTP/1.1");
            assert_eq!(refused.cause(), Cause::BadRequest, "{hosts:?}");
        }
        // HTTP/2 has no need of the header.
        let mut newer = request("http://real.example/", &[]);
        *newer.version_mut() = Version::HTTP_2;
        assert_eq!(settle(&mut newer).expect("a good host"), "real.example");
    }

    #[test]
    fn hosts_that_could_be_read_two_ways_are_refused() {
        for hosts in [
            &[][..],
            &["a", "b"],
            &["a,b"],
            &["user@a"],
            &[""],
            &["a:b"],
            &["a::"],
            &[":"],
            &["a:99999"],
            &["a:+80"],
            &["a b"],
            &["a/b"],
            &[":80"],
            &["."],
            &["[a]"],
            &["[fe80::1%25eth0]"],
            &["[::1"],
        ] {
            let refused = settle(&mut request("/", hosts)).expect_err("no host can be told");
            assert_eq!(refused.cause(), Cause::BadRequest, "{hosts:?}");
        }
    }

    #[test]
    fn tunnels_and_echoes_are_refused_with_what_is_served() {
        for method in [Method::CONNECT, Method::TRACE] {
            let mut request = request("/", &["a"]);
            *request.method_mut() = method;
            let refused = settle(&mut request).expect_err("it is not served").into_response();
            assert_eq!(refused.status(), 405);
            assert!(refused.headers()[ALLOW].to_str().expect("text").contains("GET"));
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4096))]

        #[test]
        fn the_fast_look_takes_nothing_that_the_close_one_refuses(host in "[a-z0-9A-Z.:@,%_/?#\\[\\]-]{0,16}|[a-z]{1,3}[.-]{0,3}[a-z0-9]{0,3}(:[0-9]{0,6})?|a:65[0-9]{3}") {
            let Ok(value) = HeaderValue::from_str(&host) else { return Ok(()) };
            if is_plain(value.as_bytes()) {
                let close = look_closely(&value, "malformed");
                proptest::prop_assert!(close.is_ok(), "{host}: {close:?}");
            }
        }
    }

    #[test]
    fn http_1_0_may_lack_a_host() {
        let mut old = request("/", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(settle(&mut old).expect("an old client"), "");
    }
}

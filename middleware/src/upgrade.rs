//! What it takes to agree on another protocol than HTTP (RFC 9110 §7.8).
//!
//! A client asks with `Connection: upgrade` and `Upgrade: websocket`. Both speak of its connection only and are removed
//! before the first middleware sees the request; that it asked stays known by the [`Upgrade`] in the request's
//! extensions. A middleware that has to tell such a request from others looks there.
//!
//! Any one protocol may be asked for, but none that is HTTP again (`h2c`, `HTTP/…`) or hides it (`TLS/…`): whatever is sent
//! after the `101` passes by all routes and guards. Such a request, and one that asks in any other way than the RFC's, is a
//! request as if it had not asked, which every server may make of it.

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use http_body::Body as _;

use crate::{Request, Response};

/// What a request asks to go on in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade(HeaderValue);

impl Upgrade {
    /// What a request asks for that has just arrived, with the headers of its connection still in it.
    pub fn asked(request: &Request) -> Option<Self> {
        // An answer to HEAD ends with its head, and what follows a body would be hard to tell from it.
        let may_ask = request.version() == Version::HTTP_11 && request.method() != Method::HEAD;
        if !may_ask || !request.body().is_end_stream() {
            return None;
        }
        let protocol = offered(request.headers())?;
        (!is_http(protocol.as_bytes())).then(|| Self(protocol.clone()))
    }

    /// What an answer of 426 requires, with the headers of its connection still in it.
    pub fn required_by<B>(response: &http::Response<B>) -> Option<Self> {
        let protocol = offered(response.headers()).filter(|_| response.status() == StatusCode::UPGRADE_REQUIRED)?;
        (!is_http(protocol.as_bytes())).then(|| Self(protocol.clone()))
    }

    /// What a request asked for when it arrived.
    pub fn of(request: &Request) -> Option<&Self> {
        request.extensions().get()
    }

    /// The protocol, as the client wrote it.
    pub fn protocol(&self) -> &HeaderValue {
        &self.0
    }

    /// Whether an answer, with the headers of its connection still in it, agrees to this protocol and to no other.
    pub fn is_agreed_by<B>(&self, response: &http::Response<B>) -> bool {
        let protocol = offered(response.headers());
        protocol.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(self.0.as_bytes()))
    }

    /// Says on a request or an answer that its connection goes on in this protocol.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.0.clone());
    }
}

/// Whether an answer begins another protocol. Its body is not sent: it ends when that protocol does.
pub fn is_agreed(response: &Response) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// The only protocol that headers name, if their connection is to be upgraded.
fn offered(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut lines = headers.get_all(UPGRADE).iter();
    let (protocol, None) = (lines.next()?, lines.next()) else { return None };
    let mut options = headers.get_all(CONNECTION).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    let is_meant = options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    (is_meant && is_protocol(protocol.as_bytes())).then_some(protocol)
}

/// A name, and perhaps a version behind a slash.
fn is_protocol(text: &[u8]) -> bool {
    let mut parts = text.splitn(2, |&byte| byte == b'/');
    let is_token = |part: &[u8]| {
        !part.is_empty() && part.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
    };
    parts.all(is_token)
}

/// Whether it is HTTP in another version, or TLS with HTTP in it.
fn is_http(protocol: &[u8]) -> bool {
    let name = protocol.split(|&byte| byte == b'/').next().unwrap_or_default().to_ascii_lowercase();
    name.starts_with(b"http") || name == b"tls" || matches!(&name[..], [b'h', b'0'..=b'9', ..])
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn asking(lines: &[(&str, &str)]) -> Request {
        let mut request = http::Request::builder().uri("/");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).expect("a valid request")
    }

    fn asked(lines: &[(&str, &str)]) -> Option<String> {
        Upgrade::asked(&asking(lines)).map(|upgrade| upgrade.protocol().to_str().unwrap().to_owned())
    }

    #[test]
    fn one_protocol_is_asked_for_and_the_connection_says_so() {
        for (connection, protocol) in [
            ("upgrade", "websocket"),
            ("Upgrade", "WebSocket"),
            ("keep-alive, Upgrade", "websocket"),
            ("upgrade", "SPDY/3.1"),
            ("upgrade", "tcp"),
        ] {
            let lines = [("connection", connection), ("upgrade", protocol)];
            assert_eq!(asked(&lines).as_deref(), Some(protocol), "{connection}");
        }
        for lines in [
            &[("upgrade", "websocket")][..],
            &[("connection", "keep-alive"), ("upgrade", "websocket")],
            &[("connection", "upgrade")],
            &[("connection", "upgrade"), ("upgrade", "websocket, tcp")],
            &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "tcp")],
            &[("connection", "upgrade"), ("upgrade", "")],
            &[("connection", "upgrade"), ("upgrade", "web socket")],
            &[("connection", "upgrade"), ("upgrade", "a/b/c")],
        ] {
            assert_eq!(asked(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn nobody_goes_on_in_http_behind_the_routes() {
        for protocol in ["h2c", "H2C", "h2", "h2-14", "h3", "HTTP/2.0", "http/1.1", "HTTP2", "TLS/1.0", "tls"] {
            assert_eq!(asked(&[("connection", "upgrade"), ("upgrade", protocol)]), None, "{protocol}");
        }
    }

    #[test]
    fn only_a_request_of_http_1_1_without_a_body_asks() {
        let lines = [("connection", "upgrade"), ("upgrade", "websocket")];
        let with = |change: fn(&mut Request)| {
            let mut request = asking(&lines);
            change(&mut request);
            Upgrade::asked(&request)
        };
        assert!(with(|_| {}).is_some());
        assert!(with(|request| *request.method_mut() = Method::POST).is_some());
        assert_eq!(with(|request| *request.method_mut() = Method::HEAD), None);
        assert_eq!(with(|request| *request.version_mut() = Version::HTTP_10), None);
        assert_eq!(with(|request| *request.version_mut() = Version::HTTP_2), None);
        assert_eq!(with(|request| *request.body_mut() = Body::from("x")), None);
    }

    #[test]
    fn an_answer_agrees_to_what_was_asked_and_to_nothing_else() {
        let upgrade = Upgrade(HeaderValue::from_static("websocket"));
        let agrees = |lines: &[(&str, &str)]| {
            let mut response = http::Response::builder().status(101);
            for (name, value) in lines {
                response = response.header(*name, *value);
            }
            upgrade.is_agreed_by(&response.body(()).expect("a valid answer"))
        };
        assert!(agrees(&[("connection", "Upgrade"), ("upgrade", "WebSocket")]));
        for lines in [
            &[][..],
            &[("connection", "upgrade")],
            &[("upgrade", "websocket")],
            &[("connection", "upgrade"), ("upgrade", "tcp")],
            &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
            &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "websocket")],
        ] {
            assert!(!agrees(lines), "{lines:?}");
        }
    }
}

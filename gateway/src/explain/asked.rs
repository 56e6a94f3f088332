//! A request as somebody describes it, and as a client would send it.

use std::net::IpAddr;

use axum::body::Body;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Uri};
use portcullis_middleware::Request;
use serde::{Deserialize, Serialize};

/// A request that is asked about. It is also the body of the admin API's `POST /explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Its method.
    pub method: String,
    /// Its URL: `http://api.example.com/orders/7`. Without a scheme it is `http`; a path alone needs a `Host` header.
    pub url: String,
    /// Its headers, names and values.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The address that the connection comes from; `127.0.0.1` if not given.
    #[serde(default)]
    pub client: Option<IpAddr>,
    /// The listener it comes to; found by the URL if not given.
    #[serde(default)]
    pub listener: Option<String>,
}

/// A described request, read.
#[derive(Debug)]
pub(super) struct Described {
    /// As a client would send it: a target in origin form, and a `Host`.
    pub(super) request: Request,
    /// The port it would be sent to, unless the URL is a path alone.
    pub(super) port: Option<u16>,
}

impl Asked {
    /// Reads the description, or says what is wrong with it.
    pub(super) fn read(&self) -> Result<Described, String> {
        let method =
            Method::from_bytes(self.method.as_bytes()).map_err(|_| format!("`{}` is no method", self.method))?;
        let (target, host, port) = address(&self.url)?;

        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = target;
        for (name, value) in &self.headers {
            let parsed =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is no name of a header"))?;
            let value = HeaderValue::from_bytes(value.trim().as_bytes())
                .map_err(|_| format!("the value of the header `{name}` holds a control character"))?;
            request.headers_mut().append(parsed, value);
        }
        // As curl does it: a `Host` that is asked for takes the place of the URL's.
        if let (Some(host), false) = (host, request.headers().contains_key(HOST)) {
            request.headers_mut().insert(HOST, host);
        }
        if !request.headers().contains_key(HOST) {
            return Err(format!("`{0}` names no host; write `http://HOST{0}`, or add -H 'host: HOST'", self.url));
        }
        Ok(Described { request, port })
    }
}

/// What a client makes of a URL: the target it asks for, the `Host` it sends, the port it connects to.
fn address(url: &str) -> Result<(Uri, Option<HeaderValue>, Option<u16>), String> {
    let is_path = url == "*" || url.starts_with('/');
    let full = if is_path || url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let uri: Uri = full.parse().map_err(|error| format!("`{url}` is no URL: {error}"))?;
    if is_path {
        return Ok((uri, None, None));
    }
    let default = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        other => return Err(format!("`{url}` is neither http nor https, but {}", other.unwrap_or("nothing"))),
    };
    let authority = uri.authority().ok_or_else(|| format!("`{url}` names no host"))?;
    if authority.as_str().contains('@') {
        return Err(format!("`{url}` has a user's name in it; write an `authorization` header instead"));
    }
    if authority.host().is_empty() {
        return Err(format!("`{url}` names no host"));
    }
    let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
        Some(port) => port.parse().map_err(|_| format!("`{port}` in `{url}` is no port"))?,
        None => default,
    };
    let host = if port == default { authority.host().to_owned() } else { format!("{}:{port}", authority.host()) };
    let host = HeaderValue::try_from(host).map_err(|_| format!("`{url}` names no host"))?;
    let target = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Ok((Uri::from(target), Some(host), Some(port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(url: &str, headers: &[(&str, &str)]) -> Result<Described, String> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Asked { method: "GET".into(), url: url.into(), headers, client: None, listener: None }.read()
    }

    #[test]
    fn a_url_becomes_what_a_client_sends() {
        for (url, target, host, port) in [
            ("http://a.example/x?y=1", "/x?y=1", "a.example", 80),
            ("https://a.example", "/", "a.example", 443),
            ("http://a.example:80/x", "/x", "a.example", 80),
            ("http://a.example:8080/x#part", "/x", "a.example:8080", 8080),
            ("a.example:8080/x", "/x", "a.example:8080", 8080),
            ("http://[::1]:81/", "/", "[::1]:81", 81),
            ("http://a.example?y=1", "/?y=1", "a.example", 80),
        ] {
            let described = asked(url, &[]).unwrap_or_else(|sentence| panic!("{url}: {sentence}"));
            assert_eq!(described.request.uri(), target, "{url}");
            assert_eq!(described.request.headers()[HOST], host, "{url}");
            assert_eq!(described.port, Some(port), "{url}");
        }
    }

    #[test]
    fn a_host_that_is_asked_for_takes_the_place_of_the_urls() {
        let described = asked("http://127.0.0.1:8080/x", &[("Host", "a.example")]).expect("a request");
        assert_eq!(described.request.headers()[HOST], "a.example");
        assert_eq!(described.port, Some(8080));
        assert_eq!(asked("/x", &[("host", "a.example")]).expect("a request").port, None);
    }

    #[test]
    fn what_is_no_request_is_refused_with_a_sentence() {
        for (url, headers, wanted) in [
            ("/x", &[][..], "names no host"),
            ("ftp://a/x", &[], "neither http nor https"),
            ("http://user:pw@a/x", &[], "user's name"),
            ("http://a:99999/x", &[], "99999"),
            ("http://a b/x", &[], "is no URL"),
            ("http://a/x", &[("x y", "1")], "no name of a header"),
            ("http://a/x", &[("x", "a\nb")], "control character"),
        ] {
            let sentence = asked(url, headers).map(drop).expect_err(url);
            assert!(sentence.contains(wanted), "{url}: {sentence}");
        }
    }
}

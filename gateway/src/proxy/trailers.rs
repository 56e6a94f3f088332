//! Trailers on their way through, in both directions.
//!
//! Many a server and library puts trailers among the headers once they are there, where they would say anew what was
//! believed and acted upon already. So what speaks of a connection ends here as it does in a head, and a name that is not
//! [meant for trailers](OF_A_HEAD), or that only the gateway may say, goes no further. The rest of the trailers does.

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPECT, HOST,
    LOCATION, MAX_FORWARDS, RANGE, SET_COOKIE, TE, TRAILER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName};

use super::headers;

/// RFC 9110 §6.5.1: what frames, routes or changes a message, proves who somebody is, or says what a body is, comes too
/// late behind the body. What else speaks of connections is not listed here.
const OF_A_HEAD: [HeaderName; 16] = [
    CONTENT_LENGTH,
    TRAILER,
    TE,
    HOST,
    LOCATION,
    CACHE_CONTROL,
    EXPECT,
    MAX_FORWARDS,
    RANGE,
    AUTHORIZATION,
    WWW_AUTHENTICATE,
    COOKIE,
    SET_COOKIE,
    CONTENT_ENCODING,
    CONTENT_RANGE,
    CONTENT_TYPE,
];

/// What a message's `Connection` has listed beside the usual (RFC 9110 §7.6.1). A trailer of such a name ends there too.
#[derive(Debug, Clone)]
pub struct Listed(pub(super) Vec<HeaderName>);

/// Removes what must not go on.
pub(super) fn clean(trailers: &mut HeaderMap, listed: Option<&Listed>) {
    headers::end_hop(trailers);
    headers::end_claims(trailers);
    for name in OF_A_HEAD.iter().chain(listed.iter().flat_map(|listed| &listed.0)) {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_belongs_into_a_head_is_no_trailer() {
        let mut trailers = HeaderMap::new();
        for name in [
            "content-length",
            "transfer-encoding",
            "host",
            "connection",
            "te",
            "keep-alive",
            "set-cookie",
            "authorization",
            "x-forwarded-for",
            "forwarded",
            "x_forwarded_for",
            "traceparent",
            "proxy",
            "x-private",
            "grpc-status",
            "etag",
            "server-timing",
        ] {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("trailers"));
        }
        clean(&mut trailers, Some(&Listed(vec![HeaderName::from_static("x-private")])));
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["etag", "grpc-status", "server-timing"]);
    }
}

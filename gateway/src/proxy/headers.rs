//! Which headers cross the gateway, and which it writes itself.
//!
//! Headers that speak of one connection only end here, in both directions ([`end_hop`]). That happens to a request
//! before the first middleware sees it: a client cannot name in `Connection` what the gateway adds later, such as
//! `X-Forwarded-For` or a trace header, and so have it removed again.
//!
//! What speaks for the client (`X-Forwarded-*`, `X-Real-IP`, `Forwarded`) is believed from a trusted peer only. From
//! anybody else it is replaced. Headers of the family that the listener does not write (`forwarding`) are dropped.
//!
//! A client that came over a unix socket and was not named by a trusted proxy has no address, and is told as `unknown`.
//!
//! `Upgrade` ends here as well: what crosses is written anew where a [tunnel](super::Forward) may follow.

use std::fmt::Write as _;
use std::net::IpAddr;

use axum::body::Body;
use http::header::{
    CONNECTION, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, Version};
use portcullis_config::Forwarding;
use portcullis_middleware::{Cause, Client, Exchange, Origin, Rejection, Upgrade, client};

use super::trailers::Listed;
use crate::server::strict::noted;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Who has no address (RFC 7239 §6.2). Without a word, an instance would take the gateway for the client.
const UNKNOWN: HeaderValue = HeaderValue::from_static("unknown");

/// RFC 9110 §7.6.1, and what is so by custom.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// Where `Upgrade` is in that list.
const ASKS: u32 = 1 << 2;

/// What claims to know who the client is.
const CLAIMS: [HeaderName; 6] =
    [X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO, X_REAL_IP, FORWARDED];

/// Where the two that name a client are in that list.
const LIST: u32 = 1;
const ELEMENTS: u32 = 1 << 5;

/// Headers that many an application reads in one of two spellings, because CGI cannot tell `-` from `_`.
const OWNED: [&str; 10] = [
    "content-length",
    "forwarded",
    "traceparent",
    "transfer-encoding",
    "x-amzn-trace-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Removes the headers that concern only the connection they came over. Returns the names that `Connection` listed.
///
/// `TE: trailers` stays: we do pass trailers on.
pub fn end_hop(headers: &mut HeaderMap) -> Option<Listed> {
    match find(headers, &HOP_BY_HOP) {
        0 => None,
        found => end_those(headers, found),
    }
}

/// Does the same to a request that has just arrived. What it asks to be [upgraded](Upgrade) to stays known.
pub fn arrive(request: &mut Request<Body>) {
    let found = find(request.headers(), &HOP_BY_HOP);
    if found == 0 {
        return;
    }
    if found & ASKS != 0
        && let Some(upgrade) = Upgrade::asked(request)
    {
        request.extensions_mut().insert(upgrade);
    }
    if let Some(listed) = end_those(request.headers_mut(), found) {
        request.extensions_mut().insert(listed);
    }
}

fn end_those(headers: &mut HeaderMap, found: u32) -> Option<Listed> {
    let trailers = takes_trailers(headers);
    let mut listed = listed(headers);
    for name in &listed {
        headers.remove(name);
    }
    remove(headers, &HOP_BY_HOP, found);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    listed.retain(|name| name != "close" && !HOP_BY_HOP.contains(name));
    (!listed.is_empty()).then_some(Listed(listed))
}

/// Removes what only the gateway says to an instance, whoever says it.
pub(super) fn end_claims(headers: &mut HeaderMap) {
    end_masquerade(headers);
    for name in OWNED {
        headers.remove(name);
    }
}

/// Which of these names are there, a bit for each. Few messages have any of them, and one look at the names that a
/// message does have costs less than asking its map for each that it has not.
fn find(headers: &HeaderMap, names: &[HeaderName]) -> u32 {
    headers
        .keys()
        .filter_map(|name| names.iter().position(|listed| listed == name))
        .fold(0, |found, at| found | 1 << at)
}

/// Removes those of the names that were [found](find).
fn remove(headers: &mut HeaderMap, names: &[HeaderName], found: u32) {
    for (at, name) in names.iter().enumerate() {
        if found & 1 << at != 0 {
            headers.remove(name);
        }
    }
}

/// RFC 9110 §7.6.1: a name listed in `Connection` is hop-by-hop, whatever it is.
fn listed(headers: &HeaderMap) -> Vec<HeaderName> {
    let options = headers.get_all(CONNECTION).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    // Without its `Host` a request would go astray, and without its claims it would be the proxy's in front of us. Nobody
    // may ask for that.
    let stays = |name: &HeaderName| *name == HOST || CLAIMS.contains(name);
    options.filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok()).filter(|name| !stays(name)).collect()
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TE).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Removes what no instance may believe: `Proxy` (which a CGI program takes for its proxy's address), and headers with
/// underscores that look like ours.
fn end_masquerade(headers: &mut HeaderMap) {
    let masked = |name: &HeaderName| {
        let name = name.as_str();
        name == "proxy" || name.as_bytes().contains(&b'_') && OWNED.contains(&name.replace('_', "-").as_str())
    };
    // Without any, which is how it should be, this allocates nothing.
    let names: Vec<HeaderName> = headers.keys().filter(|name| masked(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Cleans a request's headers for an instance and tells it about the client.
pub fn prepare<B>(request: &mut Request<B>, exchange: &Exchange, forwarding: Forwarding) -> Result<(), Rejection> {
    let client = exchange.client().ok().copied();
    // The host in an absolute-form target wins over `Host` (RFC 9112 §3.2.2).
    if let Some(host) = request.uri().authority().and_then(bare) {
        request.headers_mut().insert(HOST, host);
    }
    let version = request.version();
    let headers = request.headers_mut();
    settle_expectation(headers, version)?;
    end_hop(headers);
    end_masquerade(headers);
    introduce(headers, client.as_ref(), exchange.scheme(), exchange.host(), forwarding);
    Ok(())
}

/// RFC 9110 §10.1.1: there is one thing that may be expected. HTTP/1.0 does not know it, and over HTTP/2 nobody could be
/// told to go on, since hyper sends no interim answers there: neither waits to be told.
fn settle_expectation(headers: &mut HeaderMap, version: Version) -> Result<(), Rejection> {
    let mut expected = headers.get_all(EXPECT).iter().peekable();
    if expected.peek().is_none() {
        return Ok(());
    }
    let other = expected.find(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if let Some(other) = other
        && version != Version::HTTP_10
    {
        let wrong = "nothing but 100-continue can be expected here";
        return Err(Rejection::new(Cause::BadRequest)
            .status(StatusCode::EXPECTATION_FAILED)
            .detail(wrong)
            .note(noted(wrong, other.as_bytes())));
    }
    if version != Version::HTTP_11 {
        headers.remove(EXPECT);
    }
    Ok(())
}

/// An authority without user information, as `Host` says it.
fn bare(authority: &Authority) -> Option<HeaderValue> {
    let text = authority.as_str();
    let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
    HeaderValue::from_str(host).ok()
}

/// Tells an instance who the client is.
fn introduce(
    headers: &mut HeaderMap,
    client: Option<&Client>,
    scheme: &'static str,
    host: Option<&HeaderValue>,
    mode: Forwarding,
) {
    let claimed = find(headers, &CLAIMS);
    let (mut said_proto, mut said_host) = (None, None);
    if claimed != 0 {
        if let Some(client) = client {
            said_proto = client::said(client, headers, "proto").filter(is_scheme);
            said_host = client::said(client, headers, "host");
        }
        remove(headers, &CLAIMS, claimed & !client.map_or(0, |client| believed(client, claimed, mode)));
    }
    let hop = client.map(|client| client.peer.map_or(client.ip, |peer| peer.ip().to_canonical()));
    // Whom the peer named. If it was in the other family, the list begins with it.
    let named = client.map(|client| client.ip).filter(|ip| Some(*ip) != hop);
    // The other end of a unix socket has no address to add to a list, and is there only because it named somebody else.
    let complete =
        |headers: &HeaderMap, list| client.is_some_and(|client| client.peer.is_none()) && headers.contains_key(list);
    if matches!(mode, Forwarding::X | Forwarding::Both) {
        let written = hop.map_or(UNKNOWN, address);
        let client = named.map(address).or_else(|| hop.map(|_| written.clone()));
        headers.reserve(4);
        if let Some(named) = named {
            headers.entry(X_FORWARDED_FOR).or_insert_with(|| address(named));
        }
        if !complete(headers, X_FORWARDED_FOR) {
            append(headers, X_FORWARDED_FOR, written);
        }
        insert_new(headers, X_FORWARDED_PROTO, said_proto.unwrap_or(HeaderValue::from_static(scheme)));
        if let Some(host) = said_host.or_else(|| host.or_else(|| headers.get(HOST)).cloned()) {
            insert_new(headers, X_FORWARDED_HOST, host);
        }
        if let Some(client) = client {
            headers.insert(X_REAL_IP, client);
        }
    }
    if matches!(mode, Forwarding::Rfc7239 | Forwarding::Both) {
        if let Some(named) = named
            && let Ok(node) = HeaderValue::try_from(node(Some(named)))
        {
            insert_new(headers, FORWARDED, node);
        }
        if !complete(headers, FORWARDED)
            && let Ok(element) = HeaderValue::try_from(element(hop, scheme, host.or(headers.get(HOST))))
        {
            append(headers, FORWARDED, element);
        }
    }
}

/// Which of the [claims](CLAIMS) are believed, a bit for each.
///
/// A trusted proxy that writes one family of headers passes the other one on as its client wrote it. So of what it sent,
/// only the family is believed in which the [client was looked for](portcullis_middleware::client), if we write it too.
fn believed(client: &Client, claimed: u32, mode: Forwarding) -> u32 {
    let family = |name: &HeaderName| if *name == FORWARDED { Forwarding::Rfc7239 } else { Forwarding::X };
    let read = match client.origin {
        Origin::XForwardedFor(_) => Forwarding::X,
        Origin::Forwarded(_) => Forwarding::Rfc7239,
        // It named nobody.
        _ if claimed & (LIST | ELEMENTS) == ELEMENTS => Forwarding::Rfc7239,
        _ => Forwarding::X,
    };
    let is_believed =
        |name| client.peer_is_trusted && family(name) == read && (mode == read || mode == Forwarding::Both);
    CLAIMS.iter().enumerate().filter(|(_, name)| is_believed(name)).fold(0, |found, (at, _)| found | 1 << at)
}

/// An address as a header's value. It is written with every request, and `Display` takes ten times as long.
fn address(ip: IpAddr) -> HeaderValue {
    let IpAddr::V4(ip) = ip else {
        return HeaderValue::try_from(ip.to_string()).expect("an address consists of digits, letters and colons");
    };
    let mut text = [0; 15];
    let mut length = 0;
    for (at, octet) in ip.octets().into_iter().enumerate() {
        let digits = [octet / 100, octet / 10 % 10, octet % 10].map(|digit| b'0' + digit);
        let digits = &digits[if octet >= 100 {
            0
        } else if octet >= 10 {
            1
        } else {
            2
        }..];
        if at > 0 {
            text[length] = b'.';
            length += 1;
        }
        text[length..length + digits.len()].copy_from_slice(digits);
        length += digits.len();
    }
    HeaderValue::from_bytes(&text[..length]).expect("an address consists of digits and dots")
}

/// RFC 3986 §3.1.
fn is_scheme(value: &HeaderValue) -> bool {
    let [first, rest @ ..] = value.as_bytes() else { return false };
    first.is_ascii_alphabetic() && rest.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
}

/// Joins an element to a list header, which then has one line.
fn append(headers: &mut HeaderMap, name: HeaderName, element: HeaderValue) {
    if !headers.contains_key(&name) {
        headers.insert(name, element);
        return;
    }
    let mut line = Vec::new();
    for value in headers.get_all(&name) {
        // RFC 9110 §5.6.1: nobody sends an element that is empty.
        let value = trim_list(value.as_bytes());
        if !value.is_empty() {
            line.extend_from_slice(value);
            line.extend_from_slice(b", ");
        }
    }
    line.extend_from_slice(element.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&line) {
        headers.insert(name, value);
    }
}

/// A list without empty elements at its ends.
fn trim_list(mut list: &[u8]) -> &[u8] {
    while let [b',' | b' ' | b'\t', rest @ ..] | [rest @ .., b',' | b' ' | b'\t'] = list {
        list = rest;
    }
    list
}

fn insert_new(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    headers.entry(name).or_insert(value);
}

/// RFC 7239 §4: `for=192.0.2.1;host=example.com;proto=https`.
fn element(hop: Option<IpAddr>, scheme: &str, host: Option<&HeaderValue>) -> String {
    let mut element = node(hop);
    if let Some(host) = host.and_then(|host| host.to_str().ok()).filter(|host| !host.contains(['"', '\\'])) {
        let _ = write!(element, ";host=\"{host}\"");
    }
    let _ = write!(element, ";proto={scheme}");
    element
}

/// RFC 7239 §6: who somebody is.
fn node(ip: Option<IpAddr>) -> String {
    match ip {
        Some(IpAddr::V4(ip)) => format!("for={ip}"),
        Some(IpAddr::V6(ip)) => format!("for=\"[{ip}]\""),
        None => "for=unknown".to_owned(),
    }
}

/// The target in the form an instance expects: a path and a query, without scheme and authority.
pub(crate) fn origin_form(uri: &Uri) -> Uri {
    match uri.path_and_query() {
        Some(target) => Uri::from(target.clone()),
        None => Uri::from_static("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn client(peer: &str, trusted: bool) -> Client {
        let peer: std::net::SocketAddr = peer.parse().unwrap();
        Client { ip: peer.ip().to_canonical(), origin: Origin::Peer, peer: Some(peer), peer_is_trusted: trusted }
    }

    fn introduced(before: &[(&'static str, &'static str)], client: &Client, mode: Forwarding) -> Vec<String> {
        let mut headers = headers(before);
        introduce(&mut headers, Some(client), "https", Some(&HeaderValue::from_static("shop.example:8443")), mode);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    const SPOOFED: [(&str, &str); 5] = [
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-proto", "ftp"),
        ("x-forwarded-host", "evil.example"),
        ("x-real-ip", "1.1.1.1"),
        ("forwarded", "for=1.1.1.1"),
    ];

    #[test]
    fn whatever_connection_names_ends_here() {
        let mut headers = headers(&[
            ("connection", "close, X-Secret"),
            ("keep-alive", "timeout=5"),
            ("x-secret", "1"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("proxy-connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
            ("host", "a"),
            ("accept", "*/*"),
        ]);
        headers.append(CONNECTION, HeaderValue::from_static("host, b d"));
        headers.append(CONNECTION, HeaderValue::from_static("accept"));
        let listed = end_hop(&mut headers).expect("some are not the usual ones");
        assert_eq!(listed.0, ["x-secret", "accept"]);
        assert_eq!(headers.len(), 2, "{headers:?}");
        assert_eq!(
            (&headers["host"], &headers["te"]),
            (&HeaderValue::from_static("a"), &HeaderValue::from_static("trailers"))
        );
    }

    #[test]
    fn a_stranger_cannot_speak_for_anybody() {
        assert_eq!(
            introduced(&SPOOFED, &client("203.0.113.9:5000", false), Forwarding::X),
            [
                "x-forwarded-for: 203.0.113.9",
                "x-forwarded-host: shop.example:8443",
                "x-forwarded-proto: https",
                "x-real-ip: 203.0.113.9"
            ]
        );
        assert!(introduced(&SPOOFED, &client("203.0.113.9:5000", false), Forwarding::Off).is_empty());
    }

    #[test]
    fn a_trusted_peer_is_believed_and_joins_the_list() {
        let mut proxied = client("10.0.0.2:5000", true);
        (proxied.ip, proxied.origin) = ("1.1.1.1".parse().unwrap(), Origin::XForwardedFor(0));
        assert_eq!(
            introduced(&SPOOFED, &proxied, Forwarding::Both),
            [
                "forwarded: for=1.1.1.1, for=10.0.0.2;host=\"shop.example:8443\";proto=https",
                "x-forwarded-for: 1.1.1.1, 10.0.0.2",
                "x-forwarded-host: evil.example",
                "x-forwarded-proto: ftp",
                "x-real-ip: 1.1.1.1"
            ]
        );
    }

    #[test]
    fn what_a_trusted_peer_may_have_passed_on_unread_is_not_believed() {
        let mut proxied = client("10.0.0.2:5000", true);
        (proxied.ip, proxied.origin) = ("1.1.1.1".parse().unwrap(), Origin::XForwardedFor(0));
        let written = |mode| introduced(&SPOOFED, &proxied, mode).join("\n");
        assert!(!written(Forwarding::X).contains("forwarded: for"), "{}", written(Forwarding::X));
        assert!(!written(Forwarding::Rfc7239).contains("x-"), "{}", written(Forwarding::Rfc7239));
        assert_eq!(written(Forwarding::Off), "");
    }

    /// A load balancer that knows only `X-Forwarded-For` passed on a `Forwarded` that its client had made up. The gateway
    /// read the former, and told the latter to instances where it writes that too.
    #[test]
    fn a_forwarded_that_was_not_read_is_not_passed_on_beside_the_list_that_was() {
        let mut proxied = client("10.0.0.2:5000", true);
        (proxied.ip, proxied.origin) = ("2.2.2.2".parse().unwrap(), Origin::XForwardedFor(0));
        let came = [("x-forwarded-for", "2.2.2.2"), ("forwarded", "for=1.1.1.1")];
        for mode in [Forwarding::Rfc7239, Forwarding::Both] {
            let written = introduced(&came, &proxied, mode);
            assert_eq!(written[0], "forwarded: for=2.2.2.2, for=10.0.0.2;host=\"shop.example:8443\";proto=https");
        }
    }

    #[test]
    fn what_a_trusted_peer_says_without_naming_anybody_is_passed_on() {
        let proxied = client("10.0.0.2:5000", true);
        let came = [("forwarded", "for=_hidden;proto=https"), ("x-forwarded-proto", "ftp")];
        assert_eq!(
            introduced(&came, &proxied, Forwarding::Both),
            [
                "forwarded: for=_hidden;proto=https, for=10.0.0.2;host=\"shop.example:8443\";proto=https",
                "x-forwarded-for: 10.0.0.2",
                "x-forwarded-host: shop.example:8443",
                "x-forwarded-proto: https",
                "x-real-ip: 10.0.0.2"
            ]
        );
        assert!(introduced(&came[1..], &proxied, Forwarding::X).contains(&"x-forwarded-proto: ftp".to_owned()));
    }

    #[test]
    fn whom_a_trusted_peer_names_in_one_family_is_named_in_the_other() {
        let mut proxied = client("10.0.0.2:5000", true);
        (proxied.ip, proxied.origin) = ("2001:db8::7".parse().unwrap(), Origin::Forwarded(0));
        let came = [("forwarded", "for=\"[2001:db8::7]\"")];
        assert_eq!(introduced(&came, &proxied, Forwarding::X)[0], "x-forwarded-for: 2001:db8::7, 10.0.0.2");
        proxied.origin = Origin::XForwardedFor(0);
        assert_eq!(
            introduced(&[("x-forwarded-for", "2001:db8::7")], &proxied, Forwarding::Rfc7239)[0],
            "forwarded: for=\"[2001:db8::7]\", for=10.0.0.2;host=\"shop.example:8443\";proto=https"
        );
    }

    /// Behind a proxy that ends TLS and writes `Forwarded` only, instances were told `http`, and sent clients there.
    #[test]
    fn how_a_client_asked_is_told_in_the_other_family_too() {
        let mut proxied = client("10.0.0.2:5000", true);
        (proxied.ip, proxied.origin) = ("2.2.2.2".parse().unwrap(), Origin::Forwarded(1));
        let element = "for=1.1.1.1;proto=ftp, for=2.2.2.2;proto=wss;host=\"a.example\"";
        let written = introduced(&[("forwarded", element), ("x-forwarded-proto", "ftp")], &proxied, Forwarding::X);
        assert_eq!(
            written,
            [
                "x-forwarded-for: 2.2.2.2, 10.0.0.2",
                "x-forwarded-host: a.example",
                "x-forwarded-proto: wss",
                "x-real-ip: 2.2.2.2"
            ]
        );
        for bad in ["for=1.1.1.1, for=2.2.2.2", "for=1.1.1.1, for=2.2.2.2;proto=\"h s\";host=\"\""] {
            let written = introduced(&[("forwarded", bad)], &proxied, Forwarding::X);
            assert_eq!(written[1..3], ["x-forwarded-host: shop.example:8443", "x-forwarded-proto: https"], "{bad}");
        }
    }

    #[test]
    fn an_empty_element_is_not_passed_on() {
        let mut proxied = client("10.0.0.2:5000", true);
        for (came, told) in [
            ("", "10.0.0.2"),
            (" , ", "10.0.0.2"),
            (", 1.1.1.1, ", "1.1.1.1, 10.0.0.2"),
            ("1.1.1.1", "1.1.1.1, 10.0.0.2"),
        ] {
            (proxied.origin, proxied.ip) = match came.contains('1') {
                true => (Origin::XForwardedFor(0), "1.1.1.1".parse().unwrap()),
                false => (Origin::Peer, "10.0.0.2".parse().unwrap()),
            };
            let written = introduced(&[("x-forwarded-for", came)], &proxied, Forwarding::X);
            assert_eq!(written[0], format!("x-forwarded-for: {told}"), "{came:?}");
        }
        (proxied.origin, proxied.ip) = (Origin::Peer, "10.0.0.2".parse().unwrap());
        let written = introduced(&[("forwarded", ",")], &proxied, Forwarding::Rfc7239);
        assert_eq!(written, ["forwarded: for=10.0.0.2;host=\"shop.example:8443\";proto=https"]);
    }

    /// A client had the list removed in which the load balancer before us named it, and was taken for the load balancer.
    #[test]
    fn connection_does_not_end_what_is_said_of_the_client() {
        let mut headers = headers(&[("connection", "x-forwarded-for, Forwarded, x"), ("x", "1")]);
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("1.1.1.1"));
        headers.insert(FORWARDED, HeaderValue::from_static("for=1.1.1.1"));
        end_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), [X_FORWARDED_FOR, FORWARDED]);
    }

    #[test]
    fn an_ipv6_address_is_quoted_where_rfc_7239_says_so() {
        assert_eq!(
            introduced(&SPOOFED, &client("[2001:db8::7]:5000", false), Forwarding::Rfc7239),
            ["forwarded: for=\"[2001:db8::7]\";host=\"shop.example:8443\";proto=https"]
        );
    }

    #[test]
    fn a_mapped_address_is_written_as_the_ipv4_address_it_is() {
        let lines = introduced(&[], &client("[::ffff:192.0.2.1]:5000", false), Forwarding::X);
        assert_eq!(lines[0], "x-forwarded-for: 192.0.2.1");
    }

    #[test]
    fn a_client_without_an_address_is_told_as_unknown_and_a_unix_peer_adds_nothing_to_a_list() {
        let written = |client: Option<&Client>, before: &[(&'static str, &'static str)], mode| {
            let mut headers = headers(before);
            introduce(&mut headers, client, "http", None, mode);
            ["x-forwarded-for", "x-real-ip", "forwarded"]
                .map(|name| headers.get(name).map(|value| value.to_str().unwrap().to_owned()))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(written(None, &SPOOFED, Forwarding::Both), [some("unknown"), None, some("for=unknown;proto=http")]);

        let ip = "1.1.1.1".parse().unwrap();
        let named = Client { ip, origin: Origin::XForwardedFor(0), peer: None, peer_is_trusted: true };
        assert_eq!(
            written(Some(&named), &SPOOFED, Forwarding::Both),
            [some("1.1.1.1"), some("1.1.1.1"), some("for=1.1.1.1;proto=http")]
        );
        // It was named in the other family, which is not passed on.
        assert_eq!(
            written(Some(&named), &SPOOFED[..4], Forwarding::Rfc7239),
            [None, None, some("for=1.1.1.1;proto=http")]
        );
    }

    #[test]
    fn headers_that_pass_for_ours_are_dropped() {
        let mut headers = headers(&[
            ("proxy", "http://evil"),
            ("x_forwarded_for", "1.1.1.1"),
            ("x_forwarded-for", "1.1.1.1"),
            ("content_length", "5"),
            ("x_custom_header", "stays"),
        ]);
        end_masquerade(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x_custom_header"]);
    }

    #[test]
    fn the_target_is_sent_in_origin_form_and_its_host_wins() {
        let request = Request::get("http://user:pw@a.example:81/x?y").header(HOST, "b.example").body(()).unwrap();
        assert_eq!(bare(request.uri().authority().unwrap()).unwrap(), "a.example:81");
        assert_eq!(origin_form(request.uri()), "/x?y");
        assert_eq!(origin_form(&Uri::from_static("*")), "*");
    }

    #[test]
    fn nothing_but_100_continue_can_be_expected() {
        let settled = |values: &[&'static str], version| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| _ = headers.append(EXPECT, HeaderValue::from_static(value)));
            let refused = settle_expectation(&mut headers, version).err().map(|rejection| rejection.code().as_u16());
            (refused, headers.contains_key(EXPECT))
        };
        assert_eq!(settled(&[], Version::HTTP_11), (None, false));
        assert_eq!(settled(&["100-Continue"], Version::HTTP_11), (None, true));
        assert_eq!(settled(&["100-continue"], Version::HTTP_2), (None, false));
        assert_eq!(settled(&["200-ok"], Version::HTTP_10), (None, false));
        for values in [&["200-ok"][..], &[""], &["100-continue", "x"], &["100-continue, x"], &["100-continue;q=1"]] {
            for version in [Version::HTTP_11, Version::HTTP_2] {
                assert_eq!(settled(values, version).0, Some(417), "{values:?}");
            }
        }
    }

    #[test]
    fn an_address_is_written_as_everybody_writes_it() {
        for ip in ["0.0.0.0", "1.20.255.9", "100.10.99.101", "255.255.255.255", "::1", "2001:db8::7"] {
            assert_eq!(address(ip.parse().unwrap()), ip);
        }
    }
}

//! Who sent a request: the one function that finds the client's address.
//!
//! It starts with the other end of the connection. If that is one of `trusted_proxies`, the forwarding header it sent
//! is read from right to left for as long as the entry is a trusted proxy too; the first that is not is the client.
//! What stands further left was written by the client, and is not even looked at. An entry that is no address
//! (`unknown`, `_hidden`, garbage) stops the walk at the last good hop. Nobody is trusted by default.
//!
//! **`X-Forwarded-For` counts before `Forwarded`.** A proxy that knows only one of them passes the other one on as the
//! client wrote it. Nearly every proxy and load balancer writes `X-Forwarded-For`, few write `Forwarded`: preferring
//! `Forwarded` would let any client behind the former choose its own address. Where the proxy in front speaks only
//! `Forwarded`, it must remove `X-Forwarded-For` from what it receives. The two are never mixed.
//!
//! With the PROXY protocol the connection's peer is a load balancer that sees no HTTP: whoever it names wrote the
//! request, headers included. So that source takes the peer's place, and its headers are believed only if it is a
//! trusted proxy itself. A load balancer that relays somebody whom it cannot name (`UNKNOWN`) names nobody, and whatever
//! those requests claim is not believed: there is no client.
//!
//! The other end of a unix socket has no address. It is nobody, unless `trusted_proxies` has `"unix:"` and it names the
//! client by the PROXY protocol or a forwarding header.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use portcullis_config::units::TrustedProxy;

use crate::ip_set::IpSet;
use crate::{Client, Origin};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// How many entries of a forwarding header are read. No real path is that long.
pub const MAX_HOPS: usize = 64;

/// The proxies whose word about a client is taken: `trusted_proxies` of the file.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies {
    networks: IpSet,
    /// Whether whoever connects over a unix socket is one.
    unix: bool,
}

impl TrustedProxies {
    /// Trusts these networks.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self { networks: IpSet::new(networks), unix: false }
    }

    /// Whether this address is a trusted proxy's.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.networks.contains(ip)
    }

    /// Whether the other end of a connection is a trusted proxy. On a unix socket it has no address.
    pub fn trusts(&self, peer: Option<SocketAddr>) -> bool {
        peer.map_or(self.unix, |peer| self.contains(peer.ip()))
    }
}

impl FromIterator<TrustedProxy> for TrustedProxies {
    fn from_iter<T: IntoIterator<Item = TrustedProxy>>(written: T) -> Self {
        let mut unix = false;
        let networks = written.into_iter().filter_map(|trusted| match trusted {
            TrustedProxy::Network(network) => Some(network.get()),
            TrustedProxy::Unix => {
                unix = true;
                None
            }
        });
        Self { networks: IpSet::new(networks.collect::<Vec<_>>()), unix }
    }
}

/// Who speaks over a connection, as its other end says by the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// The other end itself. So it is without the protocol too.
    #[default]
    Itself,
    /// A client with this address.
    Client(SocketAddr),
    /// Somebody whom the other end cannot name.
    Unnamed,
}

/// Finds who sent a request; `None` if the other end of the connection, `peer`, relays somebody whom it cannot name.
pub fn settle(peer: SocketAddr, source: Source, headers: &HeaderMap, trusted: &TrustedProxies) -> Option<Client> {
    let (peer, origin) = match source {
        Source::Unnamed => return None,
        Source::Client(source) if trusted.contains(peer.ip()) => (source, Origin::ProxyProtocol),
        Source::Client(_) | Source::Itself => (peer, Origin::Peer),
    };
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let peer_is_trusted = trusted.contains(peer.ip());

    let (ip, origin) = match peer_is_trusted.then(|| walk(headers, trusted)).flatten() {
        Some(found) => found,
        None => (peer.ip(), origin),
    };
    Some(Client { ip, origin, peer: Some(peer), peer_is_trusted })
}

/// Finds who sent a request over a unix socket.
///
/// Its other end has no address, so there is a client only if that end is trusted and names one. Without, nobody is
/// taken for somebody: whoever decides by the client's address refuses.
pub fn settle_unix(source: Source, headers: &HeaderMap, trusted: &TrustedProxies) -> Option<Client> {
    match source {
        _ if !trusted.unix => None,
        Source::Unnamed => None,
        Source::Itself => {
            let (ip, origin) = walk(headers, trusted)?;
            Some(Client { ip, origin, peer: None, peer_is_trusted: true })
        }
        Source::Client(source) => {
            let client = settle(source, Source::Itself, headers, trusted)?;
            let origin = if client.origin == Origin::Peer { Origin::ProxyProtocol } else { client.origin };
            Some(Client { origin, ..client })
        }
    }
}

/// Follows the forwarding header back to the client; `None` if its last entry is no address, or there is none.
fn walk(headers: &HeaderMap, trusted: &TrustedProxies) -> Option<(IpAddr, Origin)> {
    if headers.contains_key(X_FORWARDED_FOR) {
        let (ip, index) = follow(headers, &X_FORWARDED_FOR, node, trusted)?;
        Some((ip, Origin::XForwardedFor(index)))
    } else {
        let (ip, index) = follow(headers, &FORWARDED, forwarded_for, trusted)?;
        Some((ip, Origin::Forwarded(index)))
    }
}

fn follow(
    headers: &HeaderMap,
    name: &HeaderName,
    address: impl Fn(&[u8]) -> Option<IpAddr>,
    trusted: &TrustedProxies,
) -> Option<(IpAddr, u16)> {
    let line = one_line(headers, name);
    let entries = || entries_from_right(&line);
    let mut found = None;
    for (from_right, entry) in entries().take(MAX_HOPS).enumerate() {
        let Some(ip) = address(entry) else { break };
        found = Some((ip, from_right));
        if !trusted.contains(ip) {
            break;
        }
    }
    let (ip, from_right) = found?;
    let from_left = entries().count() - 1 - from_right;
    Some((ip, u16::try_from(from_left).unwrap_or(u16::MAX)))
}

/// What is said of a client beside its address, in the element of `Forwarded` that it was found in: `proto`, or `host`.
///
/// All of an element is one proxy's word, so that whoever is believed about the address is believed about these.
pub fn said(client: &Client, headers: &HeaderMap, parameter: &str) -> Option<HeaderValue> {
    let Origin::Forwarded(index) = client.origin else { return None };
    let line = one_line(headers, &FORWARDED);
    let from_right = entries_from_right(&line).count().checked_sub(usize::from(index) + 1)?;
    if from_right >= MAX_HOPS {
        return None;
    }
    let element = entries_from_right(&line).nth(from_right)?;
    HeaderValue::from_bytes(&self::parameter(element, parameter.as_bytes())?).ok().filter(|value| !value.is_empty())
}

/// Several lines are one list (RFC 9110 §5.3). Quotes, too, are read as they are by whoever gets them in one line.
fn one_line<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Cow<'a, [u8]> {
    let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = lines.next().unwrap_or_default();
    let others: Vec<_> = lines.collect();
    if others.is_empty() {
        return Cow::Borrowed(first);
    }
    Cow::Owned([&[first], &others[..]].concat().join(&b", "[..]))
}

/// The entries of one header line, the last one first; empty ones mean nothing (RFC 9110 §5.6.1).
fn entries_from_right(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    parts_from_right(line, b',').filter(|entry| !entry.is_empty())
}

/// Splits a line at a separator that is not inside a quoted string, from the right.
///
/// From the right, because what the trusted proxy wrote is there: a quote that a client opened on the left and never
/// closed must not swallow it.
fn parts_from_right(line: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let mut quoted = false;
        for at in (0..line.len()).rev() {
            match line[at] {
                b'"' if !quoted => quoted = true,
                b'"' => quoted = is_escaped(line, at),
                byte if byte == separator && !quoted => {
                    rest = Some(&line[..at]);
                    return Some(line[at + 1..].trim_ascii());
                }
                _ => {}
            }
        }
        rest = None;
        Some(line.trim_ascii())
    })
}

/// Whether the byte here follows an odd number of backslashes.
fn is_escaped(line: &[u8], at: usize) -> bool {
    line[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The address in one element of `Forwarded`: `for=192.0.2.43;proto=http`, `for="[2001:db8::1]:4711"`.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    node(&parameter(element, b"for")?)
}

/// The value of a parameter in one element of `Forwarded`, if it is there once.
fn parameter<'a>(element: &'a [u8], wanted: &[u8]) -> Option<Cow<'a, [u8]>> {
    let mut found = None;
    for pair in parts_from_right(element, b';') {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&pair[..equals], &pair[equals + 1..]);
        if name.eq_ignore_ascii_case(wanted) && found.replace(value).is_some() {
            return None;
        }
    }
    let value = found?;
    let Some(quoted) = value.strip_prefix(b"\"") else { return Some(Cow::Borrowed(value)) };
    let quoted = quoted.strip_suffix(b"\"")?;
    if !quoted.contains(&b'\\') {
        return Some(Cow::Borrowed(quoted));
    }
    // Nobody escapes an address, but RFC 9110 §5.6.4 allows it.
    let mut plain = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(if byte == b'\\' { *bytes.next()? } else { byte });
    }
    Some(Cow::Owned(plain))
}

/// An address as forwarding headers write it, with or without a port: `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let ip = if let Some(bracketed) = text.strip_prefix('[') {
        let (ip, port) = bracketed.split_once(']')?;
        if !port.is_empty() && !is_port(port.strip_prefix(':')?) {
            return None;
        }
        IpAddr::V6(ip.parse::<Ipv6Addr>().ok()?)
    } else if let Ok(ip) = text.parse::<IpAddr>() {
        ip
    } else {
        let (ip, port) = text.split_once(':')?;
        if !is_port(port) {
            return None;
        }
        IpAddr::V4(ip.parse().ok()?)
    };
    Some(ip.to_canonical())
}

/// A port, or a name that hides one (RFC 7239 §6.3).
fn is_port(port: &str) -> bool {
    match port.strip_prefix('_') {
        Some(hidden) => {
            !hidden.is_empty() && hidden.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        }
        None => port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PEER: &str = "10.0.0.5:4711";

    fn trusted() -> TrustedProxies {
        TrustedProxies::new(["10.0.0.0/8".parse().expect("a network"), "fd00::/8".parse().expect("a network")])
    }

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let lines = lines.iter().map(|&(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value).expect("a test gives a legal value"))
        });
        lines.collect()
    }

    /// The client of a request that a trusted proxy passes on.
    fn behind_a_proxy(headers: &HeaderMap) -> Option<Client> {
        settle(PEER.parse().unwrap(), Source::Itself, headers, &trusted())
    }

    fn from(peer: &str, lines: &[(&'static str, &[u8])]) -> (String, String) {
        let client =
            settle(peer.parse().expect("a test gives an address"), Source::Itself, &headers(lines), &trusted())
                .unwrap();
        (client.ip.to_string(), client.origin.to_string())
    }

    #[track_caller]
    fn expect(lines: &[(&'static str, &[u8])], ip: &str, origin: &str) {
        assert_eq!(from(PEER, lines), (ip.to_owned(), origin.to_owned()), "{lines:?}");
    }

    #[test]
    fn nobody_is_believed_by_default() {
        let lines = headers(&[("x-forwarded-for", b"1.1.1.1"), ("forwarded", b"for=1.1.1.1")]);
        let source = Source::Client("2.2.2.2:1".parse().unwrap());
        let client = settle(PEER.parse().unwrap(), source, &lines, &TrustedProxies::default()).unwrap();
        assert_eq!(
            (client.ip.to_string(), client.origin, client.peer_is_trusted),
            ("10.0.0.5".into(), Origin::Peer, false)
        );
    }

    #[test]
    fn an_untrusted_peer_speaks_only_for_itself() {
        let spoofed = [("x-forwarded-for", &b"10.0.0.1"[..]), ("forwarded", b"for=10.0.0.1")];
        assert_eq!(from("203.0.113.9:1", &spoofed), ("203.0.113.9".into(), "peer".into()));
    }

    #[test]
    fn the_first_entry_from_the_right_that_is_not_trusted_is_the_client() {
        expect(&[("x-forwarded-for", b"203.0.113.9")], "203.0.113.9", "x_forwarded_for[0]");
        expect(&[("x-forwarded-for", b"203.0.113.9, 10.0.0.7,10.1.1.1")], "203.0.113.9", "x_forwarded_for[0]");
        expect(&[("forwarded", b"for=203.0.113.9;proto=https, For=10.0.0.7")], "203.0.113.9", "forwarded[0]");
    }

    #[test]
    fn what_a_client_wrote_itself_is_left_of_its_address_and_not_read() {
        for spoofed in [&b"10.0.0.1"[..], b"127.0.0.1", b"garbage", b"\xff\"", b"::1"] {
            let line = [spoofed, b", 203.0.113.9"].concat();
            expect(&[("x-forwarded-for", &line)], "203.0.113.9", "x_forwarded_for[1]");
            expect(
                &[("x-forwarded-for", spoofed), ("x-forwarded-for", b"203.0.113.9")],
                "203.0.113.9",
                "x_forwarded_for[1]",
            );
        }
    }

    #[test]
    fn a_clients_own_forwarded_does_not_beat_the_proxys_x_forwarded_for() {
        let lines = [("forwarded", &b"for=10.0.0.1"[..]), ("x-forwarded-for", b"203.0.113.9")];
        expect(&lines, "203.0.113.9", "x_forwarded_for[0]");
    }

    #[test]
    fn an_open_quote_does_not_swallow_what_the_proxy_appended() {
        expect(&[("forwarded", b"for=\"10.0.0.1, for=203.0.113.9")], "203.0.113.9", "forwarded[1]");
        expect(&[("forwarded", b"for=\"\\, for=\"[2001:db8::1]:80\"")], "2001:db8::1", "forwarded[1]");
        expect(&[("forwarded", b"secret=\"a, \\\" b;\";for=203.0.113.9")], "203.0.113.9", "forwarded[0]");
    }

    #[test]
    fn several_lines_are_one_list() {
        let lines = [
            ("x-forwarded-for", &b"1.1.1.1, 203.0.113.9"[..]),
            ("x-forwarded-for", b""),
            ("x-forwarded-for", b"10.0.0.7, "),
        ];
        expect(&lines, "203.0.113.9", "x_forwarded_for[1]");
    }

    /// An instance that was told of these in one line read another client than the gateway had.
    #[test]
    fn a_quote_that_is_open_at_the_end_of_a_line_is_open_in_the_next() {
        let lines = [("forwarded", &b"for=203.0.113.9;host=\"a"[..]), ("forwarded", b"for=1.1.1.1;host=\"a")];
        expect(&lines, "203.0.113.9", "forwarded[0]");
    }

    #[test]
    fn all_hops_trusted_means_the_leftmost_is_the_client() {
        expect(&[("x-forwarded-for", b"10.0.0.9, fd00::1")], "10.0.0.9", "x_forwarded_for[0]");
    }

    #[test]
    fn an_entry_that_is_no_address_stops_the_walk_at_the_last_good_hop() {
        for entry in [
            "unknown",
            "_hidden",
            "1.2.3",
            "1.2.3.4.5",
            "010.0.0.1",
            "::1%eth0",
            "[::1",
            "1.2.3.4:",
            "1.2.3.4:99999",
            "1.2.3.4:+1",
        ] {
            let x = format!("198.51.100.1, {entry}, 10.0.0.7");
            expect(&[("x-forwarded-for", x.as_bytes())], "10.0.0.7", "x_forwarded_for[2]");
            let forwarded = format!("for=198.51.100.1, for=\"{entry}\", for=10.0.0.7");
            expect(&[("forwarded", forwarded.as_bytes())], "10.0.0.7", "forwarded[2]");
            expect(&[("x-forwarded-for", entry.as_bytes())], "10.0.0.5", "peer");
        }
        for element in ["by=1.1.1.1", "for", "for=1.1.1.1;for=2.2.2.2", "for=\"1.1.1.1", "for=\"1.1.1.1\\\""] {
            expect(&[("forwarded", element.as_bytes())], "10.0.0.5", "peer");
        }
    }

    #[test]
    fn ports_brackets_quotes_and_escapes_are_understood() {
        for entry in ["203.0.113.9:80", "::ffff:203.0.113.9", "[::ffff:203.0.113.9]:80"] {
            expect(&[("x-forwarded-for", entry.as_bytes())], "203.0.113.9", "x_forwarded_for[0]");
        }
        for element in [
            "for=\"[2001:db8::1]:4711\"",
            "for=\"[2001:db8::1]\"",
            "proto=https;FOR=\"[2001:db8::1]:_x\"",
            "for=\"\\[2001:db8::1]\"",
        ] {
            expect(&[("forwarded", element.as_bytes())], "2001:db8::1", "forwarded[0]");
        }
    }

    #[test]
    fn what_is_said_of_a_client_stands_in_its_own_element() {
        for (line, proto, host) in [
            ("for=203.0.113.9;proto=https;host=\"a.example:8443\"", Some("https"), Some("a.example:8443")),
            ("for=1.1.1.1;proto=ftp, PROTO=https;For=203.0.113.9, for=10.0.0.7;proto=http;host=b", Some("https"), None),
            (", for=203.0.113.9;proto=\"ht\\tps\",, for=10.0.0.7", Some("https"), None),
            ("for=203.0.113.9;proto=https;proto=http;host=\"\"", None, None),
            // It was not found in any, whatever they say.
            ("for=_hidden;proto=https", None, None),
            ("for=203.0.113.9;proto=https, for=unknown;proto=https", None, None),
        ] {
            let lines = headers(&[("forwarded", line.as_bytes())]);
            let client = behind_a_proxy(&lines).unwrap();
            let said = |parameter| said(&client, &lines, parameter);
            let text = |text: Option<&'static str>| text.map(HeaderValue::from_static);
            assert_eq!((said("proto"), said("host")), (text(proto), text(host)), "{line}");
        }
        let lines = headers(&[("x-forwarded-for", b"203.0.113.9"), ("forwarded", b"for=203.0.113.9;proto=https")]);
        assert_eq!(said(&behind_a_proxy(&lines).unwrap(), &lines, "proto"), None, "another family is not believed");
    }

    #[test]
    fn mapped_addresses_are_ipv4_for_peers_entries_and_trust() {
        let lines = [("x-forwarded-for", &b"203.0.113.9, ::ffff:10.0.0.7"[..])];
        assert_eq!(from("[::ffff:10.0.0.5]:1", &lines), ("203.0.113.9".into(), "x_forwarded_for[0]".into()));
        let client =
            settle("[::ffff:10.0.0.5]:1".parse().unwrap(), Source::Itself, &HeaderMap::new(), &trusted()).unwrap();
        assert_eq!((client.ip.to_string(), client.peer.unwrap().to_string()), ("10.0.0.5".into(), "10.0.0.5:1".into()));
    }

    #[test]
    fn a_proxy_protocol_source_is_the_peer_and_its_headers_are_believed_only_if_it_is_trusted() {
        let lines = headers(&[("x-forwarded-for", b"203.0.113.9")]);
        let between = |peer: &str, source: &str| {
            settle(peer.parse().unwrap(), Source::Client(source.parse().unwrap()), &lines, &trusted()).unwrap()
        };
        let from = |source| between(PEER, source);

        let client = from("198.51.100.1:5");
        assert_eq!((client.ip.to_string(), client.origin), ("198.51.100.1".into(), Origin::ProxyProtocol));
        assert!(!client.peer_is_trusted, "who wrote the request is not trusted, only who passed the bytes on");

        let client = from("10.9.9.9:5");
        assert_eq!((client.ip.to_string(), client.origin), ("203.0.113.9".into(), Origin::XForwardedFor(0)));
        assert!(client.peer_is_trusted);

        let client = between("192.0.2.1:1", "10.9.9.9:5");
        assert_eq!((client.ip.to_string(), client.origin), ("192.0.2.1".into(), Origin::Peer));
    }

    #[test]
    fn whom_the_proxy_protocol_cannot_name_is_nobody_and_believed_nothing() {
        let unix: TrustedProxies = ["unix:", "10.0.0.0/8"].map(|text| text.parse().unwrap()).into_iter().collect();
        for lines in [&[("x-forwarded-for", &b"203.0.113.9"[..])][..], &[("forwarded", b"for=10.0.0.7")], &[]] {
            let lines = headers(lines);
            // Also if the balancer was trusted when it connected, and is not any more.
            for peer in [PEER, "192.0.2.1:1"] {
                assert_eq!(settle(peer.parse().unwrap(), Source::Unnamed, &lines, &trusted()), None);
            }
            assert_eq!(settle_unix(Source::Unnamed, &lines, &unix), None);
        }
    }

    #[test]
    fn a_unix_peer_is_nobody_unless_it_is_trusted_and_names_somebody() {
        let unix: TrustedProxies = ["unix:", "10.0.0.0/8"].map(|text| text.parse().unwrap()).into_iter().collect();
        let named = headers(&[("x-forwarded-for", b"203.0.113.9, 10.0.0.7")]);
        let source = Source::Client("198.51.100.1:5".parse().unwrap());

        for headers in [&named, &HeaderMap::new()] {
            assert_eq!(settle_unix(Source::Itself, headers, &trusted()), None, "networks say nothing of it");
            assert_eq!(settle_unix(source, headers, &trusted()), None);
        }
        assert_eq!(settle_unix(Source::Itself, &HeaderMap::new(), &unix), None, "trusted, but it names nobody");

        let client = settle_unix(Source::Itself, &named, &unix).unwrap();
        assert_eq!((client.ip.to_string(), client.origin), ("203.0.113.9".into(), Origin::XForwardedFor(0)));
        assert_eq!((client.peer, client.peer_is_trusted), (None, true));

        let client = settle_unix(source, &named, &unix).unwrap();
        assert_eq!((client.ip.to_string(), client.origin), ("198.51.100.1".into(), Origin::ProxyProtocol));
        assert!(!client.peer_is_trusted, "who wrote the headers is a stranger");
    }

    #[test]
    fn an_endless_list_is_read_up_to_the_cap() {
        let line =
            ["203.0.113.9"].into_iter().chain(std::iter::repeat_n("10.0.0.7", 1000)).collect::<Vec<_>>().join(",");
        expect(&[("x-forwarded-for", line.as_bytes())], "10.0.0.7", &format!("x_forwarded_for[{}]", 1001 - MAX_HOPS));
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop::sample::select(vec![
            "for=", "\"", "\\", ",", ";", "=", " ", "10.0.0.1", "1.1.1.1", "[", "]", ":", "80", "::1", "_x", "unknown",
        ]);
        prop_oneof![
            prop::collection::vec(pieces, 0..20).prop_map(|pieces| pieces.concat().into_bytes()),
            prop::collection::vec(prop_oneof![Just(b'\t'), 0x20..=0x7eu8, 0x80..=0xffu8], 0..60),
        ]
    }

    proptest! {
        #[test]
        fn without_trusted_proxies_the_client_is_the_peer(x in value(), forwarded in value()) {
            let lines = headers(&[("x-forwarded-for", &x), ("forwarded", &forwarded)]);
            let source = Source::Client("10.0.0.1:1".parse().unwrap());
            let client = settle(PEER.parse().unwrap(), source, &lines, &TrustedProxies::default()).unwrap();
            prop_assert_eq!((client.ip.to_string(), client.origin), ("10.0.0.5".to_owned(), Origin::Peer));
        }

        #[test]
        fn nothing_a_client_writes_changes_what_the_proxy_appends(x in value(), forwarded in value()) {
            let appended = [&x[..], b", 203.0.113.9"].concat();
            let lines = headers(&[("x-forwarded-for", &appended), ("forwarded", &forwarded)]);
            prop_assert_eq!(behind_a_proxy(&lines).unwrap().ip.to_string(), "203.0.113.9");

            let appended = [&forwarded[..], b", for=\"203.0.113.9:80\""].concat();
            let lines = headers(&[("forwarded", &appended)]);
            prop_assert_eq!(behind_a_proxy(&lines).unwrap().ip.to_string(), "203.0.113.9");
        }

        #[test]
        fn no_forwarding_header_makes_it_panic(x in value(), forwarded in value()) {
            behind_a_proxy(&headers(&[("x-forwarded-for", &x)]));
            behind_a_proxy(&headers(&[("forwarded", &forwarded)]));
        }
    }
}

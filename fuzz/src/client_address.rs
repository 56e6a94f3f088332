//! Forwarding headers as anybody may write them: a stranger is never believed, a trusted proxy only as far as it speaks
//! of addresses, and nothing that stands further left changes what the last proxy has appended.

use std::net::{IpAddr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_middleware::client::{self, MAX_HOPS, Source, TrustedProxies, settle_unix};
use portcullis_middleware::{Client, Origin};

use crate::input;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A line with the peer's address and perhaps one that the PROXY protocol has named, and headers.
pub fn client_address(input: &[u8]) {
    let (line, lines) = input::first_line(input);
    let mut addresses = line.split(|byte| *byte == b' ').map(|word| std::str::from_utf8(word).ok()?.parse().ok());
    let mut address = || Some(SocketAddr::new(addresses.next()??, 4711));
    let (peer, source) = (address().unwrap_or(proxy()), address());
    let headers = input::headers(lines);
    let trusted: TrustedProxies =
        ["unix:", "10.0.0.0/8", "fd00::/8"].map(|text| text.parse().expect("a proxy")).into_iter().collect();

    let client = settle(peer, source, &headers, &trusted);
    assert_eq!(client::settle(peer, Source::Unnamed, &headers, &trusted), None);
    let named = source.filter(|_| trusted.contains(peer.ip()));
    let last = named.unwrap_or(peer).ip().to_canonical();
    assert_eq!(client.ip, client.ip.to_canonical());
    assert_eq!(client.peer.map(|peer| peer.ip()), Some(last));
    assert_eq!(client.peer_is_trusted, trusted.contains(last));
    if !client.peer_is_trusted {
        assert_eq!(
            (client.ip, client.origin),
            (last, if named.is_some() { Origin::ProxyProtocol } else { Origin::Peer })
        );
    }
    assert_eq!(settle(peer, source, &headers, &TrustedProxies::default()).ip, peer.ip().to_canonical());

    // On a unix socket it is the same, but that nobody is there where the peer would be.
    let behind = settle(proxy(), None, &headers, &trusted);
    let found = settle_unix(Source::Itself, &headers, &trusted);
    assert_eq!(found.map(|found| found.ip), (behind.origin != Origin::Peer).then_some(behind.ip));

    for in_a_line in [true, false] {
        let stranger = appended(&headers, "203.0.113.9", in_a_line);
        assert_eq!(settle(proxy(), None, &stranger, &trusted).ip.to_string(), "203.0.113.9", "{stranger:?}");
        let hop = appended(&headers, "10.9.9.9", in_a_line);
        expect_one_hop_more(behind, settle(proxy(), None, &hop, &trusted), &hop);
    }
}

fn settle(peer: SocketAddr, source: Option<SocketAddr>, headers: &HeaderMap, trusted: &TrustedProxies) -> Client {
    let source = source.map_or(Source::Itself, Source::Client);
    client::settle(peer, source, headers, trusted).expect("it was named")
}

fn proxy() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 5], 4711))
}

/// The headers as the proxy in front of us would send them to us after it was asked by `ip`.
fn appended(headers: &HeaderMap, ip: &str, in_a_line: bool) -> HeaderMap {
    let mut headers = headers.clone();
    let (name, entry) = if headers.contains_key(X_FORWARDED_FOR) || !headers.contains_key(FORWARDED) {
        (X_FORWARDED_FOR, ip.to_owned())
    } else {
        (FORWARDED, format!("proto=https;for=\"{ip}:80\""))
    };
    let mut lines: Vec<Vec<u8>> = headers.get_all(&name).iter().map(|line| line.as_bytes().to_vec()).collect();
    match lines.last_mut().filter(|_| in_a_line) {
        Some(line) => line.extend_from_slice(format!(", {entry}").as_bytes()),
        None => lines.push(entry.into_bytes()),
    }
    headers.remove(&name);
    for line in lines {
        headers.append(&name, HeaderValue::from_bytes(&line).expect("it was one before"));
    }
    headers
}

/// A trusted proxy more does not change who the client is, unless it was the last proxy itself.
fn expect_one_hop_more(before: Client, after: Client, headers: &HeaderMap) {
    let commas = headers.values().flat_map(|line| line.as_bytes()).filter(|byte| **byte == b',').count();
    if commas + headers.len() >= MAX_HOPS {
        return;
    }
    let hop = IpAddr::from([10, 9, 9, 9]);
    assert_eq!(after.ip, if before.origin == Origin::Peer { hop } else { before.ip }, "{headers:?}");
}

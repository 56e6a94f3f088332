//! Any headers from anybody: an instance is told who sent the request, and nobody else says so. Whoever reads either list
//! that it is told finds the very client that we found, and never whom a client has made up.

use std::net::{IpAddr, SocketAddr};

use http::header::{EXPECT, FORWARDED, HOST};
use http::{HeaderName, HeaderValue};
use portcullis::proxy::headers::{arrive, prepare};
use portcullis_config::Forwarding;
use portcullis_middleware::client::{MAX_HOPS, Source, TrustedProxies, settle};
use portcullis_middleware::exchange::Arrival;
use portcullis_middleware::{Exchange, testing};

use crate::input;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

const CLAIMS: [&str; 6] =
    ["x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip", "forwarded"];

/// Ours, as an instance knows it.
const GATEWAY: ([u8; 4], u16) = ([10, 0, 0, 2], 80);

/// A line with the peer's address and `x`, `rfc7239`, `both` or `off`, and headers.
pub fn forwarding_headers(input: &[u8]) {
    let (line, lines) = input::first_line(input);
    let mut words = line.split(|byte| *byte == b' ').map(|word| std::str::from_utf8(word).unwrap_or_default());
    let peer: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
    let peer = SocketAddr::new(peer.unwrap_or([10, 0, 0, 5].into()), 4711);
    let mode = match words.next() {
        Some("x") => Forwarding::X,
        Some("rfc7239") => Forwarding::Rfc7239,
        Some("off") => Forwarding::Off,
        _ => Forwarding::Both,
    };
    let trusted = TrustedProxies::new(["10.0.0.0/8".parse().expect("a network")]);
    let mut request = testing::request("GET", "/");
    *request.headers_mut() = input::headers(lines);
    request.headers_mut().insert(HOST, HeaderValue::from_static("shop.example"));
    let commas = request.headers().values().flat_map(|line| line.as_bytes()).filter(|byte| **byte == b',').count();
    let hops = commas + request.headers().len() + 2;

    // As at the edge: the client is found first, then what speaks of the connection ends.
    let client = settle(peer, Source::Itself, request.headers(), &trusted).expect("it speaks for itself");
    let exchange = Exchange::new(Arrival { client: Some(client), ..Arrival::default() }, &request);
    arrive(&mut request);
    if prepare(&mut request, &exchange, mode).is_err() {
        return assert!(request.headers().contains_key(EXPECT), "nothing else is refused here");
    }

    let headers = request.headers();
    let masked = |name: &HeaderName| {
        let name = name.as_str();
        name == "proxy" || name.contains('_') && CLAIMS.contains(&&*name.replace('_', "-"))
    };
    assert!(!headers.keys().any(masked), "{headers:?}");
    for name in ["connection", "upgrade", "keep-alive", "transfer-encoding", "proxy-connection", "http2-settings"] {
        assert!(!headers.contains_key(name), "{headers:?}");
    }
    assert_eq!(headers.get_all(HOST).iter().collect::<Vec<_>>(), ["shop.example"]);

    let peer = peer.ip().to_canonical();
    let writes_x = matches!(mode, Forwarding::X | Forwarding::Both);
    assert_eq!(headers.get_all(X_FORWARDED_FOR).iter().count(), usize::from(writes_x), "{headers:?}");
    assert_eq!(headers.get_all("x-real-ip").iter().count(), usize::from(writes_x), "{headers:?}");
    if writes_x {
        let list = headers[X_FORWARDED_FOR].as_bytes();
        assert!(list.ends_with(peer.to_string().as_bytes()), "{headers:?}");
        assert_eq!(headers["x-real-ip"].as_bytes(), client.ip.to_string().as_bytes());
        assert!(client.peer_is_trusted || list == peer.to_string().as_bytes(), "{headers:?}");
    }
    let writes_element = matches!(mode, Forwarding::Rfc7239 | Forwarding::Both);
    assert_eq!(headers.get_all(FORWARDED).iter().count(), usize::from(writes_element), "{headers:?}");

    // Both read up to so many entries, and to the instance there is one more.
    if hops < MAX_HOPS {
        for name in [X_FORWARDED_FOR, FORWARDED].iter().filter(|name| headers.contains_key(*name)) {
            let list = headers.get_all(name).iter().map(|line| (name.clone(), line.clone())).collect();
            // What an instance makes of it, if it trusts whom we trust.
            let read = settle(GATEWAY.into(), Source::Itself, &list, &trusted).map(|read| read.ip);
            assert_eq!(read, Some(client.ip), "{headers:?}");
        }
    }
}

//! Forwarding headers as anybody may write them: a stranger is never believed, and a trusted proxy only as far as it
//! speaks of addresses.
#![no_main]

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use portcullis_middleware::Origin;
use portcullis_middleware::client::{Source, TrustedProxies, settle};

fuzz_target!(|input: (u32, Vec<(bool, Vec<u8>)>)| {
    let (peer, lines) = input;
    let mut headers = HeaderMap::new();
    for (rfc7239, line) in lines.into_iter().take(100) {
        let Ok(value) = HeaderValue::from_bytes(&line) else { continue };
        headers.append(if rfc7239 { "forwarded" } else { "x-forwarded-for" }, value);
    }
    let peer = SocketAddr::new(std::net::Ipv4Addr::from_bits(peer).into(), 4711);
    let trusted = TrustedProxies::new(["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().expect("a network")));

    assert_eq!(settle(peer, Source::Unnamed, &headers, &trusted), None);
    let client = settle(peer, Source::Itself, &headers, &trusted).expect("it speaks for itself");
    assert_eq!(client.ip, client.ip.to_canonical());
    assert_eq!(client.peer_is_trusted, trusted.contains(peer.ip()));
    if !client.peer_is_trusted {
        assert_eq!((client.ip, client.origin), (peer.ip(), Origin::Peer));
    }
});

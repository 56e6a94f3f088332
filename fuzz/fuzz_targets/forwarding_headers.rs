//! Any headers from anybody: an instance is told who sent the request, and nobody else says so.
#![no_main]

use std::net::{Ipv4Addr, SocketAddr};

use http::{HeaderName, HeaderValue, Request};
use libfuzzer_sys::fuzz_target;
use portcullis::proxy::headers::{end_hop, prepare};
use portcullis_config::Forwarding;
use portcullis_middleware::client::{Source, TrustedProxies, settle};
use portcullis_middleware::exchange::Arrival;
use portcullis_middleware::{Exchange, testing};

const NAMES: [&str; 12] = [
    "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip", "forwarded", "x_forwarded_for", "proxy",
    "connection", "x-real_ip", "te", "upgrade",
];

fuzz_target!(|input: (u32, u8, Vec<(u8, Vec<u8>)>)| {
    let (peer, mode, lines) = input;
    let modes = [Forwarding::X, Forwarding::Rfc7239, Forwarding::Both, Forwarding::Off];
    let mode = modes[usize::from(mode) % modes.len()];
    let mut request = Request::new(());
    for (name, value) in lines.into_iter().take(50) {
        let name = HeaderName::from_static(NAMES[usize::from(name) % NAMES.len()]);
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            request.headers_mut().append(name, value);
        }
    }
    let trusted = TrustedProxies::new(["10.0.0.0/8".parse().expect("a network")]);
    let peer = SocketAddr::new(Ipv4Addr::from_bits(peer).into(), 4711);
    let client = settle(peer, Source::Itself, request.headers(), &trusted);
    let exchange = Exchange::new(Arrival { client, ..Arrival::default() }, &testing::request("GET", "/"));
    end_hop(request.headers_mut());
    prepare(&mut request, &exchange, mode).expect("the client is known");

    let headers = request.headers();
    let masked = |name: &HeaderName| name == "proxy" || name.as_str().contains('_');
    assert!(!headers.keys().any(masked), "{headers:?}");
    let peer = peer.ip().to_string();
    let writes_x = matches!(mode, Forwarding::X | Forwarding::Both);
    let list: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    assert_eq!(list.len(), usize::from(writes_x), "{headers:?}");
    if writes_x {
        assert!(list[0].as_bytes().ends_with(peer.as_bytes()), "{headers:?}");
        assert_eq!(headers["x-real-ip"].as_bytes(), client.ip.to_string().as_bytes());
        assert!(client.peer_is_trusted || list[0].as_bytes() == peer.as_bytes(), "{headers:?}");
    }
    let writes_element = matches!(mode, Forwarding::Rfc7239 | Forwarding::Both);
    assert_eq!(headers.get_all("forwarded").iter().count(), usize::from(writes_element), "{headers:?}");
});

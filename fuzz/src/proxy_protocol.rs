//! Anything a peer may send first: whether it is a header does not depend on the pieces it comes in, it ends where its
//! bytes end, its addresses are plain ones, another implementation reads the same, and so do we what we write of it.

use std::net::SocketAddr;

use portcullis::proxy_protocol::{Header, Introduction, LONGEST, Said, parse};
use portcullis_config::ProxyProtocol;
use portcullis_middleware::exchange::Arrival;
use portcullis_middleware::{Client, Exchange, Origin, testing};
use proxy_header::{ParseConfig, ProxyHeader};

/// The first bytes of a connection.
pub fn proxy_protocol(bytes: &[u8]) {
    let whole = parse(bytes);
    for cut in 0..bytes.len().min(LONGEST + 1) {
        let piece = parse(&bytes[..cut]);
        assert!(piece == Ok(None) || piece == whole, "{piece:?} of {cut} bytes, {whole:?} of all");
    }
    match whole {
        Ok(None) => assert!(bytes.len() < LONGEST),
        Ok(Some(header)) => {
            assert!(header.length <= bytes.len().min(LONGEST));
            assert_eq!(parse(&bytes[..header.length]), Ok(Some(header)));
            if let Said::Relayed { source, destination } = header.said {
                assert_eq!((canonical(source), canonical(destination)), (source, destination));
                assert_eq!(elsewhere(bytes), Some((Some((source, destination)), header.length)));
                expect_passed_on(source, destination);
            } else if let Some((named, length)) = elsewhere(bytes) {
                // Of what a sender says of itself the other one reads more than is meant to be read.
                assert_eq!((named.is_none() || bytes[12] == 0x20, length), (true, header.length));
            }
        }
        Err(_) => {}
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What another implementation reads.
fn elsewhere(bytes: &[u8]) -> Option<(Option<(SocketAddr, SocketAddr)>, usize)> {
    let (header, length) = ProxyHeader::parse(bytes, ParseConfig::default()).ok()?;
    let named = header.proxied_address().map(|named| (canonical(named.source), canonical(named.destination)));
    Some((named, length))
}

/// An instance that we tell of this client reads the same.
fn expect_passed_on(source: SocketAddr, destination: SocketAddr) {
    let client = Client { ip: source.ip(), origin: Origin::ProxyProtocol, peer: Some(source), peer_is_trusted: false };
    let arrival = Arrival { client: Some(client), local: Some(destination), ..Arrival::default() };
    let exchange = Exchange::new(arrival, &testing::request("GET", "/"));
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let introduction = Introduction::of(version, &exchange).expect("the client is known");
        let length = introduction.as_bytes().len();
        let said = Said::Relayed { source, destination };
        assert_eq!(parse(introduction.as_bytes()), Ok(Some(Header { said, length })), "{version:?}");
    }
}

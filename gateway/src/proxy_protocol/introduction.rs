//! Writing a header: what an instance is told about the client before anything else.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use portcullis_config::ProxyProtocol;
use portcullis_middleware::{Exchange, Rejection};

use super::parse::SIGNATURE;

/// The longest that is written.
const LONGEST: usize = 107;

/// A header that names a request's client. A connection that begins with one is that client's alone.
#[derive(Debug, Clone, Copy)]
pub struct Introduction {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Introduction {
    /// Names the client of a request. Without one nobody is named in its place: an instance would take the gateway for
    /// the client, and perhaps let it do what no client may.
    pub fn of(version: ProxyProtocol, exchange: &Exchange) -> Result<Self, Rejection> {
        let client = exchange.client()?;
        // A forwarding header names an address without a port.
        let port = client.peer.filter(|peer| peer.ip() == client.ip).map_or(0, |peer| peer.port());
        Ok(Self::new(version, SocketAddr::new(client.ip, port), exchange.local()))
    }

    /// Names a source, and the address that it connected to if that is known.
    fn new(version: ProxyProtocol, source: SocketAddr, destination: Option<SocketAddr>) -> Self {
        let mut introduction = Self { bytes: [0; LONGEST], length: 0 };
        let mut room = &mut introduction.bytes[..];
        match version {
            ProxyProtocol::V1 => line(&mut room, source, destination),
            ProxyProtocol::V2 => binary(&mut room, source, destination),
        }
        .expect("the longest addresses fit");
        introduction.length = LONGEST - room.len();
        introduction
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn line(room: &mut &mut [u8], source: SocketAddr, destination: Option<SocketAddr>) -> std::io::Result<()> {
    let (from, to) = (source.port(), destination.map_or(0, |destination| destination.port()));
    match alike(source, destination) {
        Alike::V4(source, destination) => write!(room, "PROXY TCP4 {source} {destination} {from} {to}\r\n"),
        Alike::V6(source, destination) => write!(room, "PROXY TCP6 {source} {destination} {from} {to}\r\n"),
    }
}

fn binary(room: &mut &mut [u8], source: SocketAddr, destination: Option<SocketAddr>) -> std::io::Result<()> {
    room.write_all(SIGNATURE)?;
    match alike(source, destination) {
        Alike::V4(source, destination) => {
            room.write_all(&[0x21, 0x11, 0, 12])?;
            room.write_all(&source.octets())?;
            room.write_all(&destination.octets())?;
        }
        Alike::V6(source, destination) => {
            room.write_all(&[0x21, 0x21, 0, 36])?;
            room.write_all(&source.octets())?;
            room.write_all(&destination.octets())?;
        }
    }
    room.write_all(&source.port().to_be_bytes())?;
    room.write_all(&destination.map_or(0, |destination| destination.port()).to_be_bytes())
}

/// Two addresses of one family.
enum Alike {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// A header has room for one family. An address that is not known is none (`0.0.0.0`, `::`).
fn alike(source: SocketAddr, destination: Option<SocketAddr>) -> Alike {
    let wide = |ip| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    match (source.ip().to_canonical(), destination.map(|destination| destination.ip().to_canonical())) {
        (IpAddr::V4(source), None) => Alike::V4(source, Ipv4Addr::UNSPECIFIED),
        (IpAddr::V4(source), Some(IpAddr::V4(destination))) => Alike::V4(source, destination),
        (source, destination) => Alike::V6(wide(source), destination.map_or(Ipv6Addr::UNSPECIFIED, wide)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_protocol::{Header, Said, parse};

    fn introduced(version: ProxyProtocol, source: &str, destination: Option<&str>) -> Introduction {
        let address = |text: &str| text.parse().expect("a test gives an address");
        Introduction::new(version, address(source), destination.map(address))
    }

    #[test]
    fn a_line_is_what_everybody_reads() {
        for (source, destination, line) in [
            ("203.0.113.9:4711", Some("192.0.2.1:443"), "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n"),
            ("203.0.113.9:0", None, "PROXY TCP4 203.0.113.9 0.0.0.0 0 0\r\n"),
            ("[::ffff:203.0.113.9]:1", Some("192.0.2.1:2"), "PROXY TCP4 203.0.113.9 192.0.2.1 1 2\r\n"),
            ("[2001:db8::7]:1", Some("[2001:db8::1]:2"), "PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n"),
            ("203.0.113.9:1", Some("[2001:db8::1]:2"), "PROXY TCP6 ::ffff:203.0.113.9 2001:db8::1 1 2\r\n"),
            ("[2001:db8::7]:1", None, "PROXY TCP6 2001:db8::7 :: 1 0\r\n"),
        ] {
            let introduction = introduced(ProxyProtocol::V1, source, destination);
            assert_eq!(std::str::from_utf8(introduction.as_bytes()), Ok(line));
        }
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        assert!(introduced(ProxyProtocol::V1, longest, Some(longest)).as_bytes().len() <= LONGEST);
    }

    #[test]
    fn version_2_is_exact_to_the_byte() {
        let introduction = introduced(ProxyProtocol::V2, "203.0.113.9:4711", Some("192.0.2.1:443"));
        assert_eq!(
            introduction.as_bytes(),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\xc0\0\x02\x01\x12\x67\x01\xbb"
        );
        assert_eq!(introduced(ProxyProtocol::V2, "[2001:db8::7]:1", None).as_bytes().len(), 52);
    }

    #[test]
    fn what_is_written_is_read_as_it_was_meant() {
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            for (source, destination) in
                [("203.0.113.9:4711", "192.0.2.1:443"), ("[2001:db8::7]:1", "[::1]:2"), ("1.2.3.4:5", "[::1]:2")]
            {
                let introduction = introduced(version, source, Some(destination));
                let [source, destination] = [source, destination].map(|text| text.parse().unwrap());
                let length = introduction.as_bytes().len();
                let said = Said::Relayed { source, destination };
                assert_eq!(parse(introduction.as_bytes()), Ok(Some(Header { said, length })));
            }
        }
    }
}

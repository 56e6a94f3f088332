use proptest::prelude::*;
use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader, Tlv};

use super::*;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// A header of version 2 with this command, family, and block.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[0x20 | command, family], &length, block].concat()
}

/// Two IPv4 addresses and their ports.
const BLOCK: [u8; 12] = [203, 0, 113, 9, 192, 0, 2, 1, 0x12, 0x67, 0x01, 0xbb];

fn from_to(source: &str, destination: &str) -> Said {
    Said::Relayed { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

#[track_caller]
fn reads(header: &[u8], said: Said) {
    let whole = [header, REQUEST].concat();
    assert_eq!(parse(&whole), Ok(Some(Header { said, length: header.len() })), "{}", header.escape_ascii());
    for cut in 0..header.len() {
        assert_eq!(parse(&header[..cut]), Ok(None), "cut after {cut}: {}", header[..cut].escape_ascii());
    }
}

#[track_caller]
fn refuses(bytes: &[u8], why: Malformed) {
    assert_eq!(parse(bytes), Err(why), "{}", bytes.escape_ascii());
}

#[test]
fn both_versions_are_read_wherever_they_are_cut() {
    reads(b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n", from_to("203.0.113.9:4711", "192.0.2.1:443"));
    reads(b"PROXY TCP6 2001:db8::7 2001:db8::1 0 65535\r\n", from_to("[2001:db8::7]:0", "[2001:db8::1]:65535"));
    reads(&binary(1, 0x11, &BLOCK), from_to("203.0.113.9:4711", "192.0.2.1:443"));
    let wide: Vec<u8> = (0..32).chain([0, 80, 1, 187]).collect();
    reads(
        &binary(1, 0x21, &wide),
        from_to("[1:203:405:607:809:a0b:c0d:e0f]:80", "[1011:1213:1415:1617:1819:1a1b:1c1d:1e1f]:443"),
    );
}

#[test]
fn only_local_is_the_senders_own_and_both_it_and_the_unnamed_may_say_anything_else() {
    reads(b"PROXY UNKNOWN\r\n", Said::Unnamed);
    reads(b"PROXY UNKNOWN 203.0.113.9 anything \xff\0 goes\r\n", Said::Unnamed);
    let longest = [&b"PROXY UNKNOWN "[..], &[b'x'; LONGEST_LINE - 16], b"\r\n"].concat();
    assert_eq!(longest.len(), LONGEST_LINE);
    reads(&longest, Said::Unnamed);
    for block in [&[][..], &BLOCK, b"\x03\0\x04nope", &[0xff; 300]] {
        reads(&binary(0, 0x00, block), Said::Itself);
        reads(&binary(0, 0x11, block), Said::Itself);
        reads(&binary(1, 0x00, block), Said::Unnamed);
    }
}

#[test]
fn ipv4_addresses_written_as_ipv6_are_ipv4_addresses() {
    let said = from_to("203.0.113.9:1", "192.0.2.1:2");
    reads(b"PROXY TCP6 ::ffff:203.0.113.9 ::ffff:192.0.2.1 1 2\r\n", said);
    let mapped = |ip: &str| ip.parse::<Ipv4Addr>().unwrap().to_ipv6_mapped().octets();
    let block = [&mapped("203.0.113.9")[..], &mapped("192.0.2.1"), &[0, 1, 0, 2]].concat();
    reads(&binary(1, 0x21, &block), said);
}

#[test]
fn what_is_no_header_is_refused_at_the_first_byte_that_says_so() {
    for (begin, rest) in [
        ("", "GET / HTTP/1.1"),
        ("", "\u{16}\u{3}\u{1}"),
        ("PR", "I * HTTP/2.0"),
        ("PRO", "PFIND / HTTP/1.1"),
        ("P", "OST / HTTP/1.1"),
        ("PROX", "y TCP4"),
        ("PROXY", "\tTCP4"),
        ("\r\n", "GET / HTTP/1.1"),
        ("\r\n\r\n", "PROXY TCP4"),
        ("\r\n\r\n\0\r\nQUIT", "\r\n"),
    ] {
        assert_eq!(parse(begin.as_bytes()), Ok(None), "{begin:?}");
        let first = rest.chars().next().unwrap();
        refuses(format!("{begin}{first}").as_bytes(), Malformed::Missing);
        refuses(format!("{begin}{rest}").as_bytes(), Malformed::Missing);
    }
}

#[test]
fn a_line_has_exactly_one_spelling() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 203.0.113.9 192.0.2.1 4711\r\n",
        "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443 \r\n",
        "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443 1\r\n",
        "PROXY  TCP4 203.0.113.9 192.0.2.1 4711 443\r\n",
        "PROXY TCP4 203.0.113.9\t192.0.2.1 4711 443\r\n",
        "PROXY tcp4 203.0.113.9 192.0.2.1 4711 443\r\n",
        "PROXY TCP5 203.0.113.9 192.0.2.1 4711 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY TCP4 203.0.113.9 192.0.2.1 04711 443\r\n",
        "PROXY TCP4 203.0.113.9 192.0.2.1 +4711 443\r\n",
        "PROXY TCP4 203.0.113.9 192.0.2.1 65536 443\r\n",
        "PROXY TCP4 203.0.113.9 192.0.2.1  443\r\n",
        "PROXY TCP4 203.0.113.09 192.0.2.1 4711 443\r\n",
        "PROXY TCP4 203.0.113 192.0.2.1 4711 443\r\n",
        "PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n",
        "PROXY TCP6 203.0.113.9 192.0.2.1 4711 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 4711 443\r\n",
        "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\n",
        "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\rGET",
        "PROXY UNKNOWN\nPROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n",
        "PROXY UNKNOWN \r \r\n",
    ] {
        refuses(line.as_bytes(), Malformed::Line);
    }
    let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
    assert_eq!(parse(&endless[..LONGEST_LINE - 2]), Ok(None));
    refuses(&endless[..LONGEST_LINE - 1], Malformed::TooLong);
    refuses(&[&endless[..LONGEST_LINE - 1], b"\r\n"].concat(), Malformed::TooLong);
    refuses(&[&endless[..LONGEST_LINE - 1], b"\r"].concat(), Malformed::TooLong);
    // Why it was refused depended on whether this byte came with the others.
    refuses(&[&endless[..LONGEST_LINE - 1], b"\n"].concat(), Malformed::TooLong);
}

#[test]
fn what_version_2_must_not_say_is_refused() {
    for family in [0x01, 0x10, 0x12, 0x13, 0x20, 0x22, 0x31, 0x32, 0x41, 0xff] {
        refuses(&binary(1, family, &[0; 216]), Malformed::Family);
    }
    refuses(&binary(2, 0x11, &BLOCK), Malformed::Command);
    refuses(&binary(0xf, 0x11, &BLOCK), Malformed::Command);
    let mut other = binary(1, 0x11, &BLOCK);
    other[12] = 0x11;
    refuses(&other, Malformed::Version);
    refuses(&binary(1, 0x11, &BLOCK[..11]), Malformed::Block);
    refuses(&binary(1, 0x21, &[0; 35]), Malformed::Block);
    refuses(&[&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(), Malformed::TooLong);
    let most = binary(0, 0, &vec![0; LONGEST - FIXED]);
    assert_eq!(parse(&most), Ok(Some(Header { said: Said::Itself, length: LONGEST })));
    refuses(&binary(0, 0, &vec![0; LONGEST - FIXED + 1]), Malformed::TooLong);
}

#[test]
fn what_is_brought_along_is_skipped_and_must_not_end_in_the_middle() {
    let said = from_to("203.0.113.9:4711", "192.0.2.1:443");
    for tlvs in [&b"\x04\0\0"[..], b"\x02\0\x0bexample.com\xea\0\x01x", b"\x20\0\x05\x07\0\0\0\0"] {
        reads(&binary(1, 0x11, &[&BLOCK, tlvs].concat()), said);
    }
    for tlvs in [&b"\x04"[..], b"\x04\0", b"\x04\0\x01", b"\x04\0\0\x02\0\x05abcd", b"\x03\0\x03abc"] {
        refuses(&binary(1, 0x11, &[&BLOCK, tlvs].concat()), Malformed::Block);
    }
}

#[test]
fn a_checksum_is_checked() {
    assert_eq!(crc32c([b"123", b"456789"]), 0xe306_9283, "the check value of its definition");
    let said = from_to("203.0.113.9:4711", "192.0.2.1:443");
    let unsummed = binary(1, 0x11, &[&BLOCK, &b"\x04\0\x02zz\x03\0\x04\0\0\0\0\x02\0\x01a"[..]].concat());
    let at = FIXED + 12 + 5 + 3;
    let mut header = unsummed.clone();
    header[at..at + 4].copy_from_slice(&crc32c([&unsummed]).to_be_bytes());
    reads(&header, said);
    for flipped in FIXED..header.len() {
        // The lengths in between are another matter.
        if [FIXED + 13, FIXED + 14, FIXED + 17, FIXED + 18, FIXED + 19, FIXED + 24, FIXED + 25, FIXED + 26]
            .contains(&flipped)
        {
            continue;
        }
        let mut bad = header.clone();
        bad[flipped] ^= 1;
        refuses(&bad, Malformed::Checksum);
    }
}

fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port)));
    let v6 = any::<([u8; 16], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port)));
    prop_oneof![(v4.clone(), v4), (v6.clone(), v6)]
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

/// Bytes that are nearly a header.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "PROXY",
        " ",
        " ",
        "TCP4",
        "TCP6",
        "UNKNOWN",
        "1.2.3.4",
        "5.6.7.8",
        "::1",
        "::ffff:1.2.3.4",
        "80",
        "0",
        "65535",
        "65536",
        "01",
        "\r\n",
        "\r",
        "\n",
        "\0",
    ]);
    let line = prop::collection::vec(words, 0..14).prop_map(|words| format!("PROXY {}", words.concat()).into_bytes());
    let block = prop::collection::vec(any::<u8>(), 0..60);
    let version2 = (0x1fu8..0x24, prop::sample::select(vec![0x00, 0x11, 0x12, 0x21, 0x31, 0x77]), 0u8..60, block)
        .prop_map(|(command, family, length, block)| [&SIGNATURE[..], &[command, family, 0, length], &block].concat());
    prop_oneof![line, version2, prop::collection::vec(any::<u8>(), 0..40)]
}

proptest! {
    #[test]
    fn what_another_implementation_writes_is_read_as_it_was_meant(
        (source, destination) in addresses(),
        id in prop::collection::vec(any::<u8>(), 0..128),
    ) {
        let mut header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
        let said = Said::Relayed { source: canonical(source), destination: canonical(destination) };
        let mut line = Vec::new();
        header.encode_v1(&mut line).unwrap();
        prop_assert_eq!(parse(&line), Ok(Some(Header { said, length: line.len() })));
        header.append_tlv(Tlv::UniqueId(id.into()));
        let mut binary = Vec::new();
        header.encode_v2(&mut binary).unwrap();
        prop_assert_eq!(parse(&binary), Ok(Some(Header { said, length: binary.len() })));
    }

    #[test]
    fn what_is_taken_means_the_same_to_another_implementation(bytes in nearly()) {
        if let Ok(Some(Header { said, length })) = parse(&bytes) {
            match said {
                Said::Relayed { source, destination } => {
                    prop_assert_eq!(elsewhere(&bytes), Some((Some((source, destination)), length)));
                }
                // Of what a sender says of itself the other one reads more than is meant to be read.
                Said::Itself | Said::Unnamed => if let Some((named, other)) = elsewhere(&bytes) {
                    prop_assert_eq!((named.is_none() || bytes[12] == 0x20, other), (true, length));
                }
            }
        }
    }

    #[test]
    fn what_was_read_does_not_depend_on_the_pieces_it_came_in(bytes in nearly()) {
        let whole = parse(&bytes);
        for cut in 0..bytes.len() {
            match parse(&bytes[..cut]) {
                Ok(None) => {}
                // Once it is decided, nothing that comes later changes it.
                decided => prop_assert_eq!(decided, whole, "cut after {}", cut),
            }
        }
    }
}

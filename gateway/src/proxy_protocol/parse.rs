//! Reading a header: a pure function of the bytes that have come so far.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How every header of version 1 begins.
const LINE: &[u8] = b"PROXY ";

/// The longest header of version 1, with its line end.
const LONGEST_LINE: usize = 107;

/// How every header of version 2 begins.
pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What every header of version 2 has: signature, version and command, family, length.
const FIXED: usize = 16;

/// The longest header that is read, with all that version 2 may bring along: as long as nginx takes.
pub const LONGEST: usize = 4096;

/// A checksum of the whole header, among what version 2 brings along.
const CRC32C: u8 = 0x03;

/// A header, and how many bytes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it says.
    pub said: Said,
    /// How many bytes it has. What stands behind them belongs to the connection.
    pub length: usize,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// The sender speaks for itself (`LOCAL`), as it does to see whether we are there.
    Itself,
    /// The sender passes on what somebody else sends, whom it cannot name (`UNKNOWN`, or no family).
    Unnamed,
    /// The sender passes on what somebody else sends.
    Relayed {
        /// Who that is.
        source: SocketAddr,
        /// The address that was connected to.
        destination: SocketAddr,
    },
}

/// Why what came is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It begins like something else.
    #[error("there is none")]
    Missing,
    /// The line of version 1 is not what it should be.
    #[error("its line is malformed")]
    Line,
    /// It does not end where it must.
    #[error("it is too long")]
    TooLong,
    /// It begins like version 2 and is another one.
    #[error("it has a version that is not known")]
    Version,
    /// It commands something else than to relay or not to.
    #[error("it has a command that is not known")]
    Command,
    /// It speaks of something else than TCP over IPv4 or IPv6.
    #[error("it does not speak of a TCP connection")]
    Family,
    /// There is less in it than it says.
    #[error("it is shorter than what it should hold")]
    Block,
    /// What its checksum is of is something else.
    #[error("its checksum is wrong")]
    Checksum,
}

/// Reads the header at the begin of `bytes`. `None` if all of them belong to one and there must be more.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if begins_like(bytes, SIGNATURE) {
        version2(bytes)
    } else if begins_like(bytes, LINE) {
        version1(bytes)
    } else {
        Err(Malformed::Missing)
    }
}

/// Whether this could be the begin of something that begins with `start`.
fn begins_like(bytes: &[u8], start: &[u8]) -> bool {
    let length = bytes.len().min(start.len());
    bytes[..length] == start[..length]
}

/// `PROXY TCP4 203.0.113.9 192.0.2.1 4711 443`, and a line end.
fn version1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let line = &bytes[..bytes.len().min(LONGEST_LINE)];
    // The line end itself has two bytes.
    let Some(end) = line.iter().take(LONGEST_LINE - 1).position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if line.len() < LONGEST_LINE - 1 { Ok(None) } else { Err(Malformed::TooLong) };
    };
    match line[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] => return Ok(None),
        _ => return Err(Malformed::Line),
    }
    let said = words(line.get(LINE.len()..end).ok_or(Malformed::Line)?).ok_or(Malformed::Line)?;
    Ok(Some(Header { said, length: end + 2 }))
}

/// What stands between `PROXY` and the line end.
fn words(line: &[u8]) -> Option<Said> {
    // Whatever else stands there is to be ignored.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Some(Said::Unnamed);
    }
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let ip = match words.next()? {
        "TCP4" => |word: &str| Some(IpAddr::V4(word.parse::<Ipv4Addr>().ok()?)),
        "TCP6" => |word: &str| Some(IpAddr::V6(word.parse::<Ipv6Addr>().ok()?)),
        _ => return None,
    };
    let (source, destination) = (ip(words.next()?)?, ip(words.next()?)?);
    let (from, to) = (port(words.next()?)?, port(words.next()?)?);
    match words.next() {
        None => Some(Said::relayed((source, from), (destination, to))),
        Some(_) => None,
    }
}

/// A port as everybody writes it: no sign, no zeros before it.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    plain.then(|| word.parse().ok()).flatten()
}

impl Said {
    /// IPv4 addresses that are written as IPv6 are IPv4 addresses.
    fn relayed(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        let address = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
        Self::Relayed { source: address(source), destination: address(destination) }
    }
}

/// Signature, version and command, family, length; then the addresses, and what else the sender brings along.
fn version2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some(fixed) = bytes.first_chunk::<FIXED>() else { return Ok(None) };
    let [.., version_and_command, family, high, low] = *fixed;
    if version_and_command >> 4 != 2 {
        return Err(Malformed::Version);
    }
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST {
        return Err(Malformed::TooLong);
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    let said = match (version_and_command & 0xf, family) {
        // Of a connection of its own the sender has nothing to say, and whatever it does say is to be skipped. So is what
        // has no family: nobody knows where its addresses end.
        (0, _) => Said::Itself,
        (1, 0x00) => Said::Unnamed,
        (1, 0x11) => relayed::<4>(header)?,
        (1, 0x21) => relayed::<16>(header)?,
        (1, _) => return Err(Malformed::Family),
        _ => return Err(Malformed::Command),
    };
    Ok(Some(Header { said, length }))
}

/// Two addresses of so many bytes, two ports, and what is brought along.
fn relayed<const SIZE: usize>(header: &[u8]) -> Result<Said, Malformed>
where
    IpAddr: From<[u8; SIZE]>,
{
    let (addresses, rest) = header[FIXED..].split_at_checked(2 * SIZE + 4).ok_or(Malformed::Block)?;
    check(header, header.len() - rest.len())?;
    let ip = |at: usize| {
        let octets: [u8; SIZE] = addresses[at..at + SIZE].try_into().expect("it has this size");
        IpAddr::from(octets)
    };
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    Ok(Said::relayed((ip(0), port(2 * SIZE)), (ip(SIZE), port(2 * SIZE + 2))))
}

/// Looks through what is brought along from this place on. Only a checksum concerns us.
fn check(header: &[u8], mut at: usize) -> Result<(), Malformed> {
    let mut checked = false;
    while at < header.len() {
        let [kind, high, low] = *header[at..].first_chunk().ok_or(Malformed::Block)?;
        at += 3;
        let end = at + usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(at..end).ok_or(Malformed::Block)?;
        if kind == CRC32C {
            let sum: [u8; 4] = value.try_into().map_err(|_| Malformed::Block)?;
            // It was computed with zeros in its own place.
            let computed = crc32c([&header[..at], &[0; 4], &header[end..]]);
            if std::mem::replace(&mut checked, true) || u32::from_be_bytes(sum) != computed {
                return Err(Malformed::Checksum);
            }
        }
        at = end;
    }
    Ok(())
}

/// The checksum of RFC 4960, appendix B, of these pieces.
fn crc32c<const PIECES: usize>(pieces: [&[u8]; PIECES]) -> u32 {
    let step = |sum: u32, byte: &u8| (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ byte)];
    !pieces.into_iter().flatten().fold(!0, step)
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;

//! Where the daemon is: `127.0.0.1:2000`, `[::1]:2000`, `xray.internal:2000`, or
//! `tcp:127.0.0.1:2000 udp:127.0.0.1:2001`.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

/// The daemon's two addresses: segments go to one by UDP, sampling rules come from the other by TCP.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct DaemonAddress {
    /// Where segments go.
    pub(super) udp: HostPort,
    /// Where the daemon answers API calls.
    pub(super) tcp: HostPort,
}

/// A host and a port. The host may be a name; it is resolved when it is used.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct HostPort {
    /// A name or an address, without brackets.
    pub(super) host: String,
    /// The port; never 0.
    pub(super) port: NonZeroU16,
}

/// Why a text is no daemon's address. The sentence goes on from the setting's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadAddress {
    /// Nothing but blanks.
    #[error("is empty; write `host:port`, or leave it out for 127.0.0.1:2000")]
    Empty,
    /// One prefix without the other, the same twice, or too many parts.
    #[error("must be `host:port` for both, or `tcp:host:port udp:host:port`")]
    Form,
    /// A part that is no `host:port`.
    #[error("has no `host:port` in `{0}`; a port is 1 to 65535, and an IPv6 address stands in brackets")]
    HostPort(String),
}

impl FromStr for DaemonAddress {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let parts: Vec<_> = text.split_whitespace().map(|part| (Protocol::strip(part), part)).collect();
        let [(first, whole), rest @ ..] = parts.as_slice() else { return Err(BadAddress::Empty) };
        match (first, rest) {
            ((None, _), []) => {
                let both: HostPort = whole.parse()?;
                Ok(Self { udp: both.clone(), tcp: both })
            }
            ((Some(Protocol::Udp), udp), [((Some(Protocol::Tcp), tcp), _)])
            | ((Some(Protocol::Tcp), tcp), [((Some(Protocol::Udp), udp), _)]) => {
                Ok(Self { udp: udp.parse()?, tcp: tcp.parse()? })
            }
            _ => Err(BadAddress::Form),
        }
    }
}

#[derive(Clone, Copy)]
enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// Takes `tcp:` or `udp:` off the front.
    fn strip(part: &str) -> (Option<Self>, &str) {
        match part.split_at_checked(4) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("tcp:") => (Some(Self::Tcp), rest),
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("udp:") => (Some(Self::Udp), rest),
            _ => (None, part),
        }
    }
}

impl FromStr for HostPort {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress::HostPort(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?.to_string(),
            None if is_host(host) => host.to_owned(),
            None => return Err(bad()),
        };
        // `parse` takes a leading `+`; a port has digits only.
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or_else(bad)?;
        Ok(Self { host, port })
    }
}

/// Whether this could be a host's name or IPv4 address. Underscores occur in names of containers.
fn is_host(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.bytes().all(fine)
}

impl HostPort {
    /// The host as an address, if it is one.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for DaemonAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.udp == self.tcp { self.udp.fmt(f) } else { write!(f, "tcp:{} udp:{}", self.tcp, self.udp) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form() {
        for (text, udp, tcp) in [
            ("127.0.0.1:2000", "127.0.0.1:2000", "127.0.0.1:2000"),
            ("  127.0.0.1:2000\t", "127.0.0.1:2000", "127.0.0.1:2000"),
            ("localhost:3000", "localhost:3000", "localhost:3000"),
            ("xray_daemon.local:65535", "xray_daemon.local:65535", "xray_daemon.local:65535"),
            ("[::1]:2000", "[::1]:2000", "[::1]:2000"),
            ("tcp:127.0.0.1:2000 udp:127.0.0.1:2001", "127.0.0.1:2001", "127.0.0.1:2000"),
            ("udp:127.0.0.1:2001 tcp:127.0.0.1:2000", "127.0.0.1:2001", "127.0.0.1:2000"),
            ("UDP:a:1  \t Tcp:b:2", "a:1", "b:2"),
            ("tcp:[2001:db8::1]:2000 udp:[::1]:2001", "[::1]:2001", "[2001:db8::1]:2000"),
        ] {
            let address: DaemonAddress = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((address.udp.to_string().as_str(), address.tcp.to_string().as_str()), (udp, tcp), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "   "] {
            assert_eq!(text.parse::<DaemonAddress>(), Err(BadAddress::Empty));
        }
        for text in [
            "tcp:127.0.0.1:2000",
            "udp:127.0.0.1:2000",
            "tcp:127.0.0.1:2000 tcp:127.0.0.1:2001",
            "udp:127.0.0.1:2000 udp:127.0.0.1:2001",
            "127.0.0.1:2000 127.0.0.1:2001",
            "127.0.0.1:2000 udp:127.0.0.1:2001",
            "tcp:127.0.0.1:2000 127.0.0.1:2001",
            "tcp:a:1 udp:b:2 udp:c:3",
        ] {
            assert_eq!(text.parse::<DaemonAddress>(), Err(BadAddress::Form), "{text}");
        }
        for text in [
            "127.0.0.1",
            "127.0.0.1:",
            ":2000",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "127.0.0.1:+80",
            "127.0.0.1:2000:2001",
            "::1:2000",
            "[::1]",
            "[host]:2000",
            "ho st:2000 ",
            "http://127.0.0.1:2000",
            "tcp:127.0.0.1 udp:127.0.0.1:2001",
            "tcp::2000 udp:127.0.0.1:2001",
        ] {
            assert!(text.parse::<DaemonAddress>().is_err(), "{text}");
        }
    }
}

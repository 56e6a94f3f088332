use std::fmt;
use std::str::FromStr;

use super::{Network, written};

/// Who may speak for a client: the proxies of a network, or with `"unix:"` whoever connects over a unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrustedProxy {
    /// Peers with an address in this network.
    Network(Network),
    /// Peers of unix sockets, which have no address.
    Unix,
}

written!(TrustedProxy, expecting: "a network such as \"10.0.0.0/8\"", schema: {
    "type": "string",
    "title": "Trusted proxy",
    "description": "A network in CIDR form, one address, or `unix:` for whoever connects over a unix socket.",
    "examples": ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "unix:"],
});

impl FromStr for TrustedProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Ok(Self::Unix),
            Some(_) => Err(format!(
                "`{text}` names one socket, and \"unix:\" trusts whoever connects over any; who may is up to each socket's permissions"
            )),
            None => text.parse().map(Self::Network),
        }
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Unix => f.write_str("unix:"),
        }
    }
}

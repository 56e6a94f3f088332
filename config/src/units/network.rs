use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use super::written;

/// Addresses that share a prefix: `"10.0.0.0/8"`, `"2001:db8::/32"`. A bare address is a network of one.
///
/// An IPv4-mapped network (`::ffff:10.0.0.0/104`) is the IPv4 network it maps, because addresses are
/// unmapped before they are judged. `::/0` is every IPv6 address and no IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpNet);

written!(Network, expecting: "a network such as \"10.0.0.0/8\"", schema: {
    "type": "string",
    "title": "Network",
    "description": "A network in CIDR form, or one address.",
    "examples": ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"],
});

impl Network {
    /// As an `IpNet`, IPv4-mapped networks unmapped.
    pub const fn get(self) -> IpNet {
        self.0
    }

    /// Whether it holds every address of its family.
    pub fn is_everyone(self) -> bool {
        self.0.prefix_len() == 0
    }
}

/// Bits beyond the prefix are left out.
impl From<IpNet> for Network {
    fn from(network: IpNet) -> Self {
        Self(unmapped(network.trunc()))
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            // `ipnet` reads 010.0.0.0 as 10.0.0.0, others as 8.0.0.0. Nobody may guess who passes.
            Err(_) if text.split('/').next().is_none_or(|address| address.parse::<IpAddr>().is_err()) => {
                return Err(complaint(text));
            }
            Err(_) => text.parse::<IpNet>().map_err(|_| complaint(text))?,
        };
        if network.addr() != network.network() {
            return Err(format!("`{text}` has host bits set; the network is `{}`", network.trunc()));
        }
        Ok(network.into())
    }
}

/// `::ffff:0:0/96` is where IPv4 addresses live inside IPv6.
fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(wide) = network else {
        return network;
    };
    match (wide.addr().to_ipv4_mapped(), wide.prefix_len().checked_sub(96)) {
        (Some(address), Some(prefix)) => Ipv4Net::new(address, prefix).map_or(network, IpNet::V4),
        _ => network,
    }
}

fn complaint(text: &str) -> String {
    let Some((address, prefix)) = text.split_once('/') else {
        return format!("`{text}` is neither an address nor a network such as \"10.0.0.0/8\"");
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return format!("`{address}` is not an IP address");
    };
    // 255.255.0.0 as a prefix is what people bring from other tools.
    if let (IpAddr::V4(_), Ok(mask)) = (address, prefix.parse::<Ipv4Addr>()) {
        let bits = u32::from(mask).leading_ones();
        return format!("write the mask as a number of bits: `{address}/{bits}`");
    }
    let most = if address.is_ipv4() { 32 } else { 128 };
    format!("`/{prefix}` is not a prefix length; it goes from 0 to {most}")
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Deref for Network {
    type Target = IpNet;

    fn deref(&self) -> &IpNet {
        &self.0
    }
}

impl From<Network> for IpNet {
    fn from(network: Network) -> Self {
        network.0
    }
}

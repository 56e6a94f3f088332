//! A set of networks that answers in a few nanoseconds which of them covers an address.
//!
//! Networks are nested or disjoint, so all of them together are a step function over the addresses: from each start
//! on, this network is the most specific one, until the next start. Looking up is one binary search in one array.
//!
//! IPv4 and IPv6 are apart: `::/0` covers no IPv4 address. IPv4-mapped IPv6 (`::ffff:a.b.c.d`) counts as IPv4, in
//! addresses and in networks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use portcullis_config::units::Network;

/// A set of networks.
#[derive(Clone, Default)]
pub struct IpSet {
    v4: Steps<u32>,
    v6: Steps<u128>,
    networks: usize,
}

impl IpSet {
    /// The set of these networks. Bits beyond a network's prefix are ignored.
    ///
    /// # Panics
    /// If there are more than 4 billion.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let mut count = 0;
        for (index, network) in networks.into_iter().enumerate() {
            let index = u32::try_from(index).expect("fewer than 2^32 networks fit into memory");
            match Network::from(network).get() {
                IpNet::V4(net) => {
                    v4.push(Span { first: net.network().to_bits(), last: net.broadcast().to_bits(), index })
                }
                IpNet::V6(net) => {
                    v6.push(Span { first: net.network().to_bits(), last: net.broadcast().to_bits(), index })
                }
            }
            count += 1;
        }
        Self { v4: Steps::new(v4), v6: Steps::new(v6), networks: count }
    }

    /// Which network covers this address, by its index in the order given: the most specific one, and of equal ones
    /// the first.
    pub fn find(&self, ip: IpAddr) -> Option<usize> {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.find(ip.to_bits()),
            IpAddr::V6(ip) => self.v6.find(ip.to_bits()),
        }
    }

    /// Whether some network covers this address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.find(ip).is_some()
    }

    /// How many networks it was made of.
    pub fn len(&self) -> usize {
        self.networks
    }

    /// Whether no network is in it, so that it contains no address.
    pub fn is_empty(&self) -> bool {
        self.networks == 0
    }
}

impl FromIterator<IpNet> for IpSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        Self::new(networks)
    }
}

impl fmt::Debug for IpSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IpSet").field("networks", &self.networks).finish_non_exhaustive()
    }
}

/// What one network covers.
struct Span<A> {
    first: A,
    last: A,
    index: u32,
}

/// The step function: from `starts[i]` on, `covers[i]` is the most specific network.
///
/// Two arrays, so that the search walks over nothing but what it compares.
#[derive(Clone, Default)]
struct Steps<A> {
    starts: Vec<A>,
    covers: Vec<u32>,
}

/// No network has this index: [`IpSet::new`] would have run out of memory before.
const NOBODY: u32 = u32::MAX;

impl<A: Address> Steps<A> {
    fn new(mut spans: Vec<Span<A>>) -> Self {
        // A network comes before those inside it; of equal networks the first written comes last, and so wins.
        spans.sort_unstable_by(|a, b| (a.first, b.last, b.index).cmp(&(b.first, a.last, a.index)));

        let mut steps = Self { starts: vec![A::ZERO], covers: vec![NOBODY] };
        let mut open: Vec<Span<A>> = Vec::new();
        for span in spans {
            while let Some(inner) = open.pop_if(|inner| inner.last < span.first) {
                steps.close(&inner, &open);
            }
            steps.step(span.first, span.index);
            open.push(span);
        }
        while let Some(inner) = open.pop() {
            steps.close(&inner, &open);
        }
        steps
    }

    /// After the last address of `inner`, the network around it counts again.
    fn close(&mut self, inner: &Span<A>, around: &[Span<A>]) {
        if let Some(after) = inner.last.next() {
            self.step(after, around.last().map_or(NOBODY, |span| span.index));
        }
    }

    fn step(&mut self, start: A, cover: u32) {
        if self.starts.last() == Some(&start) {
            self.covers.pop();
        } else {
            self.starts.push(start);
        }
        self.covers.push(cover);
    }

    fn find(&self, address: A) -> Option<usize> {
        // The default set has no step at all; any other starts at zero.
        let step = self.starts.partition_point(|start| *start <= address).checked_sub(1)?;
        let index = self.covers[step];
        (index != NOBODY).then_some(index as usize)
    }
}

/// The bits of an address.
trait Address: Copy + Ord {
    const ZERO: Self;
    fn next(self) -> Option<Self>;
}

impl Address for u32 {
    const ZERO: Self = Ipv4Addr::UNSPECIFIED.to_bits();
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Address for u128 {
    const ZERO: Self = Ipv6Addr::UNSPECIFIED.to_bits();
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    fn set(networks: &[&str]) -> IpSet {
        networks.iter().map(|network| network.parse::<IpNet>().expect("a test gives a network")).collect()
    }

    fn find(set: &IpSet, ip: &str) -> Option<usize> {
        set.find(ip.parse().expect("a test gives an address"))
    }

    #[test]
    fn the_most_specific_network_decides_whatever_the_order() {
        let set = set(&["10.1.0.0/16", "10.0.0.0/8", "10.1.2.3/32", "10.1.2.0/24"]);
        assert_eq!(find(&set, "10.200.0.1"), Some(1));
        assert_eq!(find(&set, "10.1.200.1"), Some(0));
        assert_eq!(find(&set, "10.1.2.4"), Some(3));
        assert_eq!(find(&set, "10.1.2.3"), Some(2));
        assert_eq!(find(&set, "9.255.255.255"), None);
        assert_eq!(find(&set, "11.0.0.0"), None);
    }

    #[test]
    fn of_equal_networks_the_first_counts() {
        let set = set(&["10.0.0.0/8", "10.0.0.0/8", "10.0.0.0/8"]);
        assert_eq!(find(&set, "10.0.0.0"), Some(0));
        assert_eq!(find(&set, "10.255.255.255"), Some(0));
        assert_eq!(find(&set, "11.0.0.0"), None);
    }

    #[test]
    fn the_ends_of_the_address_space_are_covered() {
        let set = set(&["0.0.0.0/0", "255.255.255.255/32", "::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"]);
        assert_eq!(find(&set, "0.0.0.0"), Some(0));
        assert_eq!(find(&set, "255.255.255.255"), Some(1));
        assert_eq!(find(&set, "::"), Some(2));
        assert_eq!(find(&set, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), Some(3));
    }

    #[test]
    fn an_empty_set_contains_nobody() {
        for empty in [IpSet::default(), set(&[])] {
            assert!(empty.is_empty());
            assert_eq!((find(&empty, "0.0.0.0"), find(&empty, "::"), find(&empty, "127.0.0.1")), (None, None, None));
        }
    }

    #[test]
    fn everything_ipv6_is_nothing_ipv4() {
        let set = set(&["::/0"]);
        assert_eq!(find(&set, "2001:db8::1"), Some(0));
        assert_eq!(find(&set, "10.0.0.1"), None);
        assert_eq!(find(&set, "::ffff:10.0.0.1"), None);
    }

    #[test]
    fn mapped_addresses_and_networks_are_ipv4() {
        let set = set(&["::ffff:10.0.0.0/104", "192.0.2.0/24"]);
        assert_eq!(find(&set, "10.9.9.9"), Some(0));
        assert_eq!(find(&set, "::ffff:10.9.9.9"), Some(0));
        assert_eq!(find(&set, "::ffff:192.0.2.1"), Some(1));
        assert_eq!(find(&set, "::ffff:192.0.3.1"), None);
    }

    /// Few bits, so that networks nest, repeat and touch often.
    fn network() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<u32>(), 0..=32u8, any::<bool>()).prop_map(|(bits, prefix, dense)| {
            let bits = if dense { bits & 0x0000_000f } else { bits };
            Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), prefix).into()
        });
        let v6 = (any::<u128>(), 0..=128u8, 0..3u8).prop_map(|(bits, prefix, form)| {
            let bits = match form {
                0 => bits & 0xf,
                1 => (bits & 0xffff_ffff) | 0xffff_0000_0000,
                _ => bits,
            };
            Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), prefix).into()
        });
        prop_oneof![v4, v6]
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0..32u32).prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            any::<u32>().prop_map(|bits| IpAddr::V6(Ipv4Addr::from_bits(bits).to_ipv6_mapped())),
            (0..32u128).prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        ]
    }

    /// What the set promises, said the slow way.
    fn linear(networks: &[IpNet], ip: IpAddr) -> Option<usize> {
        let covering =
            networks.iter().map(|network| Network::from(*network).get()).enumerate().filter(|(_, network)| {
                match ip.to_canonical() {
                    ip @ IpAddr::V4(_) => matches!(network, IpNet::V4(_)) && network.contains(&ip),
                    ip @ IpAddr::V6(_) => matches!(network, IpNet::V6(_)) && network.contains(&ip),
                }
            });
        covering.min_by_key(|(index, network)| (u8::MAX - network.prefix_len(), *index)).map(|(index, _)| index)
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_linear_search(
            networks in prop::collection::vec(network(), 0..60),
            strangers in prop::collection::vec(address(), 0..20),
        ) {
            let set: IpSet = networks.iter().copied().collect();
            let edges = networks.iter().flat_map(|network| [network.network(), network.broadcast()]);
            for ip in edges.chain(strangers) {
                prop_assert_eq!(set.find(ip), linear(&networks, ip), "address {}", ip);
            }
        }
    }
}

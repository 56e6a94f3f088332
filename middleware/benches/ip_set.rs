//! How long it takes to find the network that covers an address: 100,000 networks, at most 200 ns.
//!
//! `cargo bench -p portcullis-middleware --bench ip_set`

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use portcullis_middleware::ip_set::IpSet;

const SIZES: [usize; 4] = [10, 1_000, 10_000, 100_000];
/// Addresses per round, so that the clock's own cost does not count; many enough to miss the caches.
const ADDRESSES: usize = 4096;

fn main() {
    divan::main();
}

fn random() -> fastrand::Rng {
    fastrand::Rng::with_seed(7)
}

fn v4(size: usize, random: &mut fastrand::Rng) -> Vec<IpNet> {
    let mut network = || Ipv4Net::new_assert(Ipv4Addr::from_bits(random.u32(..)), random.u8(12..=32));
    (0..size).map(|_| network().trunc().into()).collect()
}

/// Within 2000::/3, where the real ones are.
fn v6(size: usize, random: &mut fastrand::Rng) -> Vec<IpNet> {
    let mut network = || Ipv6Net::new_assert(global(random.u128(..)), random.u8(20..=64));
    (0..size).map(|_| network().trunc().into()).collect()
}

fn global(bits: u128) -> Ipv6Addr {
    Ipv6Addr::from_bits(bits >> 3 | 1 << 125)
}

/// Half of them inside some network, half anywhere.
fn addresses(networks: &[IpNet], random: &mut fastrand::Rng) -> Vec<IpAddr> {
    let mut address = |index: usize| {
        let inside = index.is_multiple_of(2);
        match networks[random.usize(..networks.len())] {
            IpNet::V4(net) if inside => (net.network() | Ipv4Addr::from_bits(random.u32(..)) & net.hostmask()).into(),
            IpNet::V6(net) if inside => (net.network() | Ipv6Addr::from_bits(random.u128(..)) & net.hostmask()).into(),
            IpNet::V4(_) => Ipv4Addr::from_bits(random.u32(..)).into(),
            IpNet::V6(_) => global(random.u128(..)).into(),
        }
    };
    (0..ADDRESSES).map(&mut address).collect::<Vec<IpAddr>>()
}

fn find(bencher: Bencher<'_, '_>, networks: Vec<IpNet>, mut random: fastrand::Rng) {
    let addresses = addresses(&networks, &mut random);
    let set = IpSet::new(networks);
    bencher
        .counter(ItemsCount::new(ADDRESSES))
        .bench_local(|| addresses.iter().filter(|ip| black_box(&set).find(**ip).is_some()).count());
}

/// A round is 4096 lookups.
#[divan::bench(args = SIZES)]
fn find_v4(bencher: Bencher<'_, '_>, size: usize) {
    let mut random = random();
    find(bencher, v4(size, &mut random), random);
}

/// A round is 4096 lookups.
#[divan::bench(args = SIZES)]
fn find_v6(bencher: Bencher<'_, '_>, size: usize) {
    let mut random = random();
    find(bencher, v6(size, &mut random), random);
}

/// What a reload of a list costs.
#[divan::bench(args = SIZES)]
fn build_v4(bencher: Bencher<'_, '_>, size: usize) {
    let networks = v4(size, &mut random());
    bencher.bench_local(|| IpSet::new(black_box(&networks).iter().copied()));
}

//! Round robin that honours weights and spreads each instance's turns evenly.
//!
//! The order of a whole period is worked out once per list of instances; taking a turn is one atomic addition. A list
//! that changed gets a rotation of its own, so a turn can never point past the end of a newer, shorter list.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The longest period. Weights that add up to more are scaled down; nobody's share is off by more than one turn.
const LONGEST: u64 = 1 << 14;

/// The turns of one list of instances.
#[derive(Debug)]
pub struct Rotation {
    turns: Box<[u32]>,
    next: AtomicUsize,
}

impl Rotation {
    /// The rotation of instances with these weights. Weight 0 gets no turn.
    ///
    /// It begins at turn `start`, taken round the period. A start at random keeps the first instance of the list from
    /// getting more than its share when lists change often, or when many gateways start at once.
    pub fn new(weights: &[u32], start: usize) -> Self {
        Self { turns: period(&scaled(weights)), next: AtomicUsize::new(start) }
    }

    /// Whether no instance has any weight.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// The instance whose turn it is, as an index into the list, but none of those `tried` unless all were.
    ///
    /// `None` if no instance has any weight.
    pub fn next(&self, tried: &[usize]) -> Option<usize> {
        let period = self.turns.len();
        if period == 0 {
            return None;
        }
        // Another try takes no turn of its own, or requests and tries could fall into step: with two instances, every
        // request would begin at the one that is gone.
        let next = if tried.is_empty() { self.next.fetch_add(1, Relaxed) } else { self.next.load(Relaxed) };
        let turn = next % period;
        let (before, after) = self.turns.split_at(turn);
        let mut turns = after.iter().chain(before).map(|&index| index as usize);
        if tried.is_empty() {
            return turns.next();
        }
        turns.find(|index| !tried.contains(index)).or_else(|| after.first().map(|&index| index as usize))
    }
}

/// Weights whose sum is a period of bearable length.
fn scaled(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |divisor, &weight| gcd(divisor, u64::from(weight))).max(1);
    let weights: Vec<u64> = weights.iter().map(|&weight| u64::from(weight) / divisor).collect();
    let total: u64 = weights.iter().sum();
    if total <= LONGEST {
        return weights;
    }
    let scale = |weight: u64| if weight == 0 { 0 } else { ((weight * LONGEST + total / 2) / total).max(1) };
    weights.into_iter().map(scale).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The order of all turns.
///
/// An instance of weight `w` has its turns at `(k + phase) / w` of the period, for `k` in `0..w`. Instances of one
/// weight get phases that are as far apart as can be, so that they alternate instead of following each other.
fn period(weights: &[u64]) -> Box<[u32]> {
    let mut turns: Vec<(f64, u32)> = Vec::with_capacity(weights.iter().sum::<u64>() as usize);
    let mut by_weight: Vec<u32> = (0..weights.len() as u32).collect();
    by_weight.sort_by_key(|&index| weights[index as usize]);
    for alike in by_weight.chunk_by(|&a, &b| weights[a as usize] == weights[b as usize]) {
        for (rank, &index) in alike.iter().enumerate() {
            let weight = weights[index as usize];
            let phase = (rank as f64 + 0.5) / alike.len() as f64;
            turns.extend((0..weight).map(|k| ((k as f64 + phase) / weight as f64, index)));
        }
    }
    turns.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    turns.into_iter().map(|(_, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(rotation: &Rotation, count: usize) -> Vec<usize> {
        (0..count).map(|_| rotation.next(&[]).unwrap()).collect()
    }

    fn counts(turns: &[usize], instances: usize) -> Vec<usize> {
        (0..instances).map(|index| turns.iter().filter(|&&turn| turn == index).count()).collect()
    }

    #[test]
    fn instances_of_one_weight_take_turns_in_their_order() {
        assert_eq!(turns(&Rotation::new(&[1, 1, 1], 0), 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(turns(&Rotation::new(&[7, 7, 7], 0), 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn any_period_gives_everybody_exactly_their_weight() {
        for weights in [&[5, 1, 1][..], &[1, 2, 3, 4], &[10, 0, 3], &[1], &[100, 1]] {
            let period: u32 = weights.iter().sum();
            for start in 0..period as usize {
                let turns = turns(&Rotation::new(weights, start), period as usize);
                let want: Vec<usize> = weights.iter().map(|&weight| weight as usize).collect();
                assert_eq!(counts(&turns, weights.len()), want, "{weights:?} from {start}");
            }
        }
    }

    #[test]
    fn turns_of_a_heavy_instance_are_spread_over_the_period() {
        let turns = turns(&Rotation::new(&[5, 1, 1], 0), 14);
        let longest = turns.chunk_by(|a, b| a == b).map(<[usize]>::len).max();
        assert!(longest <= Some(3), "{turns:?}");
    }

    #[test]
    fn nobody_gets_a_turn_without_weight() {
        assert_eq!(Rotation::new(&[], 3).next(&[]), None);
        assert_eq!(Rotation::new(&[0, 0], 3).next(&[]), None);
        assert!(turns(&Rotation::new(&[0, 2, 0], 0), 10).iter().all(|&turn| turn == 1));
    }

    #[test]
    fn tried_instances_are_passed_over_while_there_are_others() {
        let rotation = Rotation::new(&[3, 1, 1], 0);
        for _ in 0..20 {
            assert_ne!(rotation.next(&[0]), Some(0));
            assert_eq!(rotation.next(&[0, 2]), Some(1));
            assert!(rotation.next(&[0, 1, 2]).is_some());
        }
    }

    #[test]
    fn further_tries_do_not_shift_the_turns_of_others() {
        let rotation = Rotation::new(&[1, 1], 0);
        let first: Vec<_> = (0..4).map(|_| (rotation.next(&[]), rotation.next(&[0])).0).collect();
        assert_eq!(first, [Some(0), Some(1), Some(0), Some(1)]);
    }

    #[test]
    fn a_short_list_after_a_long_one_is_never_overrun_and_favours_nobody() {
        // Lists that change after every request, each with a start at random, as registries in trouble do it.
        let mut random = fastrand::Rng::with_seed(7);
        let mut hits = [0_u32; 4];
        for _ in 0..4000 {
            let instances = random.usize(1..=4);
            let rotation = Rotation::new(&vec![1; instances], random.usize(..));
            let turn = rotation.next(&[]).unwrap();
            assert!(turn < instances);
            if instances == 4 {
                hits[turn] += 1;
            }
        }
        assert!(hits.iter().all(|hits| (200..300).contains(hits)), "{hits:?}");
    }

    #[test]
    fn huge_weights_keep_their_proportions() {
        let rotation = Rotation::new(&[3_000_000, 1_000_001, 1], 0);
        let period = rotation.turns.len();
        assert!(period as u64 <= LONGEST + 3);
        let counts = counts(&turns(&rotation, period), 3);
        assert!(counts[0].abs_diff(period * 3 / 4) <= 2 && counts[2] == 1, "{counts:?}");
    }

    #[test]
    fn turns_taken_at_the_same_time_are_still_exact() {
        let rotation = Rotation::new(&[3, 1], 0);
        let taken = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| turns(&rotation, 1000))).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(counts(&taken, 2), [3000, 1000]);
    }
}

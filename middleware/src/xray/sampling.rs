//! Which requests are recorded when the caller did not say: one a second for sure, and a share of the rest.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many requests of this second were taken already: the second in the upper half, the number in the lower.
///
/// All workers share one. Time is passed in, so that a test is its own clock.
#[derive(Debug, Default)]
pub struct Reservoir(AtomicU64);

impl Reservoir {
    /// Takes one of the `size` places of the second `now`, if one is left.
    pub fn take(&self, now: u32, size: u32) -> bool {
        if size == 0 {
            return false;
        }
        let take = |state: u64| {
            let (second, used) = ((state >> 32) as u32, state as u32);
            // A worker that is a moment late counts with the others. A clock that was set back starts anew:
            // waiting for the old time to come again could take years.
            let second = if now.wrapping_add(1) == second { second } else { now };
            let used = if (state >> 32) as u32 == second { used } else { 0 };
            (used < size).then(|| u64::from(second) << 32 | u64::from(used + 1))
        };
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// A share of all requests, ready to be compared with a random number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(u64);

impl Rate {
    /// A share between 0 and 1; `None` for anything else.
    pub fn new(share: f64) -> Option<Self> {
        // `as` saturates: a share of 1 becomes the largest threshold, which `hits` takes for "always".
        (0.0..=1.0).contains(&share).then_some(Self((share * 2f64.powi(64)) as u64))
    }

    /// Whether a random number falls into the share.
    pub fn hits(self, random: u64) -> bool {
        random < self.0 || self.0 == u64::MAX
    }
}

/// The local rule: `reservoir` requests a second, and `rate` of the rest.
#[derive(Debug)]
pub struct LocalRule {
    taken: Reservoir,
    reservoir: u32,
    rate: Rate,
}

impl LocalRule {
    /// A rule with an untouched reservoir.
    pub fn new(reservoir: u32, rate: Rate) -> Self {
        Self { taken: Reservoir::default(), reservoir, rate }
    }

    /// Decides about a request that arrives in the second `now`.
    pub fn decide(&self, now: u32, random: impl FnOnce() -> u64) -> bool {
        self.taken.take(now, self.reservoir) || self.rate.hits(random())
    }
}

/// What decides where the caller did not.
#[derive(Debug, Clone)]
pub enum Sampler {
    /// The local rule.
    Local(std::sync::Arc<LocalRule>),
    /// Every request, or none.
    Fixed(bool),
}

/// Whether a request is recorded, and who said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is recorded.
    pub sampled: bool,
    /// Who said so.
    pub source: Source,
}

/// Who decided; a label of `xray_requests_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A trusted caller, in its header.
    Header,
    /// The local rule.
    Local,
    /// The settings: `always` or `never`.
    Route,
}

impl Source {
    /// Every source there is.
    pub const ALL: [Source; 3] = [Source::Header, Source::Local, Source::Route];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Source::Header => "header",
            Source::Local => "local",
            Source::Route => "route",
        }
    }
}

impl Sampler {
    /// Decides about one request. The caller's decision, if it is trusted and made one, always stands.
    pub fn decide(&self, caller: Option<bool>, now: u32, random: impl FnOnce() -> u64) -> Decision {
        match (caller, self) {
            (Some(sampled), _) => Decision { sampled, source: Source::Header },
            (None, Sampler::Fixed(sampled)) => Decision { sampled: *sampled, source: Source::Route },
            (None, Sampler::Local(rule)) => Decision { sampled: rule.decide(now, random), source: Source::Local },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_reservoir_gives_its_size_every_second() {
        let reservoir = Reservoir::default();
        for now in [100, 101, 5000] {
            let taken = (0..10).filter(|_| reservoir.take(now, 3)).count();
            assert_eq!(taken, 3, "second {now}");
        }
        assert!(!Reservoir::default().take(1, 0));
    }

    #[test]
    fn a_worker_that_is_a_moment_late_takes_nothing_extra() {
        let reservoir = Reservoir::default();
        assert!(reservoir.take(101, 1));
        assert!(!reservoir.take(100, 1));
        assert!(!reservoir.take(101, 1));
        assert!(reservoir.take(102, 1));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_stop_sampling() {
        let reservoir = Reservoir::default();
        assert!(reservoir.take(1_000_000, 1));
        assert!(reservoir.take(500_000, 1));
        assert!(!reservoir.take(500_000, 1));
    }

    #[test]
    fn threads_share_the_places_exactly() {
        let reservoir = Arc::new(Reservoir::default());
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).filter(|_| reservoir.take(7, 50)).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 50);
    }

    #[test]
    fn rates_are_exact_at_both_ends_and_close_between() {
        let (none, all, some) = (Rate::new(0.0).unwrap(), Rate::new(1.0).unwrap(), Rate::new(0.05).unwrap());
        assert!(!none.hits(0) && !none.hits(u64::MAX));
        assert!(all.hits(0) && all.hits(u64::MAX));
        let mut random = fastrand::Rng::with_seed(7);
        let hits = (0..100_000).filter(|_| some.hits(random.u64(..))).count();
        assert!((4_700..5_300).contains(&hits), "{hits}");
        for bad in [-0.1, 1.000_001, f64::NAN, f64::INFINITY] {
            assert_eq!(Rate::new(bad), None);
        }
    }

    #[test]
    fn the_callers_decision_always_stands() {
        let local = Sampler::Local(Arc::new(LocalRule::new(0, Rate::new(0.0).unwrap())));
        for sampler in [local, Sampler::Fixed(true), Sampler::Fixed(false)] {
            for sampled in [true, false] {
                let decision = sampler.decide(Some(sampled), 1, || 0);
                assert_eq!(decision, Decision { sampled, source: Source::Header });
            }
        }
    }

    #[test]
    fn without_a_decision_the_settings_decide() {
        let local = Sampler::Local(Arc::new(LocalRule::new(1, Rate::new(0.5).unwrap())));
        let decide = |random| local.decide(None, 1, || random).sampled;
        assert!(decide(u64::MAX), "the reservoir's one place");
        assert!(!decide(u64::MAX));
        assert!(decide(0));
        assert_eq!(Sampler::Fixed(true).decide(None, 1, || 0), Decision { sampled: true, source: Source::Route });
        assert_eq!(Sampler::Fixed(false).decide(None, 1, || 0), Decision { sampled: false, source: Source::Route });
    }
}

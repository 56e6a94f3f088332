//! The compiled candidates: every match of every route, in the total order, reachable by host and path.
//!
//! A candidate's rank is its position in the total order, so "who wins" is "whose rank is lowest" everywhere below.

use std::cmp::Reverse;
use std::sync::Arc;

use http::HeaderValue;
use portcullis_config::units::HostPattern;
use portcullis_config::{Match, PathMatch};

use super::captures::Parts;
use super::order::{PathStanding, Standing};
use super::path::Shape;
use super::predicate::{Facts, Failure, Predicates};
use super::trie::{Rank, Root, Trie};
use super::{Fault, HostMap, Miss};

/// One match of one route, on its way into the index.
pub(super) struct Rule<'a, G> {
    /// What a request gets that it wins.
    pub(super) goal: G,
    /// The caller's number of the route.
    pub(super) route: usize,
    /// Which match of the route this is.
    pub(super) alternative: usize,
    pub(super) matching: &'a Match,
    pub(super) priority: i32,
    /// The route's place in the file.
    pub(super) order: usize,
}

/// All that a lookup needs of a candidate, in one line of the processor's cache and never parts of two.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Candidate<G> {
    pub(super) goal: G,
    pub(super) route: u32,
    pub(super) alternative: u32,
    /// How many bytes of the path its prefix takes.
    pub(super) prefix: u32,
    /// How its path is taken apart, if it captures anything.
    pub(super) parts: Option<Arc<Parts>>,
    pub(super) predicates: Predicates,
}

/// What only explanations and `check` need of a candidate.
#[derive(Debug)]
pub(super) struct Detail {
    pub(super) shape: Shape,
    pub(super) standing: Standing,
    pub(super) hosts: Vec<HostPattern>,
}

/// All candidates.
#[derive(Debug)]
pub(super) struct Index<G> {
    pub(super) candidates: Vec<Candidate<G>>,
    pub(super) details: Vec<Detail>,
    pub(super) hosts: HostMap<Root>,
    pub(super) paths: Trie,
}

/// Nothing matched; `true` if something would have with another method.
pub(super) struct OnlyTheMethod(bool);

impl<G> Default for Index<G> {
    fn default() -> Self {
        Self { candidates: Vec::new(), details: Vec::new(), hosts: HostMap::default(), paths: Trie::default() }
    }
}

impl<G> Index<G> {
    pub(super) fn build<'a>(rules: impl IntoIterator<Item = Rule<'a, G>>) -> Result<Self, Vec<Fault>> {
        let (mut pairs, mut faults) = (Vec::new(), Vec::new());
        for rule in rules {
            match compile(rule) {
                Ok(pair) => pairs.push(pair),
                Err(fault) => faults.push(fault),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        pairs.sort_unstable_by_key(|(_, detail)| detail.standing);

        let (mut hosts, mut paths) = (HostMap::<Root>::default(), Trie::default());
        for (rank, (_, detail)) in pairs.iter().enumerate() {
            for host in &detail.hosts {
                paths.insert(hosts.entry(host), &detail.shape, rank as Rank);
            }
        }
        let (candidates, details) = pairs.into_iter().unzip();
        Ok(Self { candidates, details, hosts, paths })
    }

    pub(super) fn candidate(&self, rank: Rank) -> &Candidate<G> {
        &self.candidates[rank as usize]
    }

    pub(super) fn detail(&self, rank: Rank) -> &Detail {
        &self.details[rank as usize]
    }

    /// The candidate that wins a request, if it [is decided](Self::is_decided) that it may.
    pub(super) fn find(&self, facts: &Facts<'_>) -> Result<Rank, Miss> {
        match self.best(facts) {
            Ok(best) => Ok(best),
            Err(OnlyTheMethod(true)) => Err(Miss::MethodNotAllowed(self.allow(facts))),
            Err(OnlyTheMethod(false)) => Err(Miss::NoRoute),
        }
    }

    /// The best candidate that matches, most specific host first.
    pub(super) fn best(&self, facts: &Facts<'_>) -> Result<Rank, OnlyTheMethod> {
        let mut only_the_method = false;
        for root in self.hosts.matching(&facts.host) {
            let mut best = Rank::MAX;
            self.paths.walk(root, facts.path, &mut best, &mut |rank| match self
                .candidate(rank)
                .predicates
                .failure(facts)
            {
                None => true,
                Some(failure) => {
                    only_the_method |= failure == Failure::Method;
                    false
                }
            });
            if best != Rank::MAX {
                return Ok(best);
            }
        }
        Err(OnlyTheMethod(only_the_method))
    }

    /// Whether enough is known of the request to let this candidate have it.
    pub(super) fn is_decided(&self, best: Rank, facts: &Facts<'_>) -> bool {
        !self.candidate(best).predicates.ask_for_client() || facts.client().is_some()
    }

    /// The methods with which the request would have found a route.
    fn allow(&self, facts: &Facts<'_>) -> HeaderValue {
        let mut methods = Vec::new();
        for root in self.hosts.matching(&facts.host) {
            let mut limit = Rank::MAX;
            self.paths.walk(root, facts.path, &mut limit, &mut |rank| {
                let candidate = self.candidate(rank);
                if candidate.predicates.failure(facts) == Some(Failure::Method) {
                    methods.extend(candidate.predicates.methods().map(|method| method.as_str()));
                }
                false
            });
        }
        methods.sort_unstable();
        methods.dedup();
        HeaderValue::try_from(methods.join(", ")).expect("methods are tokens")
    }
}

fn compile<G>(rule: Rule<'_, G>) -> Result<(Candidate<G>, Detail), Fault> {
    let matching = rule.matching;
    let place = (rule.order, rule.alternative);
    let pattern = |shape: &Shape| PathStanding::Pattern { literals: Reverse(shape.literals()) };
    let fault = |text: &str| Fault {
        span: matching.path.as_ref().map_or(matching.span.clone(), |path| path.span.clone()),
        sentence: format!("`{text}` is not a path"),
    };
    let (shape, path) = match matching.path.as_ref().map(|path| &path.value) {
        None => (Shape::default(), pattern(&Shape::default())),
        Some(PathMatch::Pattern(text)) => {
            let shape = Shape::pattern(text).ok_or_else(|| fault(text))?;
            let standing = if shape.only_path().is_some() { PathStanding::Exact } else { pattern(&shape) };
            (shape, standing)
        }
        Some(PathMatch::Prefix(text)) => {
            let shape = Shape::prefix(text).ok_or_else(|| fault(text))?;
            let standing = pattern(&shape);
            (shape, standing)
        }
        Some(PathMatch::Regex(regex)) => (Shape::before_regex(regex.as_str()), PathStanding::Regex { place }),
    };
    let standing = Standing {
        priority: Reverse(rule.priority),
        path,
        method: Reverse(!matching.methods.is_empty()),
        headers: Reverse(matching.headers.len()),
        query: Reverse(matching.query.len()),
        place,
    };
    let mut hosts: Vec<_> = matching.hosts.iter().map(|host| host.value.clone()).collect();
    if hosts.is_empty() {
        hosts.push(HostPattern::Any);
    }
    hosts.sort_unstable();
    hosts.dedup();
    let predicates = Predicates::of(matching);
    let (prefix, parts) = match predicates.regex() {
        Some(regex) => {
            let captures = regex.compiled().group_info().all_group_len() > 1;
            (0, captures.then(|| Parts::Groups(regex.clone())))
        }
        None => {
            let captures = shape.captures().next().is_some();
            (shape.prefix_length() as u32, captures.then(|| Parts::Segments(shape.clone())))
        }
    };
    let (route, alternative) = (rule.route as u32, rule.alternative as u32);
    let candidate = Candidate { goal: rule.goal, route, alternative, prefix, parts: parts.map(Arc::new), predicates };
    Ok((candidate, Detail { shape, standing, hosts }))
}

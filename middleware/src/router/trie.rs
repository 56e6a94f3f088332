//! Which candidates' paths match: a trie with one node per segment.
//!
//! A stop says that a candidate's path ends at a node. Stops hold ranks, not candidates: a rank is the candidate's place
//! in the total order, so the best match is the lowest rank, and whatever lies above the best one found so far need not
//! be looked at. That is why a walk needs no sorting and no list of matches.

use std::num::NonZeroU32;
use std::ops::ControlFlow;

use super::few::Few;
use super::hash::Map;
use super::path::{End, Segment, Shape};

/// A candidate's place in the total order; the lowest wins.
pub(super) type Rank = u32;

/// Paths of one host, and who matches them.
#[derive(Debug)]
pub(super) struct Trie {
    /// The lowest rank of all, beside the nodes: what cannot win needs no look at them.
    lowest: Rank,
    nodes: Vec<Node>,
    /// Children for segments with a capture between fixed text, by [`Node::parts`]: `v{version}`. The first is empty.
    parts: Vec<Vec<(Box<str>, Box<str>, u32)>>,
}

/// One line of the processor's cache, and never parts of two.
#[derive(Debug)]
#[repr(align(64))]
struct Node {
    /// The lowest rank of this node and everything below.
    lowest: Rank,
    /// The child that takes any segment but the empty one. The root is nobody's child.
    any: Option<NonZeroU32>,
    /// Which list of [`Trie::parts`] is this node's.
    parts: u32,
    /// Ordered by rank.
    stops: Few<Stop>,
    literals: Map<u32>,
}

const _: () = assert!(size_of::<Node>() == 64);

#[derive(Debug, Clone, Copy)]
struct Stop {
    rank: Rank,
    tail: Tail,
}

/// What may follow the segments of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// Nothing.
    None,
    /// At least one byte after a `/`.
    Some,
    /// Anything by whole segments.
    Any,
}

impl Tail {
    fn takes(self, rest: Option<&str>) -> bool {
        match self {
            Tail::None => rest.is_none(),
            Tail::Some => rest.is_some_and(|rest| !rest.is_empty()),
            Tail::Any => true,
        }
    }

    fn of(end: &End) -> Self {
        match end {
            End::Here => Tail::None,
            End::Rest(_) => Tail::Some,
            End::Prefix => Tail::Any,
        }
    }
}

impl Node {
    fn new() -> Self {
        Self { lowest: Rank::MAX, any: None, parts: 0, stops: Few::default(), literals: Map::default() }
    }
}

impl Default for Trie {
    fn default() -> Self {
        Self { lowest: Rank::MAX, nodes: vec![Node::new()], parts: vec![Vec::new()] }
    }
}

impl Trie {
    /// Adds a candidate. Ranks must come in ascending order.
    pub(super) fn insert(&mut self, shape: &Shape, rank: Rank) {
        let mut at = 0;
        self.lowest = self.lowest.min(rank);
        self.nodes[at].lowest = self.lowest;
        for segment in &shape.segments {
            at = self.child(at, segment);
            self.nodes[at].lowest = self.nodes[at].lowest.min(rank);
        }
        self.nodes[at].stops.push(Stop { rank, tail: Tail::of(&shape.end) });
    }

    fn child(&mut self, at: usize, segment: &Segment) -> usize {
        let (next, node) = (self.nodes.len() as u32, &mut self.nodes[at]);
        let child = match segment {
            Segment::Literal(text) => *node.literals.entry(text).or_insert(next),
            Segment::Capture { before, after, .. } if before.is_empty() && after.is_empty() => {
                node.any.get_or_insert(NonZeroU32::new(next).expect("the root is there already")).get()
            }
            Segment::Capture { before, after, .. } => {
                if node.parts == 0 {
                    node.parts = self.parts.len() as u32;
                    self.parts.push(Vec::new());
                }
                let parts = &mut self.parts[node.parts as usize];
                match parts.iter().find(|part| part.0 == *before && part.1 == *after) {
                    Some((_, _, child)) => *child,
                    None => {
                        parts.push((before.clone(), after.clone(), next));
                        next
                    }
                }
            }
        };
        if child == next {
            self.nodes.push(Node::new());
        }
        child as usize
    }

    /// Looks for the lowest rank below `limit` whose path matches and which `accept` takes; `limit` becomes that rank.
    ///
    /// An `accept` that takes none sees every rank below `limit` whose path matches.
    pub(super) fn walk(&self, path: &str, limit: &mut Rank, accept: &mut impl FnMut(Rank) -> bool) {
        if self.lowest >= *limit {
            return;
        }
        // What does not begin with `/` (`OPTIONS *`, `CONNECT host:1`) has no segments: only "any path" matches it.
        self.enter(0, path.strip_prefix('/'), limit, accept);
    }

    fn enter(&self, at: u32, rest: Option<&str>, limit: &mut Rank, accept: &mut impl FnMut(Rank) -> bool) {
        let node = &self.nodes[at as usize];
        if node.lowest >= *limit {
            return;
        }
        for stop in node.stops.as_slice() {
            if stop.rank >= *limit {
                break;
            }
            if stop.tail.takes(rest) && accept(stop.rank) {
                *limit = stop.rank;
                break;
            }
        }
        let Some(rest) = rest else { return };
        let (segment, rest) = first_segment(rest);
        if let Some(&child) = node.literals.get(segment) {
            self.enter(child, rest, limit, accept);
        }
        for (before, after, child) in &self.parts[node.parts as usize] {
            if between(segment, before, after).is_some() {
                self.enter(*child, rest, limit, accept);
            }
        }
        if let Some(child) = node.any.filter(|_| !segment.is_empty()) {
            self.enter(child.get(), rest, limit, accept);
        }
    }

    /// Shows ranks below `limit` whose path matches all that `shape` matches, until `show` has seen enough.
    ///
    /// Some that do may be missed; none is shown in error.
    pub(super) fn covering<F>(&self, shape: &Shape, limit: Rank, show: &mut F) -> ControlFlow<()>
    where
        F: FnMut(Rank) -> ControlFlow<()>,
    {
        self.cover(0, (&shape.segments, &shape.end), limit, show)
    }

    fn cover<F>(&self, at: u32, (segments, end): (&[Segment], &End), limit: Rank, show: &mut F) -> ControlFlow<()>
    where
        F: FnMut(Rank) -> ControlFlow<()>,
    {
        let node = &self.nodes[at as usize];
        if node.lowest >= limit {
            return ControlFlow::Continue(());
        }
        for stop in node.stops.as_slice().iter().take_while(|stop| stop.rank < limit) {
            let covers = match stop.tail {
                Tail::Any => true,
                Tail::None => segments.is_empty() && *end == End::Here,
                // A capture stands for at least one byte, and so does whatever follows a second slash.
                Tail::Some => match segments {
                    [] => matches!(end, End::Rest(_)),
                    [Segment::Literal(text)] => !text.is_empty() || matches!(end, End::Rest(_)),
                    [Segment::Capture { .. }] | [_, _, ..] => true,
                },
            };
            if covers {
                show(stop.rank)?;
            }
        }
        let Some((segment, segments)) = segments.split_first() else { return ControlFlow::Continue(()) };
        let rest = (segments, end);
        match segment {
            Segment::Literal(text) => {
                if let Some(&child) = node.literals.get(text) {
                    self.cover(child, rest, limit, show)?;
                }
                for (before, after, child) in &self.parts[node.parts as usize] {
                    if between(text, before, after).is_some() {
                        self.cover(*child, rest, limit, show)?;
                    }
                }
            }
            Segment::Capture { before, after, .. } => {
                for (wider_before, wider_after, child) in &self.parts[node.parts as usize] {
                    if before.starts_with(&**wider_before) && after.ends_with(&**wider_after) {
                        self.cover(*child, rest, limit, show)?;
                    }
                }
            }
        }
        let never_empty = !matches!(segment, Segment::Literal(text) if text.is_empty());
        if let Some(child) = node.any.filter(|_| never_empty) {
            self.cover(child.get(), rest, limit, show)?;
        }
        ControlFlow::Continue(())
    }
}

/// The text up to the next `/`, and what follows that, if there is one.
pub(super) fn first_segment(rest: &str) -> (&str, Option<&str>) {
    match rest.split_once('/') {
        Some((segment, rest)) => (segment, Some(rest)),
        None => (rest, None),
    }
}

/// What stands between fixed text, if the fixed text is there and something does.
pub(super) fn between<'a>(segment: &'a str, before: &str, after: &str) -> Option<&'a str> {
    segment.strip_prefix(before)?.strip_suffix(after).filter(|middle| !middle.is_empty())
}

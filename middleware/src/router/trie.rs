//! Which candidates' paths match: a trie with one node per segment.
//!
//! A stop says that a candidate's path ends at a node. Stops hold ranks, not candidates: a rank is the candidate's place
//! in the total order, so the best match is the lowest rank, and whatever lies above the best one found so far need not
//! be looked at. That is why a walk needs no sorting and no list of matches.

use std::collections::HashMap;
use std::ops::ControlFlow;

use super::path::{End, Segment, Shape};

/// A candidate's place in the total order; the lowest wins.
pub(super) type Rank = u32;

/// Paths of one host, and who matches them.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    /// The lowest rank of this node and everything below.
    lowest: Rank,
    /// The child that takes any segment but the empty one.
    any: Option<u32>,
    /// Ordered by rank.
    stops: Vec<Stop>,
    literals: HashMap<Box<str>, u32>,
    /// Children for segments with a capture between fixed text: `v{version}`.
    parts: Vec<(Box<str>, Box<str>, u32)>,
}

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
        Self { lowest: Rank::MAX, any: None, stops: Vec::new(), literals: HashMap::new(), parts: Vec::new() }
    }
}

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![Node::new()] }
    }
}

impl Trie {
    /// Adds a candidate. Ranks must come in ascending order.
    pub(super) fn insert(&mut self, shape: &Shape, rank: Rank) {
        let mut at = 0;
        self.nodes[at].lowest = self.nodes[at].lowest.min(rank);
        for segment in &shape.segments {
            at = self.child(at, segment);
            self.nodes[at].lowest = self.nodes[at].lowest.min(rank);
        }
        self.nodes[at].stops.push(Stop { rank, tail: Tail::of(&shape.end) });
    }

    fn child(&mut self, at: usize, segment: &Segment) -> usize {
        let (next, node) = (self.nodes.len() as u32, &mut self.nodes[at]);
        let child = match segment {
            Segment::Literal(text) => match node.literals.get(text) {
                Some(child) => *child,
                None => *node.literals.entry(text.clone()).or_insert(next),
            },
            Segment::Capture { before, after, .. } if before.is_empty() && after.is_empty() => {
                *node.any.get_or_insert(next)
            }
            Segment::Capture { before, after, .. } => {
                match node.parts.iter().find(|part| part.0 == *before && part.1 == *after) {
                    Some((_, _, child)) => *child,
                    None => {
                        node.parts.push((before.clone(), after.clone(), next));
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
        // What does not begin with `/` (`OPTIONS *`, `CONNECT host:1`) has no segments: only "any path" matches it.
        self.enter(0, path.strip_prefix('/'), limit, accept);
    }

    fn enter(&self, at: u32, rest: Option<&str>, limit: &mut Rank, accept: &mut impl FnMut(Rank) -> bool) {
        let node = &self.nodes[at as usize];
        if node.lowest >= *limit {
            return;
        }
        for stop in &node.stops {
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
        for (before, after, child) in &node.parts {
            if between(segment, before, after).is_some() {
                self.enter(*child, rest, limit, accept);
            }
        }
        if let Some(child) = node.any.filter(|_| !segment.is_empty()) {
            self.enter(child, rest, limit, accept);
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
        for stop in node.stops.iter().take_while(|stop| stop.rank < limit) {
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
                for (before, after, child) in &node.parts {
                    if between(text, before, after).is_some() {
                        self.cover(*child, rest, limit, show)?;
                    }
                }
            }
            Segment::Capture { before, after, .. } => {
                for (wider_before, wider_after, child) in &node.parts {
                    if before.starts_with(&**wider_before) && after.ends_with(&**wider_after) {
                        self.cover(*child, rest, limit, show)?;
                    }
                }
            }
        }
        let never_empty = !matches!(segment, Segment::Literal(text) if text.is_empty());
        if let Some(child) = node.any.filter(|_| never_empty) {
            self.cover(child, rest, limit, show)?;
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

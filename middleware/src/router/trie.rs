//! Which candidates' paths match: a trie with one node per segment.
//!
//! A stop says that a candidate's path ends at a node. Stops hold ranks, not candidates: a rank is the candidate's place
//! in the total order, so the best match is the lowest rank, and whatever lies above the best one found so far need not
//! be looked at. That is why a walk needs no sorting and no list of matches.

use std::num::NonZeroU32;
use std::ops::ControlFlow;

use super::hash::Text;
use super::links::Links;
use super::path::{End, Segment, Shape};
use crate::few::Few;

/// A candidate's place in the total order; the lowest wins.
pub(super) type Rank = u32;

/// Paths of all hosts, and who matches them: a tree for each host, all in one place.
#[derive(Debug)]
pub(super) struct Trie {
    /// The first has nothing below it, and is below nothing.
    nodes: Vec<Node>,
    /// Children for segments of fixed text, and for whole paths, which begin with the `/` that no segment holds.
    links: Links,
    /// Children for segments with a capture between fixed text, by [`Node::parts`]: `v{version}`. The first is empty.
    parts: Vec<Vec<(Box<str>, Box<str>, u32)>>,
}

/// Where the tree of a host begins, and what makes it needless to go there.
#[derive(Debug)]
pub(super) struct Root {
    at: u32,
    /// Whether whole paths lie below.
    whole: bool,
    /// The lowest rank below, whole paths aside.
    lowest: Rank,
}

/// One line of the processor's cache, and never parts of two.
#[derive(Debug)]
#[repr(align(64))]
struct Node {
    parent: u32,
    /// The lowest rank of this node and everything below, whole paths aside.
    lowest: Rank,
    /// The child that takes any segment but the empty one. A root is nobody's child.
    any: Option<NonZeroU32>,
    /// Which list of [`Trie::parts`] is this node's.
    parts: u32,
    /// What leads here from the parent, if that is fixed text.
    text: Text,
    literals: Literals,
    /// Ordered by rank.
    stops: Few<Stop>,
}

const _: () = assert!(size_of::<Node>() == 64);

/// A node's children for segments of fixed text.
#[derive(Debug, Clone, Copy)]
enum Literals {
    None,
    One(u32),
    /// In [`Trie::links`].
    Many,
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
    fn new(parent: u32, text: &str) -> Self {
        Self {
            parent,
            lowest: Rank::MAX,
            any: None,
            parts: 0,
            text: Text::from(text),
            literals: Literals::None,
            stops: Few::default(),
        }
    }

    /// Looks for the lowest rank below `limit` that stops here; what follows is `rest`.
    fn stop(&self, rest: Option<&str>, limit: &mut Rank, accept: &mut impl FnMut(Rank) -> bool) {
        let mut below = self.stops.as_slice().iter().take_while(|stop| stop.rank < *limit);
        if let Some(stop) = below.find(|stop| stop.tail.takes(rest) && accept(stop.rank)) {
            *limit = stop.rank;
        }
    }
}

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![Node::new(0, "")], links: Links::default(), parts: vec![Vec::new()] }
    }
}

impl Default for Root {
    /// Of a host of which nothing is said.
    fn default() -> Self {
        Self { at: 0, whole: false, lowest: Rank::MAX }
    }
}

impl Trie {
    /// Adds a candidate. Ranks must come in ascending order.
    pub(super) fn insert(&mut self, root: &mut Root, shape: &Shape, rank: Rank) {
        if root.at == 0 {
            root.at = self.add(0, "");
        }
        let mut at = root.at;
        match shape.only_path() {
            Some(path) => {
                root.whole = true;
                at = self.linked(at, &path).unwrap_or_else(|| self.link(at, &path));
            }
            None => {
                root.lowest = root.lowest.min(rank);
                for segment in &shape.segments {
                    self.lower(at, rank);
                    at = self.child(at, segment);
                }
            }
        }
        self.lower(at, rank);
        self.nodes[at as usize].stops.push(Stop { rank, tail: Tail::of(&shape.end) });
    }

    fn lower(&mut self, at: u32, rank: Rank) {
        let node = &mut self.nodes[at as usize];
        node.lowest = node.lowest.min(rank);
    }

    fn add(&mut self, parent: u32, text: &str) -> u32 {
        self.nodes.push(Node::new(parent, text));
        self.nodes.len() as u32 - 1
    }

    fn link(&mut self, parent: u32, text: &str) -> u32 {
        let child = self.add(parent, text);
        self.links.insert(parent, text, child);
        child
    }

    fn linked(&self, parent: u32, text: &str) -> Option<u32> {
        self.links.find(parent, text, |child| {
            let node = &self.nodes[child as usize];
            node.parent == parent && node.text.is(text)
        })
    }

    /// The child for a segment of fixed text.
    fn literal(&self, at: u32, segment: &str) -> Option<u32> {
        match self.nodes[at as usize].literals {
            Literals::None => None,
            Literals::One(child) => self.nodes[child as usize].text.is(segment).then_some(child),
            Literals::Many => self.linked(at, segment),
        }
    }

    /// The child for a segment, added if there is none.
    fn child(&mut self, at: u32, segment: &Segment) -> u32 {
        let index = at as usize;
        match segment {
            Segment::Literal(text) => self.literal(at, text).unwrap_or_else(|| {
                let child = self.link(at, text);
                let literals = &mut self.nodes[index].literals;
                *literals = if let Literals::None = literals { Literals::One(child) } else { Literals::Many };
                child
            }),
            Segment::Capture { before, after, .. } if before.is_empty() && after.is_empty() => {
                let child = self.nodes[index]
                    .any
                    .unwrap_or_else(|| NonZeroU32::new(self.add(at, "")).expect("the first node was there before"));
                self.nodes[index].any = Some(child);
                child.get()
            }
            Segment::Capture { before, after, .. } => {
                if self.nodes[index].parts == 0 {
                    self.nodes[index].parts = self.parts.len() as u32;
                    self.parts.push(Vec::new());
                }
                let parts = self.nodes[index].parts as usize;
                if let Some((.., child)) = self.parts[parts].iter().find(|part| part.0 == *before && part.1 == *after) {
                    return *child;
                }
                let child = self.add(at, "");
                self.parts[parts].push((before.clone(), after.clone(), child));
                child
            }
        }
    }

    /// Looks for the lowest rank below `limit` whose path matches and which `accept` takes; `limit` becomes that rank.
    ///
    /// An `accept` that takes none sees every rank below `limit` whose path matches.
    pub(super) fn walk(&self, root: &Root, path: &str, limit: &mut Rank, accept: &mut impl FnMut(Rank) -> bool) {
        // What does not begin with `/` (`OPTIONS *`, `CONNECT host:1`) has no segments: only "any path" matches it.
        let rest = path.strip_prefix('/');
        // Whole paths need no walk, and usually win without one.
        if root.whole
            && rest.is_some()
            && let Some(at) = self.linked(root.at, path)
        {
            self.nodes[at as usize].stop(None, limit, accept);
        }
        if root.lowest < *limit {
            self.enter(root.at, rest, limit, accept);
        }
    }

    fn enter(&self, at: u32, rest: Option<&str>, limit: &mut Rank, accept: &mut impl FnMut(Rank) -> bool) {
        let node = &self.nodes[at as usize];
        if node.lowest >= *limit {
            return;
        }
        node.stop(rest, limit, accept);
        let Some(rest) = rest else { return };
        let (segment, rest) = first_segment(rest);
        if let Some(child) = self.literal(at, segment) {
            self.enter(child, rest, limit, accept);
        }
        if node.parts != 0 {
            for (before, after, child) in &self.parts[node.parts as usize] {
                if between(segment, before, after).is_some() {
                    self.enter(*child, rest, limit, accept);
                }
            }
        }
        if let Some(child) = node.any.filter(|_| !segment.is_empty()) {
            self.enter(child.get(), rest, limit, accept);
        }
    }

    /// Shows ranks below `limit` whose path matches all that `shape` matches, until `show` has seen enough.
    ///
    /// Some that do may be missed; none is shown in error.
    pub(super) fn covering<F>(&self, root: &Root, shape: &Shape, limit: Rank, show: &mut F) -> ControlFlow<()>
    where
        F: FnMut(Rank) -> ControlFlow<()>,
    {
        if let Some(path) = shape.only_path()
            && let Some(at) = self.linked(root.at, &path)
        {
            let stops = self.nodes[at as usize].stops.as_slice().iter();
            stops.map(|stop| stop.rank).take_while(|rank| *rank < limit).try_for_each(&mut *show)?;
        }
        self.cover(root.at, (&shape.segments, &shape.end), limit, show)
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
                if let Some(child) = self.literal(at, text) {
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
    // Byte by byte: segments are short, and what searches long text well takes three times as long to begin.
    match rest.bytes().position(|byte| byte == b'/') {
        Some(slash) => (&rest[..slash], Some(&rest[slash + 1..])),
        None => (rest, None),
    }
}

/// What stands between fixed text, if the fixed text is there and something does.
pub(super) fn between<'a>(segment: &'a str, before: &str, after: &str) -> Option<&'a str> {
    segment.strip_prefix(before)?.strip_suffix(after).filter(|middle| !middle.is_empty())
}

//! Which of several matching routes wins: one total order, on one page.

use std::cmp::Reverse;
use std::fmt;

/// Where a candidate stands among those of the same host. The least wins.
///
/// The fields are compared in the order they are written in, and that *is* the order: there is no other place that
/// decides between two routes. The host comes before all of them, see [`HostMap`](super::HostMap).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    /// Higher first.
    pub(super) priority: Reverse<i32>,
    pub(super) path: PathStanding,
    /// One that names methods first.
    pub(super) method: Reverse<bool>,
    /// More first.
    pub(super) headers: Reverse<usize>,
    /// More first.
    pub(super) query: Reverse<usize>,
    /// The route's place in the file, then the place in its list of matches.
    pub(super) place: (usize, usize),
}

/// How a path was written decides before how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PathStanding {
    /// Only one path matches.
    Exact,
    /// A regex; the first in the file wins.
    Regex { place: (usize, usize) },
    /// A pattern, a prefix, or no path at all. The most literal segments win.
    Pattern { literals: Reverse<usize> },
}

/// What decided between two routes that both match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Criterion {
    /// Exact hosts come before wildcards, longer wildcards before shorter ones, any of them before no host.
    Host,
    /// The higher `priority`.
    Priority,
    /// Exact paths come before regexes, regexes before patterns and prefixes.
    PathKind,
    /// Among regexes, the first in the file.
    RegexOrder,
    /// Among patterns and prefixes, the one with the most literal segments.
    LiteralSegments,
    /// A route that names methods comes before one that does not.
    Method,
    /// More header matches.
    Headers,
    /// More query matches.
    Query,
    /// The first in the file.
    FileOrder,
}

impl Standing {
    /// What decides between two candidates of the same host.
    pub(super) fn decided_by(&self, other: &Self) -> Criterion {
        use PathStanding::{Exact, Pattern, Regex};
        if self.priority != other.priority {
            return Criterion::Priority;
        }
        match (&self.path, &other.path) {
            (Exact, Exact) => {}
            (Regex { .. }, Regex { .. }) => return Criterion::RegexOrder,
            (Pattern { literals: one }, Pattern { literals: other }) if one == other => {}
            (Pattern { .. }, Pattern { .. }) => return Criterion::LiteralSegments,
            _ => return Criterion::PathKind,
        }
        if self.method != other.method {
            Criterion::Method
        } else if self.headers != other.headers {
            Criterion::Headers
        } else if self.query != other.query {
            Criterion::Query
        } else {
            Criterion::FileOrder
        }
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Criterion::Host => "the winner's host is more specific",
            Criterion::Priority => "the winner's priority is higher",
            Criterion::PathKind => "exact paths win over regexes, and those over patterns and prefixes",
            Criterion::RegexOrder => "the winner's regex comes first in the file",
            Criterion::LiteralSegments => "the winner's path has more literal segments",
            Criterion::Method => "the winner names methods",
            Criterion::Headers => "the winner matches more headers",
            Criterion::Query => "the winner matches more of the query",
            Criterion::FileOrder => "the winner comes first in the file",
        })
    }
}

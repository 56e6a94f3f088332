//! Routes that never win, and routes with the same match.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};

use portcullis_config::Level;
use portcullis_config::units::HostPattern;

use super::{Claim, Finding, Realm};
use crate::router::Criterion;
use crate::router::index::Index;
use crate::router::path::Shape;
use crate::router::trie::Rank;

/// How many candidates are compared with one. More of them share a path only in files that a program wrote.
const MOST: usize = 200;

/// What becomes of each route, over all listeners.
pub(super) struct Shadows<'a> {
    claims: &'a [Claim<'a>],
    fates: Vec<Fate>,
}

#[derive(Default, Clone)]
struct Fate {
    /// It has a request of its own somewhere.
    wins: bool,
    /// Who takes its requests, and why that one wins.
    loses_to: Option<(usize, Criterion)>,
    twin: Option<Twin>,
}

/// A route with the same match that comes first.
#[derive(Clone)]
struct Twin {
    route: usize,
    /// This route's match, and the twin's.
    alternatives: (usize, usize),
    host: HostPattern,
}

/// Equal for two candidates that match the same requests of one host.
#[derive(PartialEq, Eq, Hash)]
struct Same<'a> {
    host: &'a HostPattern,
    shape: Shape,
    predicates: String,
}

impl<'a> Shadows<'a> {
    pub(super) fn new(claims: &'a [Claim<'a>]) -> Self {
        Self { claims, fates: vec![Fate::default(); claims.len()] }
    }

    pub(super) fn survey(&mut self, realm: &Realm<'_>) {
        let index = &realm.index;
        let mut first: HashMap<Same<'_>, Rank> = HashMap::with_capacity(index.candidates.len());
        for (candidate, rank) in index.candidates.iter().zip(0..) {
            let detail = index.detail(rank);
            let fate = &mut self.fates[candidate.route as usize];
            for host in detail.hosts.iter().filter(|host| realm.lets_in(host)) {
                let same = Same { host, shape: detail.shape.nameless(), predicates: candidate.predicates.canonical() };
                let earlier = *first.entry(same).or_insert(rank);
                let cover = if earlier == rank { cover(index, rank, host) } else { Some(earlier) };
                let Some(cover) = cover else {
                    fate.wins = true;
                    continue;
                };
                let (winner, decided_by) =
                    (index.candidate(cover), index.detail(cover).standing.decided_by(&detail.standing));
                if winner.route == candidate.route {
                    continue;
                }
                fate.loses_to.get_or_insert((winner.route as usize, decided_by));
                // Who gave them different priorities has seen that they overlap, and decided.
                if earlier != rank && decided_by != Criterion::Priority {
                    fate.twin.get_or_insert_with(|| Twin {
                        route: winner.route as usize,
                        alternatives: (candidate.alternative as usize, winner.alternative as usize),
                        host: host.clone(),
                    });
                }
            }
        }
    }

    pub(super) fn findings(self) -> impl Iterator<Item = Finding> {
        let claims = self.claims;
        let fates = self
            .fates
            .into_iter()
            .zip(claims)
            .filter(|(_, claim)| !claim.allow_shadowed && !claim.listeners.is_empty());
        fates.filter_map(move |(fate, claim)| match fate {
            Fate { twin: Some(twin), .. } => Some(same_match(claims, claim, &twin)),
            Fate { wins: true, .. } => None,
            Fate { loses_to: Some((winner, criterion)), .. } => Some(never_wins(&claims[winner], claim, criterion)),
            Fate { loses_to: None, .. } => Some(never_asked(claim)),
        })
    }
}

/// A candidate of this host that comes first and matches all that this one matches.
fn cover(index: &Index<()>, rank: Rank, host: &HostPattern) -> Option<Rank> {
    let (candidate, detail) = (index.candidate(rank), index.detail(rank));
    let only_path = detail.shape.only_path();
    let covers = |other: Rank| {
        let other = index.candidate(other);
        let path = match (other.predicates.regex(), candidate.predicates.regex()) {
            (None, _) => true,
            (Some(other), Some(regex)) => other == regex,
            (Some(other), None) => only_path.as_ref().is_some_and(|path| other.is_match(path)),
        };
        path && other.predicates.cover(&candidate.predicates)
    };
    let (mut found, mut seen) = (None, 0);
    let _ = index.paths.covering(index.hosts.get(host)?, &detail.shape, rank, &mut |other| {
        seen += 1;
        if covers(other) {
            found = Some(other);
        }
        if found.is_some() || seen == MOST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    found
}

/// Where a route says what it matches.
fn match_span(claim: &Claim<'_>, alternative: usize) -> Range<usize> {
    match claim.matches.get(alternative) {
        Some(matching) if !matching.span.is_empty() => matching.span.clone(),
        _ => claim.span.clone(),
    }
}

fn same_match(claims: &[Claim<'_>], claim: &Claim<'_>, twin: &Twin) -> Finding {
    let (other, (mine, others)) = (&claims[twin.route], twin.alternatives);
    let host = match &twin.host {
        HostPattern::Any => String::new(),
        host => format!(" on host `{host}`"),
    };
    Finding {
        level: Level::Error,
        span: match_span(claim, mine),
        sentence: format!("route `{}` has the same match as route `{}`{host}", claim.label, other.label),
        other: Some((
            match_span(other, others),
            format!("route `{}` comes first and takes these requests", other.label),
        )),
        help: "match something that tells them apart, or remove one; `allow_shadowed = true` accepts it".to_owned(),
    }
}

fn never_wins(winner: &Claim<'_>, claim: &Claim<'_>, criterion: Criterion) -> Finding {
    Finding {
        level: Level::Error,
        span: match_span(claim, 0),
        sentence: format!("route `{}` never wins: route `{}` takes its requests", claim.label, winner.label),
        other: Some((match_span(winner, 0), format!("takes them first: {criterion}"))),
        help: match criterion {
            Criterion::FileOrder => format!("write it before route `{}`, or", winner.label),
            _ => "give it a higher `priority`, or".to_owned(),
        } + " remove it; `allow_shadowed = true` accepts it",
    }
}

fn never_asked(claim: &Claim<'_>) -> Finding {
    Finding {
        level: Level::Error,
        span: match_span(claim, 0),
        sentence: format!("route `{}` never wins: no listener of it takes requests for its hosts", claim.label),
        other: None,
        help: "add the host to a listener's `hosts`, or remove the route; `allow_shadowed = true` accepts it"
            .to_owned(),
    }
}

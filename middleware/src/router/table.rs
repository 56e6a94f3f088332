//! The routes of one listener, compiled, and the question they answer: which of them takes this request?

use std::sync::Arc;

use http::HeaderValue;
use http::header::ALLOW;
use portcullis_config::{Match, RoutePaths};

use super::Fault;
use super::captures::Captures;
use super::index::{Candidate, Index, Rule};
use super::predicate::Facts;
use super::trie::Rank;
use crate::exchange::client_unknown;
use crate::{Cause, MatchedRoute, Next, Rejection, Request, RouteInfo};

/// A route on its way into a [`Table`], and in it.
#[derive(Debug)]
pub struct Entry {
    /// Its name and place.
    pub info: Arc<RouteInfo>,
    /// What it matches, any of them; none is a match of everything.
    pub matches: Vec<Match>,
    /// Its `priority`.
    pub priority: i32,
    /// Its position in the file.
    pub order: usize,
    /// Its chain, with what answers at the end.
    pub answer: Next,
}

/// What a request gets of the route that it wins.
#[derive(Debug)]
pub(super) struct Goal {
    info: Arc<RouteInfo>,
    answer: Next,
}

const _: () = assert!(size_of::<Candidate<Goal>>() == 64);

/// The compiled routes of one listener.
#[derive(Debug, Default)]
pub struct Table {
    pub(super) entries: Vec<Entry>,
    pub(super) index: Index<Goal>,
    /// What some of the routes say about paths, by their place among the entries.
    paths: Vec<(usize, RoutePaths)>,
}

/// The route that wins a request.
#[derive(Debug)]
pub struct Hit<'a> {
    /// The route.
    pub entry: &'a Entry,
    /// Its chain, with what answers at the end.
    pub answer: &'a Next,
    /// Which of its matches matched, from 0.
    pub alternative: usize,
    /// What the rest of the chain may know about the match.
    pub matched: MatchedRoute,
}

/// No route takes the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// None matches.
    NoRoute,
    /// Only the method is wrong; with one of these a route would match.
    MethodNotAllowed(HeaderValue),
    /// This route decides, which matches by the client's address, and that address is unknown.
    ///
    /// Another one must not have the request instead: it may be that this one is there to keep some clients from it.
    ClientUnknown(Arc<RouteInfo>),
}

impl From<Miss> for Rejection {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::NoRoute => Rejection::new(Cause::NoRoute),
            Miss::MethodNotAllowed(allow) => Rejection::new(Cause::MethodNotAllowed).header(ALLOW, allow),
            Miss::ClientUnknown(route) => {
                client_unknown().note(format!("route `{}`: the client has no address", route.name))
            }
        }
    }
}

impl Table {
    /// Compiles routes. Paths that cannot be read are faults, all of them at once.
    pub fn build(entries: Vec<Entry>) -> Result<Self, Vec<Fault>> {
        let anything = Match::default();
        let rules = entries.iter().enumerate().flat_map(|(route, entry)| {
            let (priority, order) = (entry.priority, entry.order);
            alternatives(&entry.matches, &anything).map(move |(alternative, matching)| Rule {
                goal: Goal { info: entry.info.clone(), answer: entry.answer.clone() },
                route,
                alternative,
                matching,
                priority,
                order,
            })
        });
        let index = Index::build(rules)?;
        Ok(Self { entries, index, paths: Vec::new() })
    }

    /// The same routes with what they say about paths, in the order they were given.
    #[must_use]
    pub fn with_paths(mut self, paths: impl IntoIterator<Item = RoutePaths>) -> Self {
        let said = paths.into_iter().enumerate().filter(|(_, paths)| *paths != RoutePaths::default());
        self.paths = said.collect();
        self
    }

    /// What its routes say about paths, those that say something.
    pub fn paths(&self) -> impl Iterator<Item = RoutePaths> {
        self.paths.iter().map(|(_, paths)| *paths)
    }

    pub(super) fn paths_of(&self, entry: &Entry) -> RoutePaths {
        let said = self.paths.iter().find(|(index, _)| std::ptr::eq(&self.entries[*index], entry));
        said.map(|(_, paths)| *paths).unwrap_or_default()
    }

    /// The routes, in the order they were given.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The route that takes a request.
    pub fn find(&self, request: &Request) -> Result<Hit<'_>, Miss> {
        let facts = Facts::of(request);
        let rank = self.winner(&facts)?;
        let candidate = self.index.candidate(rank);
        let path = candidate.parts.as_ref().zip(request.uri().path_and_query());
        let captures = path.map(|(parts, path)| Captures::new(parts, path)).unwrap_or_default();
        let prefix = if facts.path.starts_with('/') { candidate.prefix as usize } else { 0 };
        let matched = MatchedRoute { route: candidate.goal.info.clone(), prefix, captures };
        let (entry, answer) = (self.entry(candidate), &candidate.goal.answer);
        Ok(Hit { entry, answer, alternative: candidate.alternative as usize, matched })
    }

    /// The route that would take a request if this were its path.
    pub(super) fn entry_as(&self, request: &Request, path: &str) -> Result<&Entry, Miss> {
        let rank = self.winner(&Facts::at(request, path))?;
        Ok(self.entry(self.index.candidate(rank)))
    }

    fn winner(&self, facts: &Facts<'_>) -> Result<Rank, Miss> {
        let rank = self.index.find(facts)?;
        if self.index.is_decided(rank, facts) {
            return Ok(rank);
        }
        Err(Miss::ClientUnknown(self.index.candidate(rank).goal.info.clone()))
    }

    pub(super) fn entry(&self, candidate: &Candidate<Goal>) -> &Entry {
        &self.entries[candidate.route as usize]
    }
}

/// A route's matches with their numbers; one of everything if it has none.
pub(super) fn alternatives<'a>(matches: &'a [Match], anything: &'a Match) -> impl Iterator<Item = (usize, &'a Match)> {
    let matches = if matches.is_empty() { std::slice::from_ref(anything) } else { matches };
    matches.iter().enumerate()
}

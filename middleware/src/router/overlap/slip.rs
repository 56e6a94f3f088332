//! Requests that slip past a guard, because a sibling route sends them to the same service without it.
//!
//! Nothing is argued here, it is tried: requests close to those of a guarded route are made and routed, and the one that
//! arrives at the same service unguarded is the warning's example. What counts is the path that the service gets: where a
//! sibling rewrites paths, the request is looked for of which it makes the guarded one.

use std::collections::HashMap;

use axum::body::Body;
use http::header::HOST;
use http::{HeaderValue, Method};
use portcullis_config::Level;
use portcullis_config::one_form::{Left, example};
use portcullis_config::units::HostPattern;

use super::{Claim, Destination, Finding, Realm};
use crate::Request;
use crate::new_path::{NewPath, join};
use crate::router::captures::Captures;
use crate::router::path::End;
use crate::router::predicate::Facts;
use crate::router::trie::Rank;

/// How many routes with a service out of the path are tried; more of them say the same.
const MOST: usize = 8;
/// How many ways to a service that rewrite the path are tried, for each guarded route.
const MOST_REWRITING: usize = 32;

pub(super) fn survey(realm: &Realm<'_>, findings: &mut Vec<Finding>) {
    let siblings = Siblings::of(realm);
    let mut warned = None;
    let mut ranks: Vec<Rank> = (0..realm.index.candidates.len() as Rank).collect();
    ranks.sort_by_key(|rank| realm.index.candidate(*rank).route);
    for rank in ranks {
        let route = realm.index.candidate(rank).route as usize;
        if warned == Some(route) || !siblings.leave_a_gap(&realm.claims[route]) {
            continue;
        }
        let guarded = Guarded { realm, route, rank, siblings: &siblings };
        if let Some(finding) = guarded.slip() {
            findings.push(finding);
            warned = Some(route);
        }
    }
}

/// Which guards stand before which service, without a look at any match.
struct Siblings<'a> {
    /// Per service, each different set of guards on the way to it.
    guards: HashMap<&'a str, Vec<&'a [String]>>,
    /// The first candidates of routes whose service comes out of the path.
    dynamic: Vec<Rank>,
    dynamic_guards: Vec<&'a [String]>,
    /// Per service, the first candidates that rewrite paths on the way to it.
    rewriting: HashMap<&'a str, Vec<(Rank, &'a Destination<'a>)>>,
}

impl<'a> Siblings<'a> {
    fn of(realm: &Realm<'a>) -> Self {
        let mut siblings =
            Self { guards: HashMap::new(), dynamic: Vec::new(), dynamic_guards: Vec::new(), rewriting: HashMap::new() };
        for claim in realm.routes.iter().map(|route| &realm.claims[*route]) {
            for destination in &claim.services {
                let sets = match destination.is_dynamic() {
                    true => &mut siblings.dynamic_guards,
                    false => siblings.guards.entry(&destination.service).or_default(),
                };
                if !sets.contains(&claim.guards.as_slice()) {
                    sets.push(&claim.guards);
                }
            }
        }
        let ranks = 0..realm.index.candidates.len() as Rank;
        let dynamic = |rank: &Rank| realm.claim(*rank).services.iter().any(Destination::is_dynamic);
        siblings.dynamic.extend(ranks.clone().filter(dynamic).take(MOST));
        for rank in ranks {
            for destination in realm.claim(rank).services.iter().filter(|it| !it.rewrites.is_empty()) {
                let ways = siblings.rewriting.entry(&destination.service).or_default();
                if ways.len() < MOST_REWRITING {
                    ways.push((rank, destination));
                }
            }
        }
        siblings
    }

    /// Whether some route may reach a service of this one and lacks a guard of it.
    fn leave_a_gap(&self, claim: &Claim<'_>) -> bool {
        let sets = claim.services.iter().filter_map(|it| self.guards.get(it.service.as_str())).flatten();
        sets.chain(&self.dynamic_guards).any(|guards| missing(claim, guards).is_some())
    }
}

/// The first guard of a route that is not among these.
fn missing<'a>(claim: &'a Claim<'_>, guards: &[String]) -> Option<&'a str> {
    claim.guards.iter().find(|guard| !guards.contains(guard)).map(String::as_str)
}

/// A guarded route, seen by one of its candidates.
struct Guarded<'a> {
    realm: &'a Realm<'a>,
    route: usize,
    rank: Rank,
    siblings: &'a Siblings<'a>,
}

/// A request to try.
struct Probe {
    method: Method,
    host: String,
    path: String,
    /// It is the route's own path: only a route with a wider path is a gap, one with the same path is meant.
    own_path: bool,
    /// The path that the service must get, where a guarded request arrives in disguise.
    arrives_as: Option<String>,
}

impl Guarded<'_> {
    fn slip(&self) -> Option<Finding> {
        self.probes().into_iter().find_map(|probe| self.try_out(&probe))
    }

    fn probes(&self) -> Vec<Probe> {
        let (candidate, detail) = (self.realm.index.candidate(self.rank), self.realm.index.detail(self.rank));
        let host = self.host(self.rank).unwrap_or_else(|| self.any_host());
        let method = candidate.predicates.methods().next().cloned().unwrap_or(Method::GET);
        let mut probes = Vec::new();
        let mut probe = |method: &Method, host: &str, path: String, own_path| {
            let (method, host) = (method.clone(), host.to_owned());
            probes.push(Probe { method, host, path, own_path, arrives_as: None });
        };
        // For an expression too large to find an example, only the ways around the path are tried.
        let path = self.example(self.rank, |_| "x".to_owned());
        if let Some(path) = path.clone() {
            let end = if candidate.predicates.regex().is_some() { &End::Here } else { &detail.shape.end };
            for near in near(end, &path) {
                probe(&method, &host, near, false);
            }
            probe(&method, &host, path.clone(), true);
            if let Some(other) = [Method::GET, Method::POST].iter().find(|method| !candidate.predicates.take(method)) {
                probe(other, &host, path.clone(), true);
            }
            if !detail.hosts.contains(&HostPattern::Any) && self.realm.lets_in_all() {
                probe(&method, "elsewhere.invalid", path, true);
            }
        }
        let services = || self.claim().services.iter().filter(|it| !it.is_dynamic());
        for rank in &self.siblings.dynamic {
            for destination in services() {
                let path = self.realm.index.detail(*rank).shape.example(|name| match self.names_service(*rank, name) {
                    true => destination.service.clone(),
                    false => "x".to_owned(),
                });
                probe(&method, &host, path, false);
            }
        }
        if let Some(path) = path {
            probes.extend(services().flat_map(|destination| self.disguises(destination, &path, &method, &host)));
        }
        probes
    }

    /// Requests of other routes that arrive at the service as this one does.
    fn disguises(&self, destination: &Destination<'_>, path: &str, method: &Method, host: &str) -> Vec<Probe> {
        let Some(arrived) = self.lead(self.rank, destination, path) else { return Vec::new() };
        let disguise = |method: &Method, host: &str, path: String| Probe {
            method: method.clone(),
            host: host.to_owned(),
            path,
            own_path: false,
            arrives_as: Some(arrived.clone()),
        };
        let mut probes = Vec::new();
        if arrived != path {
            probes.push(disguise(method, host, arrived.clone()));
        }
        let ways = self.siblings.rewriting.get(destination.service.as_str()).into_iter().flatten();
        let ways = ways.filter(|(rank, _)| missing(self.claim(), &self.realm.claim(*rank).guards).is_some());
        for (rank, other) in ways {
            let Some(path) = self.source(*rank, other, &arrived) else { continue };
            let host = self.host(*rank).unwrap_or_else(|| host.to_owned());
            let taken = &self.realm.index.candidate(*rank).predicates;
            let own = &self.realm.index.candidate(self.rank).predicates;
            let both = [method].into_iter().chain(taken.methods()).find(|one| taken.take(one) && own.take(one));
            probes.extend(both.map(|method| disguise(method, &host, path)));
        }
        probes
    }

    /// A path that a candidate matches.
    fn example(&self, rank: Rank, value: impl Fn(&str) -> String) -> Option<String> {
        match self.realm.index.candidate(rank).predicates.regex() {
            None => Some(self.realm.index.detail(rank).shape.example(value)),
            Some(regex) => example(regex, Left::default()).unwrap_or_default(),
        }
    }

    /// What becomes of a path that a candidate matches on its way to a service.
    fn lead(&self, rank: Rank, destination: &Destination<'_>, path: &str) -> Option<String> {
        let candidate = self.realm.index.candidate(rank);
        let captures = match &candidate.parts {
            Some(parts) => Captures::new(parts, &path.parse().ok()?),
            None => Captures::default(),
        };
        let (mut path, mut prefix) = (path.to_owned(), candidate.prefix as usize);
        for new in &destination.rewrites {
            (path, prefix) = match new {
                NewPath::Whole(template) => (template.fill(|name| captures.get(name)).ok()?, 0),
                NewPath::Prefix(prefix_now) => (join(prefix_now, path.get(prefix..)?), prefix_now.len()),
            };
        }
        Some(path)
    }

    /// The other way: what a candidate might make this path of. That it does is tried out.
    fn source(&self, rank: Rank, destination: &Destination<'_>, arrived: &str) -> Option<String> {
        let (mut rest, mut behind_prefix) = (arrived, false);
        for new in destination.rewrites.iter().rev() {
            match new {
                NewPath::Whole(template) => {
                    let solved = template.solve(rest)?;
                    let value =
                        |name: &str| solved.iter().find(|(key, _)| *key == name).map_or("x", |(_, value)| value);
                    return self.example(rank, |name| value(name).to_owned());
                }
                // What it puts there, the one behind it replaces.
                NewPath::Prefix(_) if behind_prefix => {}
                NewPath::Prefix(prefix) => {
                    rest = rest.strip_prefix(&**prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
                    behind_prefix = true;
                }
            }
        }
        let example = self.example(rank, |_| "x".to_owned())?;
        let prefix = example.get(..self.realm.index.candidate(rank).prefix as usize)?;
        Some(if prefix.is_empty() && rest.is_empty() { "/".to_owned() } else { format!("{prefix}{rest}") })
    }

    /// A host that a candidate names.
    fn host(&self, rank: Rank) -> Option<String> {
        match self.realm.index.detail(rank).hosts.first()? {
            HostPattern::Exact(host) => Some(host.clone()),
            HostPattern::Wildcard(parent) => Some(format!("www.{parent}")),
            HostPattern::Any => None,
        }
    }

    fn claim(&self) -> &Claim<'_> {
        &self.realm.claims[self.route]
    }

    /// A host that arrives here, for routes that want none.
    fn any_host(&self) -> String {
        match self.realm.hosts.iter().find_map(|hosts| hosts.first()) {
            Some(HostPattern::Exact(host)) => host.clone(),
            Some(HostPattern::Wildcard(parent)) => format!("www.{parent}"),
            _ => String::new(),
        }
    }

    fn has_the_same_path(&self, rank: Rank) -> bool {
        let index = &self.realm.index;
        let path = |rank| (index.detail(rank).shape.nameless(), index.candidate(rank).predicates.regex());
        path(rank) == path(self.rank)
    }

    /// Whether a capture of this candidate's path is the service's name.
    fn names_service(&self, rank: Rank, capture: &str) -> bool {
        self.realm.claim(rank).services.iter().any(|it| it.service == format!("{{{capture}}}"))
    }

    fn try_out(&self, probe: &Probe) -> Option<Finding> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = probe.method.clone();
        *request.uri_mut() = probe.path.parse().ok()?;
        if !probe.host.is_empty() {
            request.headers_mut().insert(HOST, HeaderValue::from_str(&probe.host).ok()?);
        }
        let index = &self.realm.index;
        let facts = Facts::of(&request);
        let rank = index.find(&facts).ok().filter(|rank| index.is_decided(*rank, &facts))?;
        let other = self.realm.claim(rank);
        if probe.own_path && self.has_the_same_path(rank) {
            return None;
        }
        let guard = missing(self.claim(), &other.guards)?;
        let captured = index.detail(rank).shape.capture(&probe.path);
        let reached = |destination: &Destination<'_>| match destination.capture() {
            Some(name) => captured.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()),
            None => Some(destination.service.clone()),
        };
        let arrives = |destination: &&Destination<'_>| match &probe.arrives_as {
            Some(path) => self.lead(rank, destination, &probe.path).as_ref() == Some(path),
            None => true,
        };
        let guards = |service: &String| self.claim().services.iter().any(|it| it.service == *service);
        let service = other.services.iter().filter(arrives).filter_map(reached).find(guards)?;
        let disguise = probe.arrives_as.as_ref().filter(|path| **path != probe.path);
        let disguise = disguise.map(|path| format!(" as `{path}`")).unwrap_or_default();
        let (method, path, label) = (&probe.method, &probe.path, &self.claim().label);
        let host = if probe.host.is_empty() { String::new() } else { format!("http://{}", probe.host) };
        Some(Finding {
            level: Level::Warning,
            span: self.claim().span.clone(),
            sentence: format!(
                "`{method} {host}{path}` slips past `{guard}`, which guards `{service}` on route `{label}`"
            ),
            other: Some((
                other.span.clone(),
                format!("route `{}` takes it, and sends it to `{service}`{disguise} without `{guard}`", other.label),
            )),
            help: match &probe.arrives_as {
                None => format!(
                    "list `{guard}` in the chain of route `{}` too, or let route `{label}` match more",
                    other.label
                ),
                Some(_) => format!("list `{guard}` in the chain of route `{}` too", other.label),
            },
        })
    }
}

/// Paths that a service may well take for the same as one that a route matches, though the route does not.
fn near(end: &End, path: &str) -> Vec<String> {
    match end {
        End::Prefix => Vec::new(),
        End::Rest(_) => {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            vec![format!("{parent}/"), if parent.is_empty() { "/".to_owned() } else { parent.to_owned() }]
        }
        End::Here if path == "/" => Vec::new(),
        End::Here => match path.strip_suffix('/') {
            Some(bare) => vec![bare.to_owned(), format!("{path}x")],
            None => vec![format!("{path}/"), format!("{path}/x")],
        },
    }
}

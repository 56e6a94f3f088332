//! Requests that slip past a guard, because a sibling route sends them to the same service without it.
//!
//! Nothing is argued here, it is tried: requests close to those of a guarded route are made and routed, and the one that
//! arrives at the same service unguarded is the warning's example.

use std::collections::HashMap;

use axum::body::Body;
use http::header::HOST;
use http::{HeaderValue, Method};
use portcullis_config::Level;
use portcullis_config::one_form::{Left, example};
use portcullis_config::units::HostPattern;

use super::{Claim, Finding, Realm};
use crate::Request;
use crate::router::path::End;
use crate::router::predicate::Facts;
use crate::router::trie::Rank;

/// How many routes with a service out of the path are tried; more of them say the same.
const MOST: usize = 8;

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
        let guarded = Guarded { realm, route, rank, dynamic: &siblings.dynamic };
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
}

impl<'a> Siblings<'a> {
    fn of(realm: &Realm<'a>) -> Self {
        let mut siblings = Self { guards: HashMap::new(), dynamic: Vec::new(), dynamic_guards: Vec::new() };
        for claim in realm.routes.iter().map(|route| &realm.claims[*route]) {
            for service in &claim.services {
                let sets = match service.contains('{') {
                    true => &mut siblings.dynamic_guards,
                    false => siblings.guards.entry(service).or_default(),
                };
                if !sets.contains(&claim.guards.as_slice()) {
                    sets.push(&claim.guards);
                }
            }
        }
        let dynamic = |rank: &Rank| {
            let claim = &realm.claims[realm.index.candidate(*rank).route as usize];
            claim.services.iter().any(|service| service.contains('{'))
        };
        siblings.dynamic.extend((0..realm.index.candidates.len() as Rank).filter(dynamic).take(MOST));
        siblings
    }

    /// Whether some route may reach a service of this one and lacks a guard of it.
    fn leave_a_gap(&self, claim: &Claim<'_>) -> bool {
        let sets = claim.services.iter().filter_map(|service| self.guards.get(service.as_str())).flatten();
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
    dynamic: &'a [Rank],
}

/// A request to try.
struct Probe {
    method: Method,
    host: String,
    path: String,
    /// It is the route's own path: only a route with a wider path is a gap, one with the same path is meant.
    own_path: bool,
}

impl Guarded<'_> {
    fn slip(&self) -> Option<Finding> {
        self.probes().into_iter().find_map(|probe| self.try_out(&probe))
    }

    fn probes(&self) -> Vec<Probe> {
        let (candidate, detail) = (self.realm.index.candidate(self.rank), self.realm.index.detail(self.rank));
        let host = match detail.hosts.first() {
            Some(HostPattern::Exact(host)) => host.clone(),
            Some(HostPattern::Wildcard(parent)) => format!("www.{parent}"),
            _ => self.any_host(),
        };
        let method = candidate.predicates.methods().next().cloned().unwrap_or(Method::GET);
        let mut probes = Vec::new();
        let mut probe = |method: &Method, host: &str, path: String, own_path| {
            probes.push(Probe { method: method.clone(), host: host.to_owned(), path, own_path });
        };
        // For an expression too large to find an example, only the ways around the path are tried.
        let path = match candidate.predicates.regex() {
            None => Some(detail.shape.example(|_| "x".to_owned())),
            Some(regex) => example(regex, Left::default()).unwrap_or_default(),
        };
        if let Some(path) = path {
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
        for rank in self.dynamic {
            for service in self.claim().services.iter().filter(|service| !service.contains('{')) {
                let path = self.realm.index.detail(*rank).shape.example(|name| match self.names_service(*rank, name) {
                    true => service.clone(),
                    false => "x".to_owned(),
                });
                probe(&method, &host, path, false);
            }
        }
        probes
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
        let claim = &self.realm.claims[self.realm.index.candidate(rank).route as usize];
        claim.services.contains(&format!("{{{capture}}}"))
    }

    fn try_out(&self, probe: &Probe) -> Option<Finding> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = probe.method.clone();
        *request.uri_mut() = probe.path.parse().ok()?;
        if !probe.host.is_empty() {
            request.headers_mut().insert(HOST, HeaderValue::from_str(&probe.host).ok()?);
        }
        let index = &self.realm.index;
        let rank = index.find(&Facts::of(&request)).ok()?;
        let other = &self.realm.claims[index.candidate(rank).route as usize];
        if probe.own_path && self.has_the_same_path(rank) {
            return None;
        }
        let guard = missing(self.claim(), &other.guards)?;
        let captured = index.detail(rank).shape.capture(&probe.path);
        let reached = |service: &String| match service.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => captured.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()),
            None => Some(service.clone()),
        };
        let service =
            other.services.iter().filter_map(reached).find(|service| self.claim().services.contains(service))?;
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
                format!("route `{}` takes it, and sends it to `{service}` without `{guard}`", other.label),
            )),
            help: format!(
                "list `{guard}` in the chain of route `{}` too, or let route `{label}` match more",
                other.label
            ),
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

//! What `check` says about routes that get in each other's way.
//!
//! * Two routes with the same match: an error that names both.
//! * A route that never wins, because others take all of its requests: an error. Both are accepted from a route that says
//!   `allow_shadowed = true`.
//! * A request that slips past a guard, because a sibling route without that guard sends it to the same service: a
//!   warning with the request.
//!
//! Only what is certain is an error: where routes can be told apart by anything, they are left alone. The routes are
//! compiled into the same index that serves requests, so every question is one lookup, never a comparison of all pairs.

mod shadow;
mod slip;

use std::collections::HashMap;
use std::ops::Range;

use portcullis_config::units::HostPattern;
use portcullis_config::{Diagnostic, Document, Faults, Level, Match};

use super::index::{Index, Rule};
use super::table::alternatives;
use super::trie::Rank;
use crate::new_path::NewPath;

/// A route as far as others may get in its way.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// Its name, or `#3`.
    pub label: String,
    /// Where it is written.
    pub span: Range<usize>,
    /// What it matches, any of them; none is a match of everything.
    pub matches: &'a [Match],
    /// Its `priority`.
    pub priority: i32,
    /// Its position in the file.
    pub order: usize,
    /// Whether it may be shadowed.
    pub allow_shadowed: bool,
    /// The listeners it serves, by their position.
    pub listeners: Vec<usize>,
    /// The guards of its chain, by names that tell two apart.
    pub guards: Vec<String>,
    /// The services it may send to.
    pub services: Vec<Destination<'a>>,
}

/// Where a route may send a request.
#[derive(Debug, Clone)]
pub struct Destination<'a> {
    /// The service; `{service}` for one out of the path.
    pub service: String,
    /// What becomes of the path on the way there, in order.
    pub rewrites: Vec<&'a NewPath>,
}

impl Destination<'_> {
    /// The capture that names the service, if one does.
    fn capture(&self) -> Option<&str> {
        self.service.strip_prefix('{')?.strip_suffix('}')
    }

    fn is_dynamic(&self) -> bool {
        self.capture().is_some()
    }
}

/// Something that `check` has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The route it is about.
    pub span: Range<usize>,
    /// What it is.
    pub sentence: String,
    /// The other route.
    pub other: Option<(Range<usize>, String)>,
    /// What to do about it.
    pub help: String,
}

impl Finding {
    /// Puts it where the user sees it.
    pub fn report(self, document: &Document, faults: &mut Faults) {
        let fault: &mut Diagnostic = match self.level {
            Level::Error => faults.error(document, self.span, self.sentence),
            Level::Warning => faults.warning(document, self.span, self.sentence),
        };
        fault.help(self.help);
        if let Some((span, label)) = self.other {
            fault.also(span, label);
        }
    }
}

/// Looks for routes that get in each other's way. `listeners` holds each listener's `hosts`.
///
/// Says nothing if a path cannot be read: [`Table::build`](super::Table::build) reports that.
pub fn check(claims: &[Claim<'_>], listeners: &[Vec<HostPattern>]) -> Vec<Finding> {
    let mut shadows = shadow::Shadows::new(claims);
    let mut findings = Vec::new();
    for (routes, hosts) in realms(claims, listeners) {
        let Ok(index) = Index::build(rules(claims, &routes)) else { return Vec::new() };
        let realm = Realm { claims, routes, hosts, index };
        shadows.survey(&realm);
        slip::survey(&realm, &mut findings);
    }
    findings.extend(shadows.findings());
    findings.sort_by_key(|finding| finding.span.start);
    findings.dedup();
    findings
}

/// Listeners that serve the same routes: what is found for one of them holds for all.
struct Realm<'a> {
    claims: &'a [Claim<'a>],
    /// Positions in `claims`, ascending.
    routes: Vec<usize>,
    /// The `hosts` of each listener.
    hosts: Vec<&'a [HostPattern]>,
    index: Index<()>,
}

impl<'a> Realm<'a> {
    /// The route of a candidate.
    fn claim(&self, rank: Rank) -> &'a Claim<'a> {
        &self.claims[self.index.candidate(rank).route as usize]
    }

    /// Whether a request that fits this pattern can arrive at all.
    fn lets_in(&self, pattern: &HostPattern) -> bool {
        self.hosts.iter().any(|hosts| hosts.is_empty() || hosts.iter().any(|host| overlap(host, pattern)))
    }

    /// Whether a request for any host whatever can arrive.
    fn lets_in_all(&self) -> bool {
        self.hosts.iter().any(|hosts| hosts.is_empty() || hosts.contains(&HostPattern::Any))
    }
}

type Listeners<'a> = (Vec<usize>, Vec<&'a [HostPattern]>);

fn realms<'a>(claims: &[Claim<'_>], listeners: &'a [Vec<HostPattern>]) -> Vec<Listeners<'a>> {
    let mut serves = vec![Vec::new(); listeners.len()];
    for (route, claim) in claims.iter().enumerate() {
        for listener in &claim.listeners {
            if let Some(routes) = serves.get_mut(*listener) {
                routes.push(route);
            }
        }
    }
    let mut realms: Vec<Listeners<'a>> = Vec::new();
    let mut known = HashMap::new();
    for (mut routes, hosts) in serves.into_iter().zip(listeners) {
        routes.dedup();
        match known.get(&routes) {
            Some(&realm) => {
                let (_, all): &mut Listeners<'a> = &mut realms[realm];
                all.push(hosts);
            }
            None => {
                known.insert(routes.clone(), realms.len());
                realms.push((routes, vec![hosts]));
            }
        }
    }
    realms
}

fn rules<'a>(claims: &'a [Claim<'a>], routes: &[usize]) -> impl Iterator<Item = Rule<'a, ()>> {
    static ANYTHING: std::sync::LazyLock<Match> = std::sync::LazyLock::new(Match::default);
    routes.iter().flat_map(move |&route| {
        let Claim { matches, priority, order, .. } = &claims[route];
        alternatives(matches, &ANYTHING).map(move |(alternative, matching)| Rule {
            goal: (),
            route,
            alternative,
            matching,
            priority: *priority,
            order: *order,
        })
    })
}

/// Whether some host fits both patterns.
fn overlap(one: &HostPattern, other: &HostPattern) -> bool {
    use HostPattern::{Any, Exact, Wildcard};
    let below = |host: &str, parent: &str| host.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    match (one, other) {
        (Any, _) | (_, Any) => true,
        (Exact(one), Exact(other)) => one == other,
        (Exact(host), Wildcard(parent)) | (Wildcard(parent), Exact(host)) => below(host, parent),
        (Wildcard(one), Wildcard(other)) => one == other || below(one, other) || below(other, one),
    }
}

#[cfg(test)]
mod tests;

//! Why a request goes where it goes: what became of every candidate.
//!
//! Nothing is decided here. The winner is the one that [`Table::find`] finds, a path matches if the index says so, and
//! every other failure comes from the judge that also serves requests.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use portcullis_config::{Match, PathMatch, ValueMatch};

use super::Criterion;
use super::index::Detail;
use super::predicate::{Facts, Failure, cookie_values, query_values};
use super::table::Table;
use super::trie::{Rank, Root};
use crate::{Request, RouteInfo};

/// What became of one match of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consideration {
    /// The route.
    pub route: Arc<RouteInfo>,
    /// Which of its matches, from 0.
    pub alternative: usize,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It takes the request.
    Won,
    /// It would take the request if the client's address were known; so the request is refused.
    Undecided,
    /// It matches too, and this made the other one win.
    Lost(Criterion),
    /// It does not match; the sentence is the first reason.
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Won => f.write_str("won"),
            Outcome::Undecided => f.write_str("asks for the client's address, which is unknown"),
            Outcome::Lost(criterion) => write!(f, "would match; {criterion}"),
            Outcome::Failed(sentence) => f.write_str(sentence),
        }
    }
}

impl Table {
    /// What became of every candidate: first those for the request's host in the order they are tried, the winner among
    /// them, then those for other hosts.
    pub fn explain(&self, request: &Request) -> Vec<Consideration> {
        let facts = Facts::of(request);
        let tiers: Vec<&Root> = self.index.hosts.matching(&facts.host).collect();
        // Per candidate the best tier that its host is in, and whether its segments match there.
        let tier_of = |detail: &Detail| {
            let patterns = detail.hosts.iter().filter_map(|host| self.index.hosts.get(host));
            patterns.filter_map(|paths| tiers.iter().position(|tier| std::ptr::eq(*tier, paths))).min()
        };
        let mut reached = vec![false; self.index.candidates.len()];
        for root in &tiers {
            let mut limit = Rank::MAX;
            self.index.paths.walk(root, facts.path, &mut limit, &mut |rank| {
                reached[rank as usize] = true;
                false
            });
        }
        let winner = self.index.best(&facts).ok();
        let decided = winner.is_none_or(|best| self.index.is_decided(best, &facts));

        let mut ranked: Vec<(usize, Rank)> = Vec::with_capacity(reached.len());
        ranked.extend(
            self.index.details.iter().zip(0..).map(|(detail, rank)| (tier_of(detail).unwrap_or(usize::MAX), rank)),
        );
        ranked.sort_unstable();
        let tier_of_winner = winner.and_then(|best| tier_of(self.index.detail(best)));
        ranked
            .into_iter()
            .map(|(tier, rank)| {
                let candidate = self.index.candidate(rank);
                let failure = match tier {
                    usize::MAX => Some(Failure::Host),
                    _ if !reached[rank as usize] => Some(Failure::Path),
                    _ => candidate.predicates.failure(&facts),
                };
                let outcome = match (failure, winner) {
                    (Some(failure), _) => Outcome::Failed(self.sentence(rank, failure, &facts)),
                    (None, Some(best)) if best != rank => Outcome::Lost(match tier_of_winner == Some(tier) {
                        true => self.index.detail(best).standing.decided_by(&self.index.detail(rank).standing),
                        false => Criterion::Host,
                    }),
                    (None, _) if decided => Outcome::Won,
                    (None, _) => Outcome::Undecided,
                };
                let (route, alternative) = (self.entry(candidate).info.clone(), candidate.alternative as usize);
                Consideration { route, alternative, outcome }
            })
            .collect()
    }

    fn sentence(&self, rank: Rank, failure: Failure, facts: &Facts<'_>) -> String {
        let candidate = self.index.candidate(rank);
        let anything = Match::default();
        let matching = self.entry(candidate).matches.get(candidate.alternative as usize).unwrap_or(&anything);
        let request = facts.request;
        match failure {
            Failure::Host if facts.host.is_empty() => format!("the request names no host; wanted {}", hosts(matching)),
            Failure::Host => format!("host is `{}`; wanted {}", facts.host, hosts(matching)),
            Failure::Path => format!("path is `{}`; wanted {}", facts.path, path(matching)),
            Failure::Client => {
                let client = facts.client().map_or_else(|| "unknown".to_owned(), |client| client.to_string());
                format!(
                    "client is {client}; wanted {}",
                    list(matching.clients.iter().map(|network| network.to_string()))
                )
            }
            Failure::Header(index) => {
                let (name, want) = &matching.headers[index];
                let found = request.headers().get(&**name.as_ref().value).map(|value| lossy(value.as_bytes()));
                // Credentials are not for a terminal's scrollback.
                let secret = ["authorization", "cookie", "proxy-authorization"].contains(&name.as_str());
                told(
                    "header",
                    &name.to_string(),
                    found.map(|value| if secret { "another one".into() } else { value }),
                    want,
                )
            }
            Failure::Query(index) => {
                let (key, want) = &matching.query[index];
                told("query parameter", key, query_values(request, key).next().map(|value| lossy(&value)), want)
            }
            Failure::Cookie(index) => {
                let (name, want) = &matching.cookies[index];
                let found = cookie_values(request.headers(), name).next();
                told("cookie", name, found.map(|_| "another one".to_owned()), want)
            }
            Failure::Method => {
                let methods = candidate.predicates.methods().map(|method| format!("`{method}`"));
                format!("method is `{}`; wanted {}", request.method(), list(methods))
            }
        }
    }
}

fn lossy(value: &[u8]) -> String {
    format!("`{}`", String::from_utf8_lossy(value).escape_debug())
}

fn told(kind: &str, name: &str, found: Option<String>, want: &ValueMatch) -> String {
    let want: Cow<'_, str> = match want {
        ValueMatch::Exact(text) => format!("`{text}`").into(),
        ValueMatch::Regex(regex) => format!("a match of `{regex}`").into(),
        ValueMatch::Present(true) => "any".into(),
        ValueMatch::Present(false) => "none".into(),
    };
    match found {
        Some(found) => format!("{kind} `{name}` is {found}; wanted {want}"),
        None => format!("{kind} `{name}` is absent; wanted {want}"),
    }
}

fn hosts(matching: &Match) -> String {
    list(matching.hosts.iter().map(|host| format!("`{host}`")))
}

fn path(matching: &Match) -> String {
    match matching.path.as_ref().map(|path| &path.value) {
        Some(PathMatch::Pattern(pattern)) => format!("`{pattern}`"),
        Some(PathMatch::Prefix(prefix)) => format!("the prefix `{prefix}`"),
        Some(PathMatch::Regex(regex)) => format!("a match of `{regex}`"),
        None => "any".to_owned(),
    }
}

/// `a`, `b` or `c`.
fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    match items.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::testing::{asking, table};

    fn told_of(routes: &str, request: &Request) -> Vec<(String, String)> {
        let told = table(routes).explain(request).into_iter();
        told.map(|one| (one.route.name.clone(), one.outcome.to_string())).collect()
    }

    #[test]
    fn every_candidate_is_listed_with_the_first_thing_that_did_not_match() {
        let routes = r#"
            [[route]]
            name = "other-host"
            match = { hosts = ["b.example", "*.c.example"] }
            service = "s"
            [[route]]
            name = "rest"
            service = "s"
            [[route]]
            name = "canary"
            match = { hosts = ["a.example"], path = "/shop", headers = { x-env = "canary" } }
            service = "s"
            [[route]]
            name = "debug"
            match = { path = "/shop", query = { debug = { regex = "[0-9]" } } }
            service = "s"
            [[route]]
            name = "session"
            match = { path = "/shop", cookies = { session = { present = true } } }
            service = "s"
            [[route]]
            name = "shop"
            match = { path = { prefix = "/shop" } }
            service = "s"
            [[route]]
            name = "post"
            match = { path = "/shop", methods = ["POST", "PUT"] }
            service = "s"
            [[route]]
            name = "cart"
            match = { path = "/cart/{id}" }
            service = "s"
        "#;
        let told = told_of(routes, &asking("a.example", "/shop?debug=x"));
        let told: Vec<_> = told.iter().map(|(name, outcome)| (name.as_str(), outcome.as_str())).collect();
        assert_eq!(
            told,
            [
                ("canary", "header `x-env` is absent; wanted `canary`"),
                ("post", "method is `GET`; wanted `POST` or `PUT`"),
                ("debug", "query parameter `debug` is `x`; wanted a match of `[0-9]`"),
                ("session", "cookie `session` is absent; wanted any"),
                ("shop", "won"),
                ("cart", "path is `/shop`; wanted `/cart/{id}`"),
                ("rest", "would match; the winner's path has more literal segments"),
                ("other-host", "host is `a.example`; wanted `b.example` or `*.c.example`"),
            ]
        );
    }

    #[test]
    fn a_credential_is_never_repeated() {
        let routes = "[[route]]\nmatch = { headers = { authorization = \"Bearer abc\" } }\nservice = \"s\"";
        let mut asked = asking("a.example", "/");
        asked.headers_mut().insert("authorization", "Bearer secret".parse().expect("a header"));
        assert_eq!(told_of(routes, &asked)[0].1, "header `authorization` is another one; wanted `Bearer abc`");
    }
}

//! What a match asks of a request beyond host and path.
//!
//! [`Predicates::failure`] is the only judge: finding a route, explaining one and `check` all ask it.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::net::IpAddr;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, Method};
use percent_encoding::percent_decode_str;
use portcullis_config::units::{Network, Regex};
use portcullis_config::{Match, PathMatch, ValueMatch};

use super::host_of;
use crate::{Exchange, Request};

/// What a request brings to be judged, each thing found once.
pub(super) struct Facts<'a> {
    pub(super) request: &'a Request,
    pub(super) host: Cow<'a, str>,
    pub(super) path: &'a str,
    client: OnceCell<Option<IpAddr>>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(request: &'a Request) -> Self {
        Self::at(request, request.uri().path())
    }

    /// The same as if this were the path.
    pub(super) fn at(request: &'a Request, path: &'a str) -> Self {
        Self { request, host: host_of(request), path, client: OnceCell::new() }
    }

    /// The client's address, if it can be told.
    pub(super) fn client(&self) -> Option<IpAddr> {
        let find = || Exchange::of(self.request).client().ok().map(|client| client.ip.to_canonical());
        *self.client.get_or_init(find)
    }
}

/// The first thing that did not match, in the order the judge looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Host,
    Path,
    Client,
    Header(usize),
    Query(usize),
    Cookie(usize),
    /// Last, so that it says: everything else matched.
    Method,
}

/// What one match asks for beyond host and path. Small if that is not much: ten thousand should stay near the processor.
#[derive(Debug, Clone)]
pub(super) struct Predicates {
    /// Those of [`KNOWN`] as bits, and [`OTHERS`]; 0 is any method.
    methods: u16,
    conditions: Option<Box<Conditions>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Conditions {
    /// What the whole path must match; its segments were matched before.
    path: Option<Regex>,
    /// Methods that have no bit.
    methods: Vec<Method>,
    clients: Vec<Network>,
    headers: Vec<(HeaderName, ValueMatch)>,
    query: Vec<(String, ValueMatch)>,
    cookies: Vec<(String, ValueMatch)>,
}

const KNOWN: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::CONNECT,
    Method::OPTIONS,
    Method::TRACE,
    Method::PATCH,
];
const GET: u16 = 1;
const HEAD: u16 = 2;
const OTHERS: u16 = 1 << 15;

fn bit(method: &Method) -> Option<u16> {
    KNOWN.iter().position(|known| known == method).map(|index| 1 << index)
}

impl Predicates {
    pub(super) fn of(rule: &Match) -> Self {
        let all = rule.methods.iter().map(|method| &*method.value);
        let mut methods = all.clone().fold(0, |set, method| set | bit(method).unwrap_or(OTHERS));
        // RFC 9110 §9.3.2: `HEAD` is `GET` without the content, so whoever takes `GET` takes `HEAD`.
        if methods & GET != 0 {
            methods |= HEAD;
        }
        let mut others: Vec<Method> = all.filter(|method| bit(method).is_none()).cloned().collect();
        others.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        let path = match rule.path.as_ref().map(|path| &path.value) {
            Some(PathMatch::Regex(regex)) => Some(regex.clone()),
            _ => None,
        };
        let conditions = Conditions {
            path,
            methods: others,
            clients: rule.clients.clone(),
            headers: rule.headers.iter().map(|(name, want)| (http::HeaderName::clone(name), want.clone())).collect(),
            query: rule.query.iter().map(|(key, want)| (key.value.clone(), want.clone())).collect(),
            cookies: rule.cookies.iter().map(|(name, want)| (name.value.clone(), want.clone())).collect(),
        };
        Self { methods, conditions: (!conditions.is_empty()).then(|| Box::new(conditions)) }
    }

    /// Whether this method is wanted, or any.
    pub(super) fn take(&self, method: &Method) -> bool {
        match bit(method) {
            _ if self.methods == 0 => true,
            Some(bit) => self.methods & bit != 0,
            None => self.others().contains(method),
        }
    }

    /// The methods that are wanted; none if any will do.
    pub(super) fn methods(&self) -> impl Iterator<Item = &Method> {
        let known = KNOWN.iter().enumerate().filter(|(index, _)| self.methods >> index & 1 != 0);
        known.map(|(_, method)| method).chain(self.others())
    }

    /// What the whole path must match.
    pub(super) fn regex(&self) -> Option<&Regex> {
        self.conditions.as_ref()?.path.as_ref()
    }

    fn others(&self) -> &[Method] {
        self.conditions.as_ref().map_or(&[], |conditions| &conditions.methods)
    }

    /// The first thing that does not match, the method last.
    ///
    /// A client whose address is unknown is taken to match: a rule about clients then wins and the request is refused,
    /// instead of slipping past that rule to the next.
    pub(super) fn failure(&self, facts: &Facts<'_>) -> Option<Failure> {
        if let Some(failure) = self.conditions.as_ref().and_then(|conditions| conditions.failure(facts)) {
            return Some(failure);
        }
        (!self.take(facts.request.method())).then_some(Failure::Method)
    }

    /// Whether the decision hangs on the client's address.
    pub(super) fn ask_for_client(&self) -> bool {
        self.conditions.as_ref().is_some_and(|conditions| !conditions.clients.is_empty())
    }

    /// Whether whatever satisfies `other` satisfies this, the path aside. `false` also means "perhaps".
    pub(super) fn cover(&self, other: &Self) -> bool {
        let conditions = match (&self.conditions, &other.conditions) {
            (None, _) => true,
            (Some(these), Some(those)) => these.cover(those),
            (Some(these), None) => these.ask_for_nothing(),
        };
        let known = other.methods & !self.methods == 0;
        let others = || other.others().iter().all(|method| self.others().contains(method));
        conditions && (self.methods == 0 || (other.methods != 0 && known && others()))
    }

    /// The same text for two that ask for the same; empty if nothing is asked for.
    pub(super) fn canonical(&self) -> String {
        let mut all: Vec<String> = self.methods().map(|method| format!("method {method}")).collect();
        if let Some(conditions) = &self.conditions {
            all.extend(conditions.path.iter().map(|regex| format!("path {regex:?}")));
            all.extend(conditions.clients.iter().map(|network| format!("client {network}")));
            all.extend(conditions.headers.iter().map(|pair| format!("header {pair:?}")));
            all.extend(conditions.query.iter().map(|pair| format!("query {pair:?}")));
            all.extend(conditions.cookies.iter().map(|pair| format!("cookie {pair:?}")));
        }
        all.sort_unstable();
        all.join(", ")
    }
}

impl Conditions {
    fn is_empty(&self) -> bool {
        self.path.is_none() && self.methods.is_empty() && self.ask_for_nothing()
    }

    fn failure(&self, facts: &Facts<'_>) -> Option<Failure> {
        // The expression's scratch space comes from a pool that makes a new one rather than wait for another thread.
        if self.path.as_ref().is_some_and(|regex| !regex.is_match(facts.path)) {
            return Some(Failure::Path);
        }
        if !self.clients.is_empty()
            && facts.client().is_some_and(|client| !self.clients.iter().any(|network| network.contains(&client)))
        {
            return Some(Failure::Client);
        }
        let headers = facts.request.headers();
        let header = |(name, want): &(HeaderName, ValueMatch)| {
            holds(want, headers.get_all(name).iter().map(|value| Cow::Borrowed(value.as_bytes())))
        };
        if let Some(index) = self.headers.iter().position(|pair| !header(pair)) {
            return Some(Failure::Header(index));
        }
        let query = |(key, want): &(String, ValueMatch)| holds(want, query_values(facts.request, key));
        if let Some(index) = self.query.iter().position(|pair| !query(pair)) {
            return Some(Failure::Query(index));
        }
        let cookie = |(name, want): &(String, ValueMatch)| holds(want, cookie_values(headers, name).map(Cow::Borrowed));
        self.cookies.iter().position(|pair| !cookie(pair)).map(Failure::Cookie)
    }

    /// Nothing beyond path and method.
    fn ask_for_nothing(&self) -> bool {
        self.clients.is_empty() && self.headers.is_empty() && self.query.is_empty() && self.cookies.is_empty()
    }

    fn cover(&self, other: &Self) -> bool {
        fn all_in<K: PartialEq>(these: &[(K, ValueMatch)], those: &[(K, ValueMatch)]) -> bool {
            these.iter().all(|(key, want)| those.iter().any(|(other, have)| key == other && asks_no_more(want, have)))
        }
        let in_a_network = |network: &Network| self.clients.iter().any(|wider| wider.contains(&network.get()));
        let clients = match (self.clients.is_empty(), other.clients.is_empty()) {
            (true, _) => true,
            (false, true) => false,
            (false, false) => other.clients.iter().all(in_a_network),
        };
        clients
            && all_in(&self.headers, &other.headers)
            && all_in(&self.query, &other.query)
            && all_in(&self.cookies, &other.cookies)
    }
}

/// Whether one of the values is what is wanted; or none is there, if that is what is wanted.
fn holds<'a>(want: &ValueMatch, mut values: impl Iterator<Item = Cow<'a, [u8]>>) -> bool {
    match want {
        ValueMatch::Exact(text) => values.any(|value| *text.as_bytes() == *value),
        ValueMatch::Regex(regex) => values.any(|value| regex.compiled().is_match(&*value)),
        ValueMatch::Present(present) => values.next().is_some() == *present,
    }
}

/// Whether what satisfies `have` always satisfies `want`.
fn asks_no_more(want: &ValueMatch, have: &ValueMatch) -> bool {
    match (want, have) {
        (ValueMatch::Present(true), ValueMatch::Exact(_) | ValueMatch::Regex(_)) => true,
        (ValueMatch::Regex(regex), ValueMatch::Exact(text)) => regex.is_match(text),
        _ => want == have,
    }
}

/// The values of a query parameter, decoded.
pub(super) fn query_values<'a>(request: &'a Request, key: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    let pairs = request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.filter_map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decoded(name) == *key.as_bytes()).then(|| decoded(value))
    })
}

/// A query's text as forms encode it: `%20` and `+` are spaces.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    match text.contains('+') {
        true => Cow::Owned(percent_decode_str(&text.replace('+', " ")).collect()),
        false => percent_decode_str(text).into(),
    }
}

/// The values of a cookie, as they were sent.
pub(super) fn cookie_values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let crumbs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    crumbs.filter_map(move |crumb| {
        let crumb = crumb.trim_ascii();
        let equals = crumb.iter().position(|byte| *byte == b'=')?;
        (crumb[..equals] == *name.as_bytes()).then(|| &crumb[equals + 1..])
    })
}

#[cfg(test)]
mod tests {
    use portcullis_config::Spanned;

    use super::*;
    use crate::testing::request;

    fn taking(methods: &[&str]) -> Predicates {
        let parse = |method: &&str| Spanned::new(method.parse().expect("a method"), 0..0);
        Predicates::of(&Match { methods: methods.iter().map(parse).collect(), ..Match::default() })
    }

    #[test]
    fn whoever_takes_get_takes_head() {
        let get = taking(&["GET"]);
        assert!(get.take(&Method::HEAD) && !get.take(&Method::POST));
        let head = taking(&["HEAD"]);
        assert!(head.take(&Method::HEAD) && !head.take(&Method::GET));
    }

    #[test]
    fn a_method_nobody_knows_is_matched_by_its_name() {
        let set = taking(&["BREW", "GET"]);
        assert!(set.take(&Method::from_bytes(b"BREW").expect("a method")));
        assert!(!set.take(&Method::from_bytes(b"WHEN").expect("a method")));
        assert_eq!(set.methods().map(Method::as_str).collect::<Vec<_>>(), ["GET", "HEAD", "BREW"]);
        assert!(!taking(&["BREW"]).take(&Method::GET));
    }

    #[test]
    fn a_set_of_methods_covers_its_subsets() {
        for (these, those, covers) in [
            (&[][..], &["BREW"][..], true),
            (&["BREW"], &["BREW"], true),
            (&["BREW", "GET"], &["HEAD"], true),
            (&["BREW", "GET"], &["GET", "BREW"], true),
            (&["BREW"], &["WHEN"], false),
            (&["GET"], &["BREW"], false),
            (&["GET"], &[], false),
            (&["HEAD"], &["GET"], false),
        ] {
            assert_eq!(taking(these).cover(&taking(those)), covers, "{these:?} {those:?}");
        }
    }

    #[test]
    fn a_query_is_compared_decoded_and_any_value_counts() {
        let asked = request("GET", "/?a=1&b%20c=x+y%21&a=2&flag&=odd&&");
        let values = |key| {
            query_values(&asked, key).map(|value| String::from_utf8_lossy(&value).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(values("a"), ["1", "2"]);
        assert_eq!(values("b c"), ["x y!"]);
        assert_eq!(values("flag"), [""]);
        assert_eq!(values("missing"), [""; 0]);
    }

    #[test]
    fn cookies_are_found_in_every_cookie_header() {
        let mut asked = request("GET", "/");
        asked.headers_mut().append(COOKIE, "a=1; b=2=3".parse().expect("a header"));
        asked.headers_mut().append(COOKIE, "odd;a=4".parse().expect("a header"));
        let values = |name| cookie_values(asked.headers(), name).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(values("a"), [b"1", b"4"]);
        assert_eq!(values("b"), [b"2=3"]);
        assert!(values("odd").is_empty());
    }
}

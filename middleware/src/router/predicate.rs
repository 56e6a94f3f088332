//! What a match asks of a request beyond host and path.
//!
//! [`Predicates::failure`] is the only judge: finding a route, explaining one and `check` all ask it.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::net::IpAddr;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, Method};
use percent_encoding::percent_decode_str;
use portcullis_config::units::Network;
use portcullis_config::{Match, ValueMatch};

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
        Self { request, host: host_of(request), path: request.uri().path(), client: OnceCell::new() }
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

/// What one match asks for beyond host and path.
#[derive(Debug, Clone)]
pub(super) struct Predicates {
    pub(super) methods: Methods,
    /// Apart, so that a match without any stays small.
    conditions: Option<Box<Conditions>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Conditions {
    pub(super) clients: Vec<Network>,
    pub(super) headers: Vec<(HeaderName, ValueMatch)>,
    pub(super) query: Vec<(String, ValueMatch)>,
    pub(super) cookies: Vec<(String, ValueMatch)>,
}

impl Predicates {
    pub(super) fn of(rule: &Match) -> Self {
        let conditions = Conditions {
            clients: rule.clients.clone(),
            headers: rule.headers.iter().map(|(name, want)| (http::HeaderName::clone(name), want.clone())).collect(),
            query: rule.query.iter().map(|(key, want)| (key.value.clone(), want.clone())).collect(),
            cookies: rule.cookies.iter().map(|(name, want)| (name.value.clone(), want.clone())).collect(),
        };
        let methods = Methods::of(rule.methods.iter().map(|method| &*method.value));
        Self { methods, conditions: (!conditions.is_empty()).then(|| Box::new(conditions)) }
    }

    /// The first thing that does not match, the method last.
    ///
    /// A client whose address is unknown is taken to match: a rule about clients then wins and the request is refused,
    /// instead of slipping past that rule to the next.
    pub(super) fn failure(&self, facts: &Facts<'_>) -> Option<Failure> {
        if let Some(failure) = self.conditions.as_ref().and_then(|conditions| conditions.failure(facts)) {
            return Some(failure);
        }
        (!self.methods.take(facts.request.method())).then_some(Failure::Method)
    }

    /// Whether the decision hangs on the client's address.
    pub(super) fn ask_for_client(&self) -> bool {
        self.conditions.as_ref().is_some_and(|conditions| !conditions.clients.is_empty())
    }

    /// Whether whatever satisfies `other` satisfies this. `false` also means "perhaps".
    pub(super) fn cover(&self, other: &Self) -> bool {
        let conditions = match (&self.conditions, &other.conditions) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(these), Some(those)) => these.cover(those),
        };
        conditions && self.methods.cover(&other.methods)
    }

    /// The same text for two that ask for the same; empty if nothing is asked for.
    pub(super) fn canonical(&self) -> String {
        let Some(conditions) = &self.conditions else {
            return if self.methods.is_any() { String::new() } else { format!("{:?}", self.methods) };
        };
        let mut all = Vec::new();
        all.extend(conditions.clients.iter().map(|network| format!("client {network}")));
        all.extend(conditions.headers.iter().map(|pair| format!("header {pair:?}")));
        all.extend(conditions.query.iter().map(|pair| format!("query {pair:?}")));
        all.extend(conditions.cookies.iter().map(|pair| format!("cookie {pair:?}")));
        all.sort_unstable();
        format!("{:?} {all:?}", self.methods)
    }
}

impl Conditions {
    fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.headers.is_empty() && self.query.is_empty() && self.cookies.is_empty()
    }

    fn failure(&self, facts: &Facts<'_>) -> Option<Failure> {
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

/// A set of methods; the empty one is all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Methods {
    /// Those of [`KNOWN`], as bits.
    known: u16,
    others: Box<[Method]>,
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

fn bit(method: &Method) -> Option<u16> {
    KNOWN.iter().position(|known| known == method).map(|index| 1 << index)
}

impl Methods {
    /// RFC 9110 §9.3.2: `HEAD` is `GET` without the content, so whoever takes `GET` takes `HEAD`.
    pub(super) fn of<'a>(methods: impl Iterator<Item = &'a Method>) -> Self {
        let mut set = Self::default();
        let mut others = Vec::new();
        for method in methods {
            match bit(method) {
                Some(bit) => set.known |= bit,
                None => others.push(method.clone()),
            }
        }
        if set.known & 1 != 0 {
            set.known |= 2;
        }
        others.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        set.others = others.into();
        set
    }

    pub(super) fn is_any(&self) -> bool {
        self.known == 0 && self.others.is_empty()
    }

    pub(super) fn take(&self, method: &Method) -> bool {
        self.is_any()
            || match bit(method) {
                Some(bit) => self.known & bit != 0,
                None => self.others.contains(method),
            }
    }

    fn cover(&self, other: &Self) -> bool {
        let others = || other.others.iter().all(|method| self.others.contains(method));
        self.is_any() || (!other.is_any() && other.known & !self.known == 0 && others())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Method> {
        KNOWN
            .iter()
            .enumerate()
            .filter(|(index, _)| self.known >> index & 1 != 0)
            .map(|(_, method)| method)
            .chain(&self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::request;

    #[test]
    fn whoever_takes_get_takes_head() {
        let get = Methods::of([Method::GET].iter());
        assert!(get.take(&Method::HEAD) && !get.take(&Method::POST));
        let head = Methods::of([Method::HEAD].iter());
        assert!(head.take(&Method::HEAD) && !head.take(&Method::GET));
    }

    #[test]
    fn a_method_nobody_knows_is_matched_by_its_name() {
        let brew = Method::from_bytes(b"BREW").expect("a method");
        let set = Methods::of([brew.clone(), Method::GET].iter());
        assert!(set.take(&brew) && !set.take(&Method::from_bytes(b"WHEN").expect("a method")));
        assert_eq!(set.iter().map(Method::as_str).collect::<Vec<_>>(), ["GET", "HEAD", "BREW"]);
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

//! Which host a request is for, and what is said about that host.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use http::header::HOST;
use portcullis_config::units::HostPattern;

use super::hash::Map;
use crate::Request;

/// A value per host pattern: the most specific pattern of a host is found first.
///
/// Exact hosts come before wildcards, longer wildcards before shorter ones, and [`HostPattern::Any`] last. The table of
/// routes is one, and so is the choice between listeners that share an address:
///
/// ```
/// # use portcullis_middleware::router::HostMap;
/// let mut listeners = HostMap::default();
/// for (host, listener) in [("*", "public"), ("*.example.com", "customers"), ("api.example.com", "api")] {
///     listeners.insert(&host.parse().unwrap(), listener);
/// }
/// assert_eq!(listeners.find("api.example.com"), Some(&"api"));
/// assert_eq!(listeners.find("shop.example.com"), Some(&"customers"));
/// assert_eq!(listeners.find("example.com"), Some(&"public"));
/// ```
#[derive(Debug, Clone)]
pub struct HostMap<T> {
    exact: Map<T>,
    /// By what follows `*.`.
    wildcards: Map<T>,
    any: Option<T>,
    /// The most labels that a key of `wildcards` has: longer suffixes of a host need not be asked for.
    most_labels: usize,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: Map::default(), wildcards: Map::default(), any: None, most_labels: 0 }
    }
}

impl<T> HostMap<T> {
    /// Sets the value of a pattern, and returns the one it had.
    pub fn insert(&mut self, pattern: &HostPattern, value: T) -> Option<T> {
        match pattern {
            HostPattern::Exact(host) => self.exact.insert(host, value),
            HostPattern::Wildcard(parent) => {
                self.most_labels = self.most_labels.max(labels(parent));
                self.wildcards.insert(parent, value)
            }
            HostPattern::Any => self.any.replace(value),
        }
    }

    /// The value of exactly this pattern.
    pub fn get(&self, pattern: &HostPattern) -> Option<&T> {
        match pattern {
            HostPattern::Exact(host) => self.exact.get(host),
            HostPattern::Wildcard(parent) => self.wildcards.get(parent),
            HostPattern::Any => self.any.as_ref(),
        }
    }

    /// The value of exactly this pattern, put there if there was none.
    pub fn entry(&mut self, pattern: &HostPattern) -> &mut T
    where
        T: Default,
    {
        match pattern {
            HostPattern::Exact(host) => self.exact.entry(host).or_default(),
            HostPattern::Wildcard(parent) => {
                self.most_labels = self.most_labels.max(labels(parent));
                self.wildcards.entry(parent).or_default()
            }
            HostPattern::Any => self.any.get_or_insert_default(),
        }
    }

    /// The value of the most specific pattern that matches a host, which must be [folded](host_of).
    pub fn find(&self, host: &str) -> Option<&T> {
        self.matching(host).next()
    }

    /// The values of all patterns that match a [folded](host_of) host, the most specific first.
    pub fn matching(&self, host: &str) -> impl Iterator<Item = &T> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(host) };
        let below = if self.wildcards.is_empty() { "" } else { host };
        let surplus = labels(below).saturating_sub(self.most_labels);
        let wildcards = below
            .match_indices('.')
            .skip(surplus.saturating_sub(1))
            // A wildcard stands for at least one byte, so a host that begins with a dot is below nothing.
            .filter(|(at, _)| *at > 0)
            .filter_map(move |(at, _)| self.wildcards.get(&below[at + 1..]));
        exact.into_iter().chain(wildcards).chain(&self.any)
    }
}

fn labels(host: &str) -> usize {
    host.bytes().filter(|byte| *byte == b'.').count() + 1
}

/// The host a request is for, folded for comparison: without port, in lower case, without the root's dot.
///
/// RFC 9112 §3.2.2: the authority of an absolute target wins over `Host`. Empty if neither is there.
pub fn host_of(request: &Request) -> Cow<'_, str> {
    match request.uri().authority() {
        Some(authority) => fold_host(authority.host()),
        None => fold_host(request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()),
    }
}

/// A host folded for comparison, as [`host_of`] does it. A port is left out.
pub fn fold_host(host: &str) -> Cow<'_, str> {
    if let Some(rest) = host.strip_prefix('[') {
        let address = rest.split_once(']').map_or(rest, |(address, _)| address);
        return match address.parse::<Ipv6Addr>() {
            Ok(address) => Cow::Owned(format!("[{address}]")),
            Err(_) => Cow::Borrowed(host),
        };
    }
    let host = host.bytes().position(|byte| byte == b':').map_or(host, |colon| &host[..colon]);
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    }
}

/// Whether a text has nothing in it but what a host may have, with or without a port: no user, no path.
pub(crate) fn is_host(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::request;

    fn map(patterns: &[&'static str]) -> HostMap<&'static str> {
        let mut map = HostMap::default();
        for pattern in patterns {
            map.insert(&pattern.parse().expect("a host pattern"), *pattern);
        }
        map
    }

    #[test]
    fn the_most_specific_host_comes_first() {
        let map = map(&["*", "*.com", "*.example.com", "a.example.com", "*.b.example.com"]);
        let all = |host| map.matching(host).copied().collect::<Vec<_>>();
        assert_eq!(all("a.example.com"), ["a.example.com", "*.example.com", "*.com", "*"]);
        assert_eq!(all("x.b.example.com"), ["*.b.example.com", "*.example.com", "*.com", "*"]);
        assert_eq!(all("v.w.x.y.z.example.com"), ["*.example.com", "*.com", "*"]);
        assert_eq!(all("example.com"), ["*.com", "*"]);
        assert_eq!(all("localhost"), ["*"]);
        assert_eq!(all(""), ["*"]);
    }

    #[test]
    fn a_wildcard_is_not_its_own_parent() {
        let map = map(&["*.example.com"]);
        for host in ["example.com", ".example.com", "badexample.com", "example.com.evil.net"] {
            assert_eq!(map.find(host), None, "{host}");
        }
        assert_eq!(map.find("deep.down.example.com"), Some(&"*.example.com"));
    }

    #[test]
    fn case_port_and_a_trailing_dot_do_not_matter() {
        for (host, folded) in [
            ("API.Example.com", "api.example.com"),
            ("api.example.com.", "api.example.com"),
            ("api.example.com:8443", "api.example.com"),
            ("Api.example.com.:80", "api.example.com"),
            ("[::1]:80", "[::1]"),
            ("[0:0::0:1]", "[::1]"),
            ("127.0.0.1:9", "127.0.0.1"),
            ("", ""),
        ] {
            assert_eq!(fold_host(host), folded);
        }
    }

    #[test]
    fn the_target_s_authority_wins_over_the_host_header() {
        let mut asked = request("GET", "http://a.example:80/");
        asked.headers_mut().insert(HOST, "b.example".parse().expect("a header"));
        assert_eq!(host_of(&asked), "a.example");
        let mut asked = request("GET", "/");
        asked.headers_mut().insert(HOST, "b.example".parse().expect("a header"));
        assert_eq!(host_of(&asked), "b.example");
    }
}

//! Changes the host or the path that the service sees.
//!
//! ```toml
//! [middleware.inner]
//! type   = "rewrite"
//! host   = "orders.internal"      # the `Host` that the service sees
//! path   = "/v2/orders/{id}"      # a whole new path; `{id}` is what the route's path captured
//!
//! [middleware.strip]
//! type   = "rewrite"
//! prefix = "/"                    # takes the place of the prefix that was matched
//! ```
//!
//! `prefix` replaces the prefix of the very match that matched: below `match = { path = { prefix = "/api" } }`,
//! `prefix = "/v2"` makes `/v2/orders` of `/api/orders`. A match without a prefix has an empty one. The query stays.
//! `host` takes captures too. Matching is over by then: in a route's chain the new path is only what the service sees.
//! In a listener's chain, before `router`, it is what the routes see; nothing has matched there yet, so a prefix or a
//! capture cannot be known, and `check` refuses it. So it does with a capture that the path of its route does not have.
//!
//! A path that would hold a dot segment once it is put together, for whatever [reader](crate::paths), is refused with
//! `400` (`path_rejected`): no capture leads out of the path that the file gives. Where that itself leads to what another
//! route guards, `check` warns of it. Nothing is added to the request: the host that the client asked for is remembered
//! anyway, by [`Exchange::host`].

use std::fmt::Write;
use std::mem;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderValue, Uri};

use crate::new_path::{NewPath, Template, join};
use crate::prelude::*;
use crate::router::is_host;
use crate::{MatchedRoute, paths};

/// Changes the host or the path that the service sees.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// The `Host` that the service sees, with a port if it needs one. May hold captures: `{tenant}.internal`.
    host: Option<String>,
    /// The whole new path. May hold captures: `/v2/{id}`.
    path: Option<String>,
    /// What takes the place of the prefix that was matched.
    prefix: Option<String>,
}

impl Plugin for Rewrite {
    const NAME: &'static str = "rewrite";
    const EXAMPLE: &'static str = r#"host = "orders.internal"
path = "/v2/orders""#;

    fn build(self, _: &Context) -> Result<RouteLayer, BuildError> {
        let path = match (self.path, self.prefix) {
            (Some(_), Some(_)) => return Err(BuildError::at("prefix", "and `path` exclude each other")),
            (Some(path), None) => Some(NewPath::whole(&path).map_err(|fault| BuildError::at("path", fault))?),
            (None, Some(prefix)) => Some(NewPath::prefix(&prefix).map_err(|fault| BuildError::at("prefix", fault))?),
            (None, None) => None,
        };
        let host = self.host.map(|host| new_host(&host)).transpose().map_err(|fault| BuildError::at("host", fault))?;
        if host.is_none() && path.is_none() {
            return Err(BuildError::whole("`host`, `path` or `prefix` must say what to rewrite"));
        }
        Ok(RouteLayer::guard(Rewriter { host, path }))
    }
}

fn new_host(text: &str) -> Result<NewHost, String> {
    let template = Template::parse(text)?;
    let host = Host::parse(&template.fill(|_| Some("x")).unwrap_or_default());
    let host = host.ok_or_else(|| format!("is `{text}`, which is not a host with or without a port"))?;
    Ok(if template.captures().next().is_some() { NewHost::Captured(template) } else { NewHost::Fixed(host) })
}

/// The middleware.
pub struct Rewriter {
    host: Option<NewHost>,
    path: Option<NewPath>,
}

impl Rewriter {
    /// The captures that it cannot do without.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        let host = if let Some(NewHost::Captured(template)) = &self.host { Some(template) } else { None };
        let path = if let Some(NewPath::Whole(template)) = &self.path { Some(template) } else { None };
        host.into_iter().chain(path).flat_map(Template::captures)
    }

    /// What becomes of the path, if that is not what it was.
    pub fn path(&self) -> Option<&NewPath> {
        self.path.as_ref()
    }
}

enum NewHost {
    Fixed(Host),
    Captured(Template),
}

/// A host and perhaps a port, and nothing else that an authority might hold.
#[derive(Clone)]
struct Host {
    authority: Authority,
    value: HeaderValue,
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        let authority = text.parse::<Authority>().ok().filter(|_| is_host(text))?;
        let port = text.strip_prefix(authority.host())?;
        let port_is_good = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        let value = HeaderValue::from_str(text).ok()?;
        (port_is_good && !authority.host().is_empty()).then_some(Self { authority, value })
    }
}

impl Guard for Rewriter {
    fn rewriter(&self) -> Option<&Rewriter> {
        Some(self)
    }

    fn check(&self, request: &mut Request) -> Result<(), Rejection> {
        if let Some(host) = &self.host {
            let host = match host {
                NewHost::Fixed(host) => host.clone(),
                NewHost::Captured(template) => {
                    let host = fill(template, request)?;
                    Host::parse(&host).ok_or_else(|| malformed(&host))?
                }
            };
            set_host(request, host)?;
        }
        match &self.path {
            None => Ok(()),
            Some(NewPath::Whole(template)) => {
                let path = fill(template, request)?;
                paths::rewrite(request, &path, 0)
            }
            Some(NewPath::Prefix(prefix)) => {
                let matched = request.extensions().get::<MatchedRoute>().ok_or_else(nothing_matched)?;
                let path = request.uri().path();
                let Some(rest) = path.get(matched.prefix..).filter(|_| path.starts_with('/')) else { return Ok(()) };
                let path = join(prefix, rest);
                paths::rewrite(request, &path, prefix.len())
            }
        }
    }
}

fn set_host(request: &mut Request, host: Host) -> Result<(), Rejection> {
    // An absolute target's authority would win over `Host`.
    if request.uri().authority().is_some() {
        let mut parts = mem::take(request.uri_mut()).into_parts();
        parts.authority = Some(host.authority);
        *request.uri_mut() =
            Uri::from_parts(parts).map_err(|_| malformed(&String::from_utf8_lossy(host.value.as_bytes())))?;
    }
    request.headers_mut().insert(HOST, host.value);
    Ok(())
}

fn malformed(host: &str) -> Rejection {
    Rejection::new(Cause::BadRequest).note(format!("rewritten to host `{}`", host.escape_default()))
}

fn fill(template: &Template, request: &Request) -> Result<String, Rejection> {
    let matched = request.extensions().get::<MatchedRoute>();
    template.fill(|name| matched.and_then(|matched| matched.capture(name))).map_err(|missing| match matched {
        None => nothing_matched(),
        Some(matched) => {
            let mut note = format!("rewrite: the path of route `{}` captures no `{missing}`", matched.route.name);
            let captures = matched.captures.list();
            if !captures.is_empty() {
                note.push_str("; it captures");
                captures.iter().for_each(|(name, _)| {
                    let _ = write!(note, " `{name}`");
                });
            }
            Rejection::new(Cause::Internal).note(note)
        }
    })
}

fn nothing_matched() -> Rejection {
    Rejection::new(Cause::Internal).note("rewrite: no route has matched yet, so there is no prefix and no capture")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portcullis_config::Place;

    use super::*;
    use crate::RouteInfo;
    use crate::router::Captures;
    use crate::testing::{self, Answer, Chain, build, chain, request};

    #[test]
    fn it_keeps_the_promises_of_every_plugin() {
        testing::conformance::<Rewrite>();
    }

    /// A route whose path captured these. Only the last may hold a slash.
    fn matched(prefix: usize, captures: &[(&str, &str)]) -> MatchedRoute {
        let (mut pattern, mut path) = (String::new(), String::new());
        for (number, (name, value)) in captures.iter().enumerate() {
            let rest = if number + 1 == captures.len() { "*" } else { "" };
            let _ = write!(pattern, "/{{{rest}{name}}}");
            let _ = write!(path, "/{value}");
        }
        let captures = if captures.is_empty() { Captures::default() } else { Captures::of(&pattern, &path) };
        MatchedRoute { route: Arc::new(RouteInfo { name: "orders".into(), place: Place::default() }), prefix, captures }
    }

    async fn ask(app: &Chain, target: &str, matched: MatchedRoute) -> Answer {
        let mut request = request("GET", target);
        request.headers_mut().insert(HOST, HeaderValue::from_static("api.example.com"));
        request.extensions_mut().insert(matched);
        app.send(request).await
    }

    #[tokio::test]
    async fn a_prefix_takes_the_place_of_the_one_that_matched() {
        for (prefix, matched_prefix, target, wanted) in [
            ("/v2", "/api", "/api/orders?x=1&y", "/v2/orders?x=1&y"),
            ("/v2/", "/api", "/api/orders", "/v2/orders"),
            ("/", "/api", "/api/orders", "/orders"),
            ("/", "/api", "/api", "/"),
            ("/", "/api", "/api?q", "/?q"),
            ("/v2", "/api", "/api", "/v2"),
            ("/v2", "/api", "/api/", "/v2/"),
            ("/", "/api", "/api//evil.example/x", "/evil.example/x"),
            ("/v2", "", "/orders", "/v2/orders"),
            ("/a/b", "/api/x", "/api/x/%2Fy/", "/a/b/%2Fy/"),
        ] {
            let app = chain::<Rewrite>(&format!("prefix = {prefix:?}"));
            ask(&app, target, matched(matched_prefix.len(), &[])).await.expect_status(200);
            assert_eq!(app.last_seen().uri, wanted, "{prefix} on {target}");
        }
    }

    #[tokio::test]
    async fn a_second_rewrite_replaces_what_the_first_one_put_there() {
        let layers =
            ["/v2", "/longer/v3"].map(|prefix| build::<Rewrite>(&format!("prefix = {prefix:?}")).expect("it builds"));
        let app = Chain::new(layers.into_iter().collect());
        ask(&app, "/api/orders", matched(4, &[])).await.expect_status(200);
        assert_eq!(app.last_seen().uri, "/longer/v3/orders");
    }

    #[tokio::test]
    async fn a_path_takes_captures_as_they_were_sent() {
        let app = chain::<Rewrite>(r#"path = "/v2/{id}/items/{*rest}""#);
        ask(&app, "/orders/7?x=1", matched(0, &[("id", "a%20b"), ("rest", "c/d")])).await.expect_status(200);
        assert_eq!(app.last_seen().uri, "/v2/a%20b/items/c/d?x=1");
    }

    #[tokio::test]
    async fn a_host_is_what_the_service_sees_also_in_an_absolute_target() {
        let app = chain::<Rewrite>(r#"host = "{tenant}.internal:8080""#);
        ask(&app, "/", matched(0, &[("tenant", "acme")])).await.expect_status(200);
        let seen = app.last_seen();
        assert_eq!(seen.headers[HOST], "acme.internal:8080");

        ask(&app, "http://named.example/x", matched(0, &[("tenant", "acme")])).await.expect_status(200);
        let seen = app.last_seen();
        assert_eq!(
            (seen.uri.to_string(), &seen.headers[HOST]),
            ("http://acme.internal:8080/x".into(), &HeaderValue::from_static("acme.internal:8080"))
        );
    }

    #[tokio::test]
    async fn captures_cannot_make_a_path_climb() {
        let app = chain::<Rewrite>(r#"path = "/files/.{a}/{b}""#);
        for (a, b) in
            [(".", "x"), ("%2e", "x"), ("x", "%2E."), ("x", "..;v=1"), ("x", ".."), ("x", "y/../../z"), ("x", "..\\z")]
        {
            let answer = ask(&app, "/", matched(0, &[("a", a), ("b", b)])).await;
            answer.expect_status(400).expect_cause(Cause::PathRejected);
        }
        ask(&app, "/", matched(0, &[("a", "well-known"), ("b", "...")])).await.expect_status(200);
    }

    #[tokio::test]
    async fn captures_cannot_break_a_host() {
        let app = chain::<Rewrite>(r#"host = "{tenant}.internal""#);
        for tenant in ["evil.example/", "user@evil", "a%0d%0ab", "evil:port", "evil:80;"] {
            let answer = ask(&app, "/", matched(0, &[("tenant", tenant)])).await;
            answer.expect_status(400).expect_cause(Cause::BadRequest);
        }
        assert!(app.seen().is_empty());
    }

    #[tokio::test]
    async fn where_nothing_has_matched_a_prefix_or_capture_is_refused() {
        for toml in [r#"prefix = "/v2""#, r#"path = "/{id}""#, r#"host = "{id}.internal""#] {
            let app = chain::<Rewrite>(toml);
            app.get("/").await.expect_status(500).expect_cause(Cause::Internal);
            assert!(app.seen().is_empty());
        }
        let app = chain::<Rewrite>(r#"path = "/fixed""#);
        app.get("/x?y").await.expect_status(200);
        assert_eq!(app.last_seen().uri, "/fixed?y");

        let app = chain::<Rewrite>(r#"path = "/{other}""#);
        ask(&app, "/", matched(0, &[("id", "7")])).await.expect_status(500).expect_cause(Cause::Internal);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for (toml, fault) in [
            ("", "must say what to rewrite"),
            ("path = \"/a\"\nprefix = \"/b\"", "exclude each other"),
            ("path = \"a\"", "must begin with `/`"),
            ("path = \"/a?b\"", "has a query"),
            ("path = \"/a/../b\"", "has a dot segment"),
            ("path = \"/a\\\\b\"", "has a backslash"),
            ("path = \"/100%\"", "begins no escape"),
            ("prefix = \"//a\"", "several slashes"),
            ("path = \"/a b\"", "percent-encoded"),
            ("path = \"/ä\"", "percent-encoded"),
            ("path = \"/a\\r\\nb\"", "percent-encoded"),
            ("path = \"/{id\"", "lacks a `}`"),
            ("path = \"/id}\"", "a `}` too many"),
            ("path = \"/{}\"", "lacks its name"),
            ("prefix = \"/{id}\"", "takes no captures"),
            ("host = \"a/b\"", "is not a host"),
            ("host = \"user@a\"", "is not a host"),
            ("host = \"\"", "is not a host"),
            ("host = \"a:b\"", "is not a host"),
        ] {
            let faults = build::<Rewrite>(toml).map(drop).expect_err(toml);
            assert!(faults.contains(fault), "{toml}: {faults}");
        }
    }
}

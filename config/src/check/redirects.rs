//! Redirects: to one host, to a path that a client reads as it is meant, and not to themselves.

use std::num::NonZeroU16;

use super::Check;
use crate::file::pattern;
use crate::one_form::in_one_form;
use crate::units::HostPattern;
use crate::{Match, PathMatch, Redirect, Route, Spanned};

impl Check<'_> {
    pub(super) fn redirect(&mut self, route: &Route, redirect: &Spanned<Redirect>) {
        let status = &redirect.status;
        if !matches!(status.value, 301 | 302 | 303 | 307 | 308) {
            self.error(&status.span, format!("{status} is not a redirect; use 301, 302, 303, 307 or 308"));
        }
        let Redirect { scheme, host, port, path, prefix, .. } = &redirect.value;
        let changes = scheme.is_some() || host.is_some() || port.is_some() || path.is_some() || prefix.is_some();
        if !changes && !self.known.torn_routes.contains(&route.position) {
            self.error(&redirect.span, "this redirect leads back to itself")
                .label("needs at least one of: scheme, host, port, path, prefix");
        }
        if let Some(host) = host {
            match host.parse::<HostPattern>() {
                Ok(HostPattern::Exact(_)) => {}
                Ok(_) => {
                    self.error(&host.span, format!("`{host}` is a pattern, and a redirect leads to one host"));
                }
                Err(said) => {
                    let with_port = host.rsplit_once(':').and_then(|(name, port)| {
                        let port: NonZeroU16 = port.parse().ok()?;
                        matches!(name.parse(), Ok(HostPattern::Exact(_)))
                            .then(|| format!("the port has a key of its own: write `host = \"{name}\", port = {port}`"))
                    });
                    self.error(&host.span, with_port.unwrap_or(said));
                }
            }
        }
        if let Some(path) = path
            && let Err(said) = check_target(path)
        {
            self.error(&path.span, said);
        }
        if let Some(prefix) = prefix
            && let Err(said) = check_prefix(prefix)
        {
            self.error(&prefix.span, said);
        }
        if let (Some(path), Some(prefix)) = (path, prefix) {
            self.error(&prefix.span, "`path` and `prefix` exclude each other")
                .also(path.span.clone(), "this replaces the whole path");
        }
        if let Some(prefix) = prefix {
            self.needs_a_prefix(route, prefix);
        }
        if scheme.is_none() && host.is_none() && port.is_none() {
            self.leads_to_itself(route, redirect);
        }
    }

    /// Only what is certain: a match whose requests come back just as they were.
    fn leads_to_itself(&mut self, route: &Route, redirect: &Redirect) {
        let returns = |wanted: &&Match| {
            let by_get = matches!(redirect.status.value, 301..=303);
            let same_method =
                !by_get || wanted.methods.is_empty() || wanted.methods.iter().any(|it| it.as_str() == "GET");
            same_method && is_there_already(redirect, wanted)
        };
        let (Some(target), Some(wanted)) =
            (redirect.path.as_ref().or(redirect.prefix.as_ref()), route.matches.iter().find(returns))
        else {
            return;
        };
        let place = wanted.path.as_ref().map_or(&wanted.span, |path| &path.span);
        self.error(&target.span, "this redirect leads back to itself")
            .also(place.clone(), "the client comes back here");
    }

    /// `prefix` replaces the prefix that matched, so every match must have one.
    fn needs_a_prefix(&mut self, route: &Route, prefix: &Spanned<String>) {
        if self.known.torn_routes.contains(&route.position) {
            return;
        }
        let has_one = |wanted: &Match| matches!(wanted.path.as_deref(), Some(PathMatch::Prefix(_)));
        let without = route.matches.iter().find(|wanted| !has_one(wanted));
        if without.is_none() && !route.matches.is_empty() {
            return;
        }
        let said = "`prefix` replaces the prefix that matched, and there is none";
        let fault = self.error(&prefix.span, said);
        if let Some(wanted) = without {
            let place = wanted.path.as_ref().map_or(&wanted.span, |path| &path.span);
            fault.also(place.clone(), "this is not { prefix = \"…\" }");
        }
    }
}

/// A path that may bring a query and a fragment.
fn check_target(text: &str) -> Result<(), String> {
    let (path, rest) = text.split_at(text.find(['?', '#']).unwrap_or(text.len()));
    check_path(path)?;
    match rest.chars().find(|c| !c.is_ascii_graphic()) {
        Some(odd) => Err(format!("`{}` cannot stand in an address; write it percent-encoded", odd.escape_default())),
        None => Ok(()),
    }
}

fn check_prefix(text: &str) -> Result<(), String> {
    if text.contains(['?', '#']) {
        return Err("a prefix is a part of the path; the query of the request stays".into());
    }
    check_path(text)
}

fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("a path starts with `/`: write `/{path}`"));
    }
    // `//evil.example` and `/\evil.example` would leave the host in a browser.
    if path.starts_with("//") {
        return Err(format!("`{path}` begins with the name of a host for who reads it; a path begins with one `/`"));
    }
    if path.contains('\\') {
        return Err("browsers read `\\` as `/`; write that, or `%5C`".into());
    }
    if let Some(capture) = path.find(['{', '}']) {
        let capture = path[capture..].split_inclusive('}').next().unwrap_or_default();
        return Err(format!("a redirect takes no captures, so `{capture}` would be sent as it is"));
    }
    if let Some(dots) = path.split('/').find(|segment| matches!(*segment, "." | "..")) {
        return Err(format!("browsers resolve a segment `{dots}`; write the path that is meant"));
    }
    pattern::check_text(path)
}

/// Whether a request that matches has the path already that it is sent to.
fn is_there_already(redirect: &Redirect, wanted: &Match) -> bool {
    let bare = |prefix: &str| in_one_form(prefix.trim_end_matches('/'));
    match (&redirect.path, &redirect.prefix, wanted.path.as_deref()) {
        (Some(path), _, Some(PathMatch::Pattern(pattern))) => {
            // A query of its own may be just what the match does not want.
            let same_query = !path.contains('?') || wanted.query.iter().next().is_none();
            let path = path.split(['?', '#']).next().unwrap_or_default();
            same_query && !pattern.contains(['{', '}']) && in_one_form(path) == in_one_form(pattern)
        }
        (None, Some(prefix), Some(PathMatch::Prefix(matched))) => bare(prefix) == bare(matched),
        _ => false,
    }
}

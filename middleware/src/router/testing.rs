//! For the router's own tests: routes as the file writes them, answered by services that say their names.

use std::sync::Arc;

use axum::body::Body;
use http::header::HOST;
use portcullis_config::{Answer, ChainItem, File, Route};

use super::{Branch, Claim, Destination, Entry, Fault, Router, Table, redirect, respond, split};
use crate::layer::{Running, hop};
use crate::testing::{Chain, Setting, request};
use crate::{Next, Request, Response, RouteInfo};

/// Lets routes name any service.
pub(super) const REGISTRY: &str = "[registry.default]\ntype = \"memory\"";

/// The routes of a file that is nothing but routes.
pub(super) fn routes(toml: &str) -> Vec<Route> {
    // Paths are compared as they are here; those of requests are put in order elsewhere.
    let listener =
        "[listener.web]\naddress = \"127.0.0.1:0\"\npaths = { slashes = \"keep\", encoded_slashes = \"keep\" }";
    let (file, faults) = File::parse("gateway.toml", &format!("{listener}\n{toml}\n{REGISTRY}"));
    assert!(!faults.has_errors(), "{}", faults.render(false));
    file.expect("a file without errors").routes
}

/// A service that answers with its name as the body.
fn service(name: &str) -> Next {
    let name = name.to_owned();
    hop(move |_| Running::ready(Response::new(Body::from(name.clone()))))
}

fn answer(route: &Route) -> Result<Next, Fault> {
    match route.answer() {
        Answer::Service(name) => Ok(service(name)),
        Answer::Respond(settings) => respond(settings),
        Answer::Redirect(settings) => redirect(settings),
        Answer::Split(parts) => {
            let branch = |name: &str, weight| Branch { name: name.to_owned(), weight, answer: service(name) };
            let branches = parts.iter().map(|part| branch(&part.service, part.weight)).collect();
            Ok(split(branches, route.sticky.as_deref()).expect("a weight above 0"))
        }
    }
}

pub(super) fn entry(route: &Route) -> Result<Entry, Fault> {
    Ok(Entry {
        info: Arc::new(RouteInfo { name: route.label().into_owned(), place: route.place }),
        matches: route.matches.clone(),
        priority: route.priority,
        order: route.position,
        answer: answer(route)?,
    })
}

pub(super) fn table_of(routes: &[Route]) -> Result<Table, Vec<Fault>> {
    let entries: Result<Vec<_>, _> = routes.iter().map(entry).collect();
    Table::build(entries.map_err(|fault| vec![fault])?)
}

pub(super) fn table(toml: &str) -> Table {
    table_of(&routes(toml)).expect("routes that compile")
}

/// Routes as `check` sees them, every named middleware a guard.
pub(super) fn claims<'a>(routes: &'a [Route], listeners: &[&str]) -> Vec<Claim<'a>> {
    let destination = |name: &str| Destination { service: name.to_owned(), rewrites: Vec::new() };
    let claim = |route: &'a Route| {
        let serves = |name: &str| route.serves(name);
        let guards = route.chain.iter().filter_map(|item| match item {
            ChainItem::Named(name) => Some(name.value.clone()),
            ChainItem::Inline(_) => None,
        });
        Claim {
            label: route.label().into_owned(),
            span: route.span.clone(),
            matches: &route.matches,
            priority: route.priority,
            order: route.position,
            allow_shadowed: route.allow_shadowed,
            listeners: (0..listeners.len()).filter(|at| serves(listeners[*at])).collect(),
            guards: guards.collect(),
            services: match route.answer() {
                Answer::Service(name) => vec![destination(name)],
                Answer::Split(parts) => parts.iter().map(|part| destination(&part.service)).collect(),
                Answer::Respond(_) | Answer::Redirect(_) => Vec::new(),
            },
        }
    };
    routes.iter().map(claim).collect()
}

/// A chain of the router alone.
pub(super) fn gateway(toml: &str) -> Chain {
    let setting = Setting { routes: Some(Arc::new(table(toml))), ..Setting::default() };
    Chain::new(vec![setting.build::<Router>("").expect("the router has no settings")])
}

/// A `GET` with a `Host`.
pub(super) fn asking(host: &str, target: &str) -> Request {
    let mut asked = request("GET", target);
    asked.headers_mut().insert(HOST, host.parse().expect("a header"));
    asked
}

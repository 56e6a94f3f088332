//! Routes that get in each other's way: the router knows which, this tells it what the file says.

use portcullis_config::units::HostPattern;
use portcullis_config::{ChainItem, Faults, File, Route};
use portcullis_middleware::router::{self, Claim, Destination};

use super::{Branch, PlannedAnswer, PlannedRoute, Routes};

/// Reports duplicates, routes that never win, and ways around a guard.
pub(super) fn report(file: &File, routes: &Routes<'_>, faults: &mut Faults) {
    let claims: Vec<_> = routes.iter().map(|(route, planned)| claim(file, route, planned)).collect();
    let hosts: Vec<Vec<HostPattern>> = file
        .listeners
        .iter()
        .map(|listener| listener.value.hosts.iter().map(|host| host.value.clone()).collect())
        .collect();
    for finding in router::check(&claims, &hosts) {
        finding.report(&file.document, faults);
    }
}

fn claim<'a>(file: &File, route: &'a Route, planned: &'a PlannedRoute) -> Claim<'a> {
    let listeners = file.listeners.iter().enumerate().filter(|(_, listener)| route.serves(&listener.name.value));
    let guards = planned.chain.iter().filter(|link| link.decides_access).map(|link| {
        let named = route.chain.iter().any(|item| matches!(item, ChainItem::Named(name) if name.value == link.name));
        // An inline table is a guard of its own, even if another says the same.
        if named { link.name.clone() } else { format!("{} at {}", link.type_name, link.place) }
    });
    let destination = |branch: &'a Branch| {
        let links = planned.chain.iter().chain(&branch.chain);
        let rewrites = links.filter_map(|link| link.layer.rewriter()?.path());
        Destination { service: branch.service.clone(), rewrites: rewrites.collect() }
    };
    let services = match &planned.answer {
        PlannedAnswer::Services(branches) => branches.iter().map(destination).collect(),
        PlannedAnswer::Respond(_) | PlannedAnswer::Redirect(_) => Vec::new(),
    };
    Claim {
        label: route.label().into_owned(),
        span: route.span.clone(),
        matches: &route.matches,
        priority: route.priority,
        order: route.position,
        allow_shadowed: route.allow_shadowed,
        listeners: listeners.map(|(position, _)| position).collect(),
        guards: guards.collect(),
        services,
    }
}

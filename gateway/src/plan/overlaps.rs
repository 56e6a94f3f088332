//! Routes that get in each other's way: the router knows which, this tells it what the file says.

use portcullis_config::units::HostPattern;
use portcullis_config::{ChainItem, Faults, File, Route};
use portcullis_middleware::router::{self, Claim};

use super::{Link, PlannedAnswer, Routes};

/// Reports duplicates, routes that never win, and ways around a guard.
pub(super) fn report(file: &File, routes: &Routes<'_>, faults: &mut Faults) {
    let claims: Vec<_> =
        routes.iter().map(|(route, planned)| claim(file, route, &planned.chain, &planned.answer)).collect();
    let hosts: Vec<Vec<HostPattern>> = file
        .listeners
        .iter()
        .map(|listener| listener.value.hosts.iter().map(|host| host.value.clone()).collect())
        .collect();
    for finding in router::check(&claims, &hosts) {
        finding.report(&file.document, faults);
    }
}

fn claim<'a>(file: &File, route: &'a Route, chain: &[Link], answer: &PlannedAnswer) -> Claim<'a> {
    let served =
        |name: &str| route.listeners.is_empty() || route.listeners.iter().any(|listener| listener.value == name);
    let listeners = file.listeners.iter().enumerate().filter(|(_, listener)| served(&listener.name.value));
    let guards = chain.iter().filter(|link| link.decides_access).map(|link| {
        let named = route.chain.iter().any(|item| matches!(item, ChainItem::Named(name) if name.value == link.name));
        // An inline table is a guard of its own, even if another says the same.
        if named { link.name.clone() } else { format!("{} at {}", link.type_name, link.place) }
    });
    let services = match answer {
        PlannedAnswer::Services(branches) => branches.iter().map(|branch| branch.service.clone()).collect(),
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

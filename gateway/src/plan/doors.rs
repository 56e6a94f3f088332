//! Listeners, gathered by address, each with its chain and the routes it serves.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use portcullis_config::units::HostPattern;
use portcullis_config::{Faults, File, Listener, Named};
use portcullis_middleware::client::TrustedProxies;
use portcullis_middleware::layer::{Running, fold, hop};
use portcullis_middleware::paths::Arrived;
use portcullis_middleware::router::{Entry, HostMap, Table};
use portcullis_middleware::{Cause, Next, Rejection};

use axum::response::IntoResponse;

use super::chains::Middlewares;
use super::{Link, Routes};
use crate::edge::{Door, Entrance};
use crate::proxy_protocol::{Counts, Receiver};
use crate::server::Manners;
use crate::tls::{self, Downstream};

/// One door per address, in file order.
pub(super) fn build(
    file: &File,
    routes: &Routes<'_>,
    middlewares: &mut Middlewares<'_>,
    headers: &Arc<Counts>,
    faults: &mut Faults,
) -> Vec<Door> {
    let trusted_proxies: Arc<TrustedProxies> = Arc::new(file.trusted_proxies.iter().copied().collect());
    let mut tables = Tables::default();
    let mut doors: Vec<Door> = Vec::new();
    for named in &file.listeners {
        let address = &named.value.address.value;
        let table = tables.of(file, named, routes, faults);
        let entrance = Arc::new(entrance(file, named, table, middlewares, faults));
        let door = match doors.iter_mut().find(|door| door.address == *address) {
            Some(door) => door,
            None => {
                doors.push(door(&named.value, trusted_proxies.clone(), headers));
                doors.last_mut().expect("it was put there just now")
            }
        };
        door.names.push(entrance.name.clone());
        let any = [HostPattern::Any];
        let hosts: Vec<&HostPattern> = match named.value.hosts.as_slice() {
            [] => any.iter().collect(),
            hosts => hosts.iter().map(|host| &host.value).collect(),
        };
        for host in hosts {
            door.listeners.insert(host, entrance.clone());
        }
    }
    doors
}

/// Gives the doors what they need to shake hands, where the file wants that.
pub(super) fn secure(
    doors: &mut [Door],
    file: &File,
    directory: &Path,
    shared: &tls::Shared,
    files: &mut tls::Files,
    faults: &mut Faults,
) {
    for door in doors {
        let here = |named: &&Named<Listener>| named.value.address.value == door.address;
        let listeners: Vec<_> = file.listeners.iter().filter(here).collect();
        // All have it or none; that was checked with the file.
        if listeners.iter().any(|listener| listener.value.tls.is_some()) {
            door.tls = Downstream::build(&listeners, directory, shared, &file.document, faults, files);
        }
    }
}

fn door(listener: &Listener, trusted_proxies: Arc<TrustedProxies>, headers: &Arc<Counts>) -> Door {
    // Listeners that share an address agree on these; that was checked with the file.
    let manners = Manners::new(&listener.limits, &listener.timeouts);
    let receiver = || Arc::new(Receiver::new(trusted_proxies.clone(), headers.clone()));
    Door {
        address: listener.address.value.clone(),
        manners,
        proxy_protocol: listener.proxy_protocol.value.then(receiver),
        trusted_proxies,
        tls: None,
        listeners: HostMap::default(),
        names: Vec::new(),
    }
}

fn entrance(
    file: &File,
    named: &Named<Listener>,
    routes: Arc<Table>,
    middlewares: &mut Middlewares<'_>,
    faults: &mut Faults,
) -> Entrance {
    let links = middlewares.of_listener(&named.value.chain, &routes, faults);
    let router = links.iter().position(|link| link.type_name == "router");
    if let Some(after) = router.and_then(|router| links.get(router + 1)) {
        let message = format!("middleware `{}` stands after `router`, so no request ever reaches it", after.name);
        let span =
            named.value.chain.get(router.unwrap_or_default() + 1).map_or(named.name.span.clone(), |item| item.span());
        faults.error(&file.document, span, message).label("move it before `router`");
    }
    if router.is_none() && links.len() == named.value.chain.len() {
        let message = format!(
            "listener `{}` has no `router` in its chain, so it answers every request with 404",
            named.name.value
        );
        let namesake = links.iter().find(|link| link.name == "router");
        let help = match namesake {
            Some(link) => {
                format!("its \"router\" is `[middleware.router]`, of type `{}`; call that differently", link.type_name)
            }
            None => "add \"router\" at the end of its `chain`".to_owned(),
        };
        faults.warning(&file.document, named.name.span.clone(), message).help(help);
    }
    let end: Next = hop(|_| Running::ready(Rejection::new(Cause::NoRoute).into_response()));
    let chain = fold(Link::layers(&links), end);
    let policy = named.value.paths;
    let paths = Arrived { policy, by: policy.on_arrival(routes.paths()) };
    Entrance { name: named.name.value.as_str().into(), forwarding: named.value.forwarding, paths, links, routes, chain }
}

/// Compiled routes. Listeners that serve the same ones share the table.
#[derive(Default)]
struct Tables(HashMap<Vec<usize>, Arc<Table>>);

impl Tables {
    fn of(&mut self, file: &File, listener: &Named<Listener>, routes: &Routes<'_>, faults: &mut Faults) -> Arc<Table> {
        let name = &listener.name.value;
        let served: Vec<usize> =
            (0..routes.len()).filter(|index| routes[*index].1.listeners.iter().any(|served| served == name)).collect();
        if let Some(table) = self.0.get(&served) {
            return table.clone();
        }
        let entries = served.iter().map(|index| {
            let (route, planned) = &routes[*index];
            Entry {
                info: planned.info.clone(),
                matches: route.matches.clone(),
                priority: route.priority,
                order: route.position,
                answer: planned.next.clone(),
            }
        });
        let table = match Table::build(entries.collect()) {
            Ok(table) => Arc::new(table.with_paths(served.iter().map(|index| routes[*index].0.paths))),
            Err(wrong) => {
                for fault in wrong {
                    fault.report(&file.document, faults);
                }
                Arc::default()
            }
        };
        self.0.insert(served, table.clone());
        table
    }
}

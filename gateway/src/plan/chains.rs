//! Chains: the middlewares that are listed, built and folded around what answers.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use portcullis_config::{self as config, Answer, ChainItem, Faults, File, Place, Raw, Route, Spanned};
use portcullis_middleware::layer::fold;
use portcullis_middleware::plugin::{Shared, Task};
use portcullis_middleware::router::{self, Table};
use portcullis_middleware::timeout::Deadline;
use portcullis_middleware::{Context, Next, RouteInfo, RouteLayer};

use super::services::{ByRequest, ServiceBook, service_name};
use super::{Branch, Link, PlannedAnswer, PlannedRoute, rewrites};
use crate::plugins::Plugins;
use crate::proxy::{Forward, Overrides, Service};

/// Builds middlewares, each named one once.
pub(super) struct Middlewares<'a> {
    file: &'a File,
    directory: &'a Path,
    plugins: &'a Plugins,
    shared: &'a Shared,
    services: Arc<ServiceBook>,
    /// By name; `None` for one that could not be built, which was reported.
    named: HashMap<&'a str, Option<Link>>,
    tasks: Vec<Task>,
}

impl<'a> Middlewares<'a> {
    /// Builds every middleware that has a name, used or not: a fault in it is a fault.
    pub(super) fn build(
        file: &'a File,
        directory: &'a Path,
        plugins: &'a Plugins,
        shared: &'a Shared,
        services: Arc<ServiceBook>,
        faults: &mut Faults,
    ) -> Self {
        let mut all = Self { file, directory, plugins, shared, services, named: HashMap::new(), tasks: Vec::new() };
        for named in &file.middlewares {
            let link = all.link(&named.name.value, &named.value, named.place, None, faults);
            all.named.insert(&named.name.value, link);
        }
        all
    }

    /// Builds the routes, in file order, each with its own description.
    pub(super) fn routes(&mut self, faults: &mut Faults) -> Vec<(&'a Route, Arc<PlannedRoute>)> {
        let file = self.file;
        file.routes.iter().filter_map(|route| Some((route, Arc::new(self.route(route, faults)?)))).collect()
    }

    /// The tasks that the middlewares want to run.
    pub(super) fn into_tasks(self) -> Vec<Task> {
        self.tasks
    }

    /// The middlewares of a listener's chain, where a router may stand.
    pub(super) fn of_listener(&mut self, items: &[ChainItem], routes: &Arc<Table>, faults: &mut Faults) -> Vec<Link> {
        let document = &self.file.document;
        let links = items.iter().filter_map(|item| {
            let link = self.item(item, Some(routes), faults)?;
            rewrites::before_routes(&link, &item.span(), document, faults);
            Some(link)
        });
        links.collect()
    }

    /// The middlewares of a route's chain, or of one of its branches.
    fn of_route(&mut self, items: &[ChainItem], route: &Route, faults: &mut Faults) -> Vec<Link> {
        let document = &self.file.document;
        let links = items.iter().filter_map(|item| {
            let link = self.item(item, None, faults)?;
            rewrites::of_route(&link, route, &item.span(), document, faults);
            Some(link)
        });
        links.collect()
    }

    fn item(&mut self, item: &ChainItem, routes: Option<&Arc<Table>>, faults: &mut Faults) -> Option<Link> {
        match item {
            ChainItem::Inline(raw) => self.link(&raw.type_name, raw, raw.place, routes, faults),
            ChainItem::Named(name) => {
                if let Some(link) = self.named.get(name.as_str()) {
                    return link.clone();
                }
                let place = self.file.document.place(&name.span);
                if self.plugins.find_middleware(name).is_some() {
                    let raw = Raw::bare(name, name.span.clone(), place);
                    return self.link(name, &raw, place, routes, faults);
                }
                self.unknown(name, faults);
                None
            }
        }
    }

    fn link(
        &mut self,
        name: &str,
        raw: &Raw,
        place: Place,
        routes: Option<&Arc<Table>>,
        faults: &mut Faults,
    ) -> Option<Link> {
        let Some(row) = self.plugins.find_middleware(&raw.type_name) else {
            self.unknown_type(&raw.type_name, faults);
            return None;
        };
        let mut context = Context::new(name, self.shared).in_directory(self.directory).with_services(&*self.services);
        if let Some(routes) = routes {
            context = context.with_routes(routes.clone());
        }
        let layer = (row.build)(raw, &self.file.document, &context, faults)?;
        self.tasks.extend(context.take_tasks());
        Some(Link {
            name: name.to_owned(),
            type_name: row.name.to_owned(),
            place,
            decides_access: row.decides_access,
            layer,
        })
    }

    fn unknown(&self, name: &Spanned<String>, faults: &mut Faults) {
        let declared: Vec<_> = self.file.middlewares.iter().map(|named| named.name.value.as_str()).collect();
        config::unknown_middleware(name, &declared, &self.types(), &self.file.document, faults);
    }

    fn unknown_type(&self, given: &Spanned<String>, faults: &mut Faults) {
        config::unknown_type(config::Kind::Middleware, given, &self.types(), &self.file.document, faults);
    }

    fn types(&self) -> Vec<&'static str> {
        self.plugins.middlewares().iter().map(|row| row.name).collect()
    }

    fn route(&mut self, route: &'a Route, faults: &mut Faults) -> Option<PlannedRoute> {
        let chain = self.of_route(&route.chain, route, faults);
        let overrides = Overrides::from(route);
        let (answer, end) = self.answer(route, &overrides, faults)?;
        let timeouts = route.timeouts.clone().unwrap_or_default();
        let total =
            timeouts.total.and_then(|total| total.limit()).map(|total| RouteLayer::around(Deadline::after(total)));
        let layers = chain.iter().map(|link| &link.layer).chain(&total);
        let next = fold(layers.collect::<Vec<_>>().into_iter(), end);
        let listeners = match route.listeners.as_slice() {
            [] => self.file.listeners.iter().map(|listener| listener.name.value.clone()).collect(),
            named => named.iter().map(|name| name.value.clone()).collect(),
        };
        let info = Arc::new(RouteInfo { name: route.label().into_owned(), place: route.place });
        Some(PlannedRoute { info, listeners, chain, answer, timeouts, next })
    }

    /// What answers a route, and the end of its chain.
    fn answer(
        &mut self,
        route: &'a Route,
        overrides: &Overrides,
        faults: &mut Faults,
    ) -> Option<(PlannedAnswer, Next)> {
        let document = &self.file.document;
        match route.answer() {
            Answer::Service(service) => {
                let end = self.forward(service, overrides, faults)?;
                let branch = Branch { service: service.value.clone(), weight: 1, chain: Vec::new() };
                Some((PlannedAnswer::Services(vec![branch]), end))
            }
            Answer::Split(parts) => {
                let (planned, branches) = self.branches(parts, route, overrides, faults);
                let sticky = route.sticky.as_ref().map(|sticky| &sticky.value);
                // All weights zero was a fault of the file already.
                let end = router::split(branches, sticky)?;
                Some((PlannedAnswer::Services(planned), end))
            }
            Answer::Respond(respond) => match router::respond(respond) {
                Ok(end) => Some((PlannedAnswer::Respond(respond.status.value), end)),
                Err(fault) => {
                    fault.report(document, faults);
                    None
                }
            },
            Answer::Redirect(redirect) => match router::redirect(redirect) {
                Ok(end) => Some((PlannedAnswer::Redirect(redirect.status.value), end)),
                Err(fault) => {
                    fault.report(document, faults);
                    None
                }
            },
        }
    }

    fn branches(
        &mut self,
        parts: &[config::Split],
        route: &Route,
        overrides: &Overrides,
        faults: &mut Faults,
    ) -> (Vec<Branch>, Vec<router::Branch>) {
        let (mut planned, mut branches) = (Vec::new(), Vec::new());
        for part in parts {
            let chain = self.of_route(&part.chain, route, faults);
            let Some(end) = self.forward(&part.service, overrides, faults) else { continue };
            let answer = fold(chain.iter().map(|link| &link.layer), end);
            branches.push(router::Branch { name: part.service.value.clone(), weight: part.weight, answer });
            planned.push(Branch { service: part.service.value.clone(), weight: part.weight, chain });
        }
        (planned, branches)
    }

    /// The end of a chain that sends to a service of this name, or to the one that the request names.
    fn forward(&self, name: &Spanned<String>, overrides: &Overrides, faults: &mut Faults) -> Option<Next> {
        let service = match config::capture_of(name) {
            Some(capture) => {
                Service::Named(Arc::new(ByRequest { capture: capture.to_owned(), services: self.services.clone() }))
            }
            None => match self.services.find(name) {
                Some(upstream) => Service::Fixed(upstream),
                None => {
                    // That it can exist was checked with the file, and what could not be built was reported.
                    service_name(self.file, name, faults);
                    return None;
                }
            },
        };
        Some(Next::new(Forward::new(service, overrides.clone())))
    }
}

impl Link {
    /// The middlewares of a chain as layers.
    pub(super) fn layers(links: &[Link]) -> impl DoubleEndedIterator<Item = &RouteLayer> {
        links.iter().map(|link| &link.layer)
    }
}

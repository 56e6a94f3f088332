//! Routes: exactly one answer, names that lead somewhere, and answers that can be given.

use std::collections::HashMap;
use std::ops::Range;

use super::{Check, unmatched};
use crate::file::{DEFAULT_REGISTRY, capture_of, pattern};
use crate::names::fault_of_name;
use crate::node::{Kind, Node};
use crate::one_form::Left;
use crate::raw::Step;
use crate::units::{HostPattern, settled_by_the_gateway};
use crate::{EncodedSlashes, Listener, Match, Named, PathMatch, Respond, Route, Slashes, Spanned, Split, Sticky};

impl Check<'_> {
    pub(super) fn routes(&mut self) {
        let file = self.file;
        // Once for all routes: it is a look at all of them.
        let left = self.left_in_paths();
        let mut names: HashMap<&str, &Spanned<String>> = HashMap::new();
        for route in &file.routes {
            if let Some(name) = &route.name {
                if let Some(said) = fault_of_name("route", name) {
                    self.error(&name.span, said);
                }
                // That is what routes without a name are called.
                if let Some(digits) = name.strip_prefix('#')
                    && !digits.is_empty()
                    && digits.bytes().all(|byte| byte.is_ascii_digit())
                {
                    self.error(&name.span, format!("`{name}` is what a route without a name is called"));
                }
                if let Some(first) = names.insert(name, name) {
                    self.error(&name.span, format!("two routes are called `{name}`"))
                        .label("again here")
                        .also(first.span.clone(), "first here");
                }
            }
            self.route(route, &left);
        }
    }

    fn route(&mut self, route: &Route, left: &[Left]) {
        self.one_answer(route);
        self.no_duplicates(&route.listeners);
        for listener in &route.listeners {
            if !self.known.listeners.contains(&listener.value) {
                self.unknown("listener", listener, &self.known.listeners);
            }
        }
        for wanted in &route.matches {
            self.wanted(wanted);
            self.path_that_no_request_has(route, wanted, left);
        }
        self.nobody_is_not_everybody(route);
        if let Some(service) = &route.service {
            self.service_of(route, service);
        }
        if let Some(split) = &route.split {
            self.split(split);
        }
        if let Some(sticky) = &route.sticky {
            self.sticky(route, sticky);
        }
        if let Some(respond) = &route.respond {
            self.respond(respond);
        }
        if let Some(redirect) = &route.redirect {
            self.redirect(route, redirect);
        }
        self.clocks(route);
    }

    fn one_answer(&mut self, route: &Route) {
        let answers = [
            ("service", route.service.as_ref().map(|it| &it.span)),
            ("split", route.split.as_ref().map(|it| &it.span)),
            ("respond", route.respond.as_ref().map(|it| &it.span)),
            ("redirect", route.redirect.as_ref().map(|it| &it.span)),
        ];
        let given = answers.iter().filter_map(|(key, span)| span.map(|span| (key, span)));
        let mut given: Vec<_> = given.collect();
        given.sort_by_key(|(_, span)| span.start);
        let mut given = given.into_iter();
        let Some((first, first_span)) = given.next() else {
            if !self.known.torn_routes.contains(&route.position) {
                let said = format!("nothing answers route {}", quoted(route));
                self.error(&route.span, said).label("needs one of: service, split, respond, redirect");
            }
            return;
        };
        for (key, span) in given {
            let said = format!("route {} has two answers: `{first}` and `{key}`", quoted(route));
            self.error(span, said)
                .label("the second")
                .also(first_span.clone(), "the first")
                .help("a route has exactly one of: service, split, respond, redirect");
        }
    }

    fn wanted(&mut self, wanted: &Match) {
        self.no_duplicates(&wanted.hosts);
        self.no_duplicates(&wanted.methods);
        if let Some(any) = wanted.hosts.iter().find(|host| host.value == HostPattern::Any)
            && wanted.hosts.len() > 1
        {
            self.warning(&any.span, "`*` is any host, so the others in this list change nothing");
        }
        // Keys of a TOML table differ, but these are one header all the same.
        self.no_duplicates(wanted.headers.iter().map(|(name, _)| name));
        for (name, _) in &wanted.cookies {
            self.cookie(name, &name.span);
        }
    }

    /// RFC 6265 §4.1.1: a cookie's name is a token.
    fn cookie(&mut self, name: &str, span: &Range<usize>) {
        let token = |byte: u8| byte.is_ascii_graphic() && !br#"()<>@,;:\"/[]?={}"#.contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            self.error(span, format!("`{name}` is not the name of a cookie"));
        }
    }

    /// Routes are compared with paths that were put in order: what is not left in any of them matches nothing.
    fn path_that_no_request_has(&mut self, route: &Route, wanted: &Match, left: &[Left]) {
        let Some(path) = &wanted.path else { return };
        let fault = |left| match &path.value {
            PathMatch::Pattern(text) | PathMatch::Prefix(text) => unmatched::by_slashes(text, left),
            PathMatch::Regex(regex) => unmatched::by_expression(regex, left),
        };
        let mut kinds: Vec<Left> = Vec::new();
        for (listener, left) in self.file.listeners.iter().zip(left) {
            if route.serves(&listener.name.value) && !kinds.contains(left) {
                kinds.push(*left);
            }
        }
        // One listener whose requests it can match is enough.
        let faults: Option<Vec<_>> = kinds.into_iter().map(fault).collect();
        if let Some(fault) = faults.and_then(|mut faults| faults.pop()) {
            let reported = self.error(&path.span, fault.said);
            if let Some(help) = fault.help {
                reported.help(help);
            }
        }
    }

    /// What each listener leaves in paths by the time routes are compared, in the listeners' order.
    fn left_in_paths(&self) -> Vec<Left> {
        let file = self.file;
        let left = |listener: &Named<Listener>| {
            let routes = file.routes.iter().filter(|route| route.serves(&listener.name.value));
            let paths = listener.value.paths.on_arrival(routes.map(|route| route.paths));
            Left {
                slashes: paths.slashes == Slashes::Keep,
                encoded_slashes: paths.encoded_slashes == EncodedSlashes::Keep,
            }
        };
        file.listeners.iter().map(left).collect()
    }

    /// A list that lost its last entry must not open a door: it says nobody, and leaving it out says everybody.
    fn nobody_is_not_everybody(&mut self, route: &Route) {
        let file = self.file;
        let path = [Step::from("route"), Step::Index(route.position), Step::from("match")];
        let Some(written) = file.document.root.find(&path) else { return };
        let is_empty = |node: &Node| matches!(&node.kind, Kind::List(items) if items.is_empty());
        if is_empty(written) {
            self.error(&written.span, "an empty list of matches would match every request")
                .help("leave `match` out if that is meant");
        }
        for clients in written.items().iter().chain([written]).filter_map(|one| one.get("clients")) {
            if is_empty(clients) {
                self.error(&clients.span, "`clients` is empty, so every client would match")
                    .help("leave it out if that is meant");
            }
        }
    }

    fn service_of(&mut self, route: &Route, service: &Spanned<String>) {
        let Some(capture) = capture_of(service) else {
            self.known_service(service);
            return;
        };
        if capture.is_empty() || capture.contains(['{', '}']) {
            let said = format!("`{service}` is not a service; a name out of the path is one capture: `{{service}}`");
            self.error(&service.span, said);
            return;
        }
        let captures = |wanted: &Match| match wanted.path.as_deref() {
            Some(PathMatch::Pattern(path)) => pattern::captures(path).any(|name| name == capture),
            _ => false,
        };
        let said = format!("no path captures `{{{capture}}}`, which would name the service");
        if route.matches.is_empty() && !self.known.torn_routes.contains(&route.position) {
            self.error(&service.span, said);
            return;
        }
        for wanted in route.matches.iter().filter(|wanted| !captures(wanted)) {
            if self.known.torn_routes.contains(&route.position) {
                continue;
            }
            let place = wanted.path.as_ref().map_or(&wanted.span, |path| &path.span);
            self.error(&service.span, said.clone())
                .label("taken from the path")
                .also(place.clone(), format!("no `{{{capture}}}` here"));
        }
        if self.known.services.is_empty() && self.known.registries.is_empty() && !self.known.torn {
            self.error(&service.span, "no service is declared and there is no registry to look one up in");
        }
    }

    fn known_service(&mut self, service: &Spanned<String>) {
        if service.is_empty() {
            self.error(&service.span, "a service's name cannot be empty");
            return;
        }
        if service.contains(['{', '}']) {
            let said = format!(
                "`{service}` cannot be the name of a service; a name out of the path stands alone: `{{service}}`"
            );
            self.error(&service.span, said);
            return;
        }
        let looked_up = self.known.registries.contains(DEFAULT_REGISTRY);
        if looked_up || self.known.torn || self.known.services.contains(&service.value) {
            return;
        }
        self.unknown("service", service, &self.known.services);
    }

    fn split(&mut self, split: &Spanned<Vec<Split>>) {
        if split.is_empty() {
            self.error(&split.span, "a split without parts answers nothing");
            return;
        }
        for part in &split.value {
            self.known_service(&part.service);
        }
        if split.iter().all(|part| part.weight == 0) {
            self.error(&split.span, "all weights of this split are 0").label("no part of it would get a request");
        }
    }

    fn sticky(&mut self, route: &Route, sticky: &Spanned<Sticky>) {
        if route.split.is_none() && !self.known.torn_routes.contains(&route.position) {
            self.error(&sticky.span, "`sticky` ties clients to a part of a `split`, and there is none");
        }
        match &sticky.value {
            Sticky::Client(false) => {
                self.error(&sticky.span, "`client` can only be `true`")
                    .help("leave `sticky` out to draw every request anew");
            }
            Sticky::Cookie(name) => {
                self.cookie(name, &sticky.span);
            }
            Sticky::Client(true) | Sticky::Header(_) => {}
        }
    }

    fn respond(&mut self, respond: &Spanned<Respond>) {
        let status = &respond.status;
        // RFC 9110 §6.4.1: these have no content, whatever a body says.
        if matches!(status.value, 204 | 205 | 304) && !respond.body.is_empty() {
            self.error(&respond.span, format!("an answer with status {status} has no body"));
        }
        self.no_duplicates(respond.headers.iter().map(|(name, _)| name));
        for (name, _) in &respond.headers {
            if let Some(reason) = settled_by_the_gateway(name) {
                self.error(&name.span, format!("`{name}` {reason}"));
            }
        }
    }

    fn clocks(&mut self, route: &Route) {
        let Some(timeouts) = &route.timeouts else {
            return;
        };
        let limit = |clock: Option<crate::units::Duration>| clock.and_then(|clock| clock.limit());
        if let (Some(total), Some(attempt)) = (limit(timeouts.total), limit(timeouts.attempt))
            && attempt > total
        {
            let path = ["route".into(), route.position.into(), "timeouts".into(), "attempt".into()];
            let written = self.file.document.root.find(&path);
            let span = written.map_or_else(|| route.span.clone(), |node| node.span.clone());
            self.error(&span, "one attempt may take longer than all of them together").label("longer than `total`");
        }
    }
}

fn quoted(route: &Route) -> String {
    match &route.name {
        Some(name) => format!("`{name}`"),
        None => route.label().into_owned(),
    }
}

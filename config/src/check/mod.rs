//! What the types cannot say: names that must lead somewhere, and tables that must agree.
//!
//! The checks also run on a file of which parts could not be read, so that all faults show in one
//! run. They then know what was [declared](Known), and are silent about what may only be missing
//! because it could not be read.

mod listeners;
pub(crate) mod not_yet;
mod redirects;
mod routes;
mod services;
mod unmatched;

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use crate::names::listed;
use crate::units::TrustedProxy;
use crate::{Faults, File, Spanned, did_you_mean};

/// What the file declares, whether or not it could be read.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) listeners: BTreeSet<String>,
    pub(crate) registries: BTreeSet<String>,
    pub(crate) services: BTreeSet<String>,
    /// Routes that lack something because it could not be read, by position.
    pub(crate) torn_routes: HashSet<usize>,
    /// The same for services, by name.
    pub(crate) torn_services: HashSet<String>,
    /// A whole section could not be read, so any name may be declared after all.
    pub(crate) torn: bool,
}

/// More threads than any machine has cores for; beyond it the system gives out.
const MOST_WORKERS: usize = 1024;

pub(crate) fn check(file: &File, known: &Known, trusted_proxies: &[Spanned<TrustedProxy>], faults: &mut Faults) {
    let mut check = Check { file, known, faults };
    check.top(trusted_proxies);
    check.listeners();
    check.services();
    check.routes();
    check.unused_middlewares();
    not_yet::check(file, faults);
}

struct Check<'a> {
    file: &'a File,
    known: &'a Known,
    faults: &'a mut Faults,
}

impl Check<'_> {
    fn error(&mut self, span: &Range<usize>, message: impl Into<String>) -> &mut crate::Diagnostic {
        let document = &self.file.document;
        self.faults.error(document, span.clone(), message)
    }

    fn warning(&mut self, span: &Range<usize>, message: impl Into<String>) -> &mut crate::Diagnostic {
        let document = &self.file.document;
        self.faults.warning(document, span.clone(), message)
    }

    fn top(&mut self, trusted_proxies: &[Spanned<TrustedProxy>]) {
        if let Some(workers) = self.file.workers.filter(|workers| workers.get() > MOST_WORKERS) {
            let span = self.file.document.root.get("workers").map_or(0..0, |node| node.span.clone());
            self.error(&span, format!("`workers` is {workers}, and each is a thread; it goes up to {MOST_WORKERS}"));
        }
        for trusted in trusted_proxies {
            if matches!(trusted.value, TrustedProxy::Network(network) if network.is_everyone()) {
                self.warning(&trusted.span, "every client may claim any address")
                    .label("this is everyone")
                    .help("name only the proxies in front of this gateway");
            }
        }
        if let Some(admin) = &self.file.admin
            && !admin.address.tcp().ip().is_loopback()
        {
            self.warning(&admin.address.span, "the admin listener can be reached from elsewhere")
                .label("this is not loopback, and it asks for no password");
        }
        if self.known.torn {
            return;
        }
        let name = &self.file.document.name;
        if self.known.listeners.is_empty() {
            self.faults
                .error_without_place(format!("`{name}` has no listener, so nothing would be served"))
                .help("add one: [listener.web] with address = \"0.0.0.0:8080\"");
        }
        if self.file.routes.is_empty() && self.known.torn_routes.is_empty() {
            self.faults.warning_without_place(format!("`{name}` has no route, so every request is answered with 404"));
        }
    }

    /// A middleware that no chain lists guards nothing, which is rarely what was meant.
    fn unused_middlewares(&mut self) {
        if self.known.torn || !self.known.torn_routes.is_empty() {
            return;
        }
        let file = self.file;
        let used: HashSet<&str> = file
            .chains()
            .filter_map(|item| match item {
                crate::ChainItem::Named(name) => Some(name.as_str()),
                crate::ChainItem::Inline(_) => None,
            })
            .collect();
        // A name that is nearly this one is a slip of the pen, and is reported as such.
        let declared: Vec<&str> = file.middlewares.iter().map(|middleware| middleware.name.as_str()).collect();
        let meant: HashSet<&str> = used
            .iter()
            .filter(|name| !declared.contains(name))
            .filter_map(|name| crate::did_you_mean(name, declared.iter().copied()))
            .collect();
        for middleware in &file.middlewares {
            if !used.contains(middleware.name.as_str()) && !meant.contains(middleware.name.as_str()) {
                let said = format!("middleware `{}` is in no chain", middleware.name);
                self.warning(&middleware.name.span, said);
            }
        }
    }

    /// Reports a name that leads nowhere.
    fn unknown(&mut self, kind: &str, name: &Spanned<String>, known: &BTreeSet<String>) {
        let guess = did_you_mean(name, known.iter().map(String::as_str));
        let guess = guess.map(|guess| format!("; did you mean `{guess}`?"));
        let said = format!("unknown {kind} `{name}`{}", guess.unwrap_or_default());
        let label = match known.is_empty() {
            true => format!("no {kind} is declared"),
            false => format!("declared: {}", listed(known.iter().map(String::as_str))),
        };
        self.error(&name.span, said).label(label);
    }

    /// Reports whatever a list says twice.
    fn no_duplicates<'b, T: PartialEq + std::fmt::Display + 'b>(
        &mut self,
        list: impl IntoIterator<Item = &'b Spanned<T>>,
    ) {
        let mut seen: Vec<&Spanned<T>> = Vec::new();
        for item in list {
            if let Some(first) = seen.iter().find(|first| first.value == item.value) {
                self.error(&item.span, format!("`{item}` is listed twice"))
                    .label("again here")
                    .also(first.span.clone(), "first here");
            } else {
                seen.push(item);
            }
        }
    }
}

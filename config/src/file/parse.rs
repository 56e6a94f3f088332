//! From text to [`File`]: each table is read on its own, so that one mistake hides no other.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::{AccessLog, Admin, File, Listener, Named, Route, Service};
use crate::check::{Known, check};
use crate::decode::{Decoded, decode};
use crate::names::fault_of_name;
use crate::node::{Kind, Node};
use crate::units::TrustedProxy;
use crate::{Document, Faults, Raw, Spanned};

/// The file's outline: what may stand at its top. Tables are kept unread.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
pub(crate) struct Outline {
    /// Networks of the proxies that may speak for a client; `"unix:"` is whoever connects over a unix socket. Default:
    /// nobody.
    trusted_proxies: Vec<Spanned<TrustedProxy>>,
    /// How many workers serve requests, each a thread. Default: one per core.
    workers: Option<NonZeroUsize>,
    /// The access log.
    access_log: AccessLog,
    /// Addresses that accept connections.
    listener: Tables<Listener>,
    /// The admin listener. Default: none.
    admin: Option<Unread<Admin>>,
    /// Where services' instances are looked up. Services use the one called `default` unless they name another.
    registry: Tables<Raw>,
    /// Services that routes send to.
    service: Tables<Service>,
    /// Middlewares that chains list by name. Chains that list the same one share its state.
    middleware: Tables<Raw>,
    /// The routes.
    route: Vec<Unread<Route>>,
}

/// A table of tables: `[listener.web]`, `[listener.internal]`.
struct Tables<T>(Vec<(Spanned<String>, Unread<T>)>);

/// A table that is read later, for its own report.
struct Unread<T>(Node, PhantomData<T>);

impl File {
    /// Reads a text and finds everything that is wrong with it.
    ///
    /// There is a `File` only if everything could be read and every route has an answer. The faults may
    /// then still hold warnings, and errors that concern its meaning: ask [`Faults::has_errors`] before
    /// using it.
    pub fn parse(name: &str, text: &str) -> (Option<Self>, Faults) {
        let mut faults = Faults::new();
        let document = Document::parse(name, text, &mut faults);
        let file = Self::of(&document, &mut faults);
        (file, faults)
    }

    /// Reads a file, as [`File::parse`] does.
    pub fn read(path: impl AsRef<Path>) -> (Option<Self>, Faults) {
        let mut faults = Faults::new();
        let document = Document::read(path.as_ref(), &mut faults);
        let file = document.and_then(|document| Self::of(&document, &mut faults));
        (file, faults)
    }

    /// Reads a document. With a syntax error in it nothing is read: its faults are in already, and
    /// what else it seems to say may be guesswork.
    ///
    /// If there is no file, [`open_tables`](crate::open_tables) still has what plugins can look at.
    pub fn of(document: &Document, faults: &mut Faults) -> Option<Self> {
        if !document.sound {
            return None;
        }
        let read = decode::<Outline>(&document.root, "the file", document, faults);
        let Decoded { value, whole } = read;
        let outline = value?;
        let mut reading = Reading {
            known: Known {
                listeners: outline.listener.names(),
                registries: outline.registry.names(),
                services: outline.service.names(),
                torn: sections_are_torn(&document.root),
                ..Known::default()
            },
            document,
            faults,
            whole,
        };
        let mut listeners = reading.tables("listener", outline.listener);
        for listener in &mut listeners {
            for item in &mut listener.value.chain {
                item.settle(document);
                item.or_at(&listener.name.span);
            }
        }
        let mut registries = reading.tables("registry", outline.registry);
        let services = reading.tables("service", outline.service);
        let mut middlewares = reading.tables("middleware", outline.middleware);
        for raw in registries.iter_mut().chain(&mut middlewares) {
            raw.value.settle(document);
        }
        let admin = outline.admin.and_then(|it| reading.table("`admin`", &it).value);
        let routes = outline.route.into_iter().enumerate();
        let routes = routes.filter_map(|(position, it)| reading.route(position, &it)).collect();
        let Reading { whole, known, .. } = reading;
        let file = Self {
            trusted_proxies: outline.trusted_proxies.iter().map(|it| it.value).collect(),
            workers: outline.workers,
            access_log: outline.access_log,
            listeners,
            admin,
            registries,
            services,
            middlewares,
            routes,
            document: document.clone(),
        };
        check(&file, &known, &outline.trusted_proxies, faults);
        let answered = file.routes.iter().all(Route::has_answer);
        (whole && answered).then_some(file)
    }
}

/// Whether names may be declared in a section that could not be read: it is no table, or its key is
/// misspelt.
fn sections_are_torn(root: &Node) -> bool {
    root.entries().iter().any(|(key, node)| match key.value.as_str() {
        "listener" | "registry" | "service" | "middleware" => !matches!(node.kind, Kind::Table(_)),
        "route" => !matches!(node.kind, Kind::List(_)),
        "trusted_proxies" | "workers" | "access_log" | "admin" => false,
        _ => matches!(node.kind, Kind::Table(_) | Kind::List(_)),
    })
}

struct Reading<'a> {
    document: &'a Document,
    faults: &'a mut Faults,
    known: Known,
    whole: bool,
}

impl Reading<'_> {
    fn table<T: DeserializeOwned>(&mut self, whom: &str, table: &Unread<T>) -> Decoded<T> {
        let decoded = decode(&table.0, whom, self.document, self.faults);
        self.whole &= decoded.whole;
        decoded
    }

    fn tables<T: DeserializeOwned>(&mut self, kind: &str, tables: Tables<T>) -> Vec<Named<T>> {
        let mut named = Vec::new();
        for (name, table) in tables.0 {
            let whom = format!("{kind} `{name}`");
            if let Some(said) = fault_of_name(kind, &name) {
                self.whole = false;
                self.faults.error(self.document, name.span.clone(), said);
            }
            if !matches!(table.0.kind, Kind::Table(_)) {
                self.nameless(kind, &name, &table.0);
                continue;
            }
            let Decoded { value, whole } = self.table(&whom, &table);
            if !whole && kind == "service" {
                self.known.torn_services.insert(name.value.clone());
            }
            let place = self.document.place(&name.span);
            named.extend(value.map(|value| Named { name, value, place }));
        }
        named
    }

    /// `[middleware]` with keys in it, where `[middleware.office]` was meant.
    fn nameless(&mut self, kind: &str, name: &Spanned<String>, node: &Node) {
        self.whole = false;
        let said = format!("{kind} `{name}` must be a table, not {}", node.noun());
        self.faults
            .error(self.document, name.span.clone(), said)
            .help(format!("every {kind} has a name: write `[{kind}.NAME]`"));
    }

    fn route(&mut self, position: usize, table: &Unread<Route>) -> Option<Route> {
        let whom = match table.0.get("name").map(|name| &name.kind) {
            Some(Kind::String(name)) => format!("route `{name}`"),
            _ => format!("route #{}", position + 1),
        };
        let Decoded { value, whole } = self.table(&whom, table);
        if !whole {
            self.known.torn_routes.insert(position);
        }
        let mut route = value?;
        route.settle(self.document, table.0.span.clone(), position);
        Some(route)
    }
}

impl<T> Tables<T> {
    fn names(&self) -> BTreeSet<String> {
        self.0.iter().map(|(name, _)| name.value.clone()).collect()
    }
}

impl<T> Default for Tables<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T> Deserialize<'de> for Tables<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = crate::units::Pairs::deserialize(deserializer)?;
        Ok(Self(pairs.0))
    }
}

impl<'de, T> Deserialize<'de> for Unread<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Node::deserialize(deserializer)?, PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Tables<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Tables_of_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "additionalProperties": generator.subschema_for::<T>(),
        })
    }
}

impl<T: JsonSchema> JsonSchema for Unread<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

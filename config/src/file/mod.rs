//! The typed file: what each key means, and its default.
//!
//! The comments on the keys are the reference documentation and the schema's descriptions.

mod listener;
mod matching;
mod parse;
mod paths;
pub(crate) mod pattern;
mod route;
mod service;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{AdminAddress, TrustedProxy};
use crate::{Document, Place, Raw, Spanned};

pub use listener::{Certificate, Forwarding, Limits, Listener, ListenerTimeouts, ListenerTls, Presence, TlsVersion};
pub use matching::{Match, PathMatch, ValueMatch};
pub(crate) use parse::Outline;
pub use paths::{DotSegments, EncodedSlashes, Paths, RoutePaths, Slashes};
pub use route::{Answer, ChainItem, Redirect, Respond, Route, RouteTimeouts, Scheme, Split, Sticky};
pub use service::{
    Balance, Health, Instance, Protocol, ProxyProtocol, Retry, RetryOn, Service, ServiceConnections, ServiceTimeouts,
    ServiceTls,
};

/// Everything that one file says, in file order.
#[derive(Clone, Debug)]
pub struct File {
    /// The text it was read from.
    pub document: Document,
    /// Who may speak for a client.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// How many workers; one per core unless given.
    pub workers: Option<NonZeroUsize>,
    /// Where the access log goes.
    pub access_log: AccessLog,
    /// `[listener.*]`
    pub listeners: Vec<Named<Listener>>,
    /// `[admin]`
    pub admin: Option<Admin>,
    /// `[registry.*]`
    pub registries: Vec<Named<Raw>>,
    /// `[service.*]`
    pub services: Vec<Named<Service>>,
    /// `[middleware.*]`
    pub middlewares: Vec<Named<Raw>>,
    /// `[[route]]`
    pub routes: Vec<Route>,
}

impl File {
    /// Every item of every chain: of listeners, of routes, and of the parts of splits.
    pub fn chains(&self) -> impl Iterator<Item = &ChainItem> {
        let listeners = self.listeners.iter().flat_map(|it| &it.value.chain);
        let routes = self.routes.iter().flat_map(|route| {
            let parts = route.split.iter().flat_map(|split| &split.value);
            route.chain.iter().chain(parts.flat_map(|part| &part.chain))
        });
        listeners.chain(routes)
    }
}

/// The registry that services use unless they name another.
pub const DEFAULT_REGISTRY: &str = "default";

/// The capture that names the service, if requests name it: `service` for `"{service}"`.
pub fn capture_of(service: &str) -> Option<&str> {
    service.strip_prefix('{')?.strip_suffix('}')
}

/// A table and the name it was given: `[listener.web]`.
#[derive(Clone, Debug)]
pub struct Named<T> {
    /// The name, at the place of the key.
    pub name: Spanned<String>,
    /// The table.
    pub value: T,
    /// Where the name stands.
    pub place: Place,
}

/// The access log: one JSON line per request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessLog {
    /// Where the lines go.
    pub output: AccessLogOutput,
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessLogOutput {
    /// To standard output.
    #[default]
    Stdout,
    /// To standard error.
    Stderr,
    /// Nowhere.
    Off,
    /// Into a file, which is opened again on reload.
    File(PathBuf),
}

/// The admin listener: health, metrics, routes, services, reload. There is none without this table.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where it listens. Keep it on loopback: it has no password.
    #[serde(default = "admin_address")]
    pub address: Spanned<AdminAddress>,
}

fn admin_address() -> Spanned<AdminAddress> {
    Spanned::new(SocketAddr::from(([127, 0, 0, 1], 9901)).into(), 0..0)
}

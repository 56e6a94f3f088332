//! What can be said about a file that cannot be a plan: its plugins' tables, each built for its faults alone.
//!
//! Somebody who mistyped a route and a plugin's setting hears of both in one run.

use std::path::Path;
use std::sync::Arc;

use axum::response::IntoResponse;
use portcullis_config::{Document, Faults, Kind, open_tables, unknown_names, unknown_type};
use portcullis_middleware::layer::{Running, hop};
use portcullis_middleware::plugin::{Services, Shared};
use portcullis_middleware::router::Table;
use portcullis_middleware::{Cause, Context, Next, Rejection};

use crate::plugins::Plugins;
use crate::registry::RegistryContext;

pub(super) fn survey(document: &Document, directory: &Path, plugins: &Plugins, faults: &mut Faults) {
    let middlewares: Vec<_> = plugins.middlewares().iter().map(|row| row.name).collect();
    let registries: Vec<_> = plugins.registries().iter().map(|row| row.name).collect();
    let shared = Shared::default();
    for table in open_tables(document) {
        let type_name = &table.raw.type_name;
        let name = table.name.as_deref().unwrap_or(type_name);
        match table.kind {
            Kind::Middleware => match plugins.find_middleware(type_name) {
                Some(row) => {
                    let context = Context::new(name, &shared).in_directory(directory).with_services(&AnyService);
                    let context = context.with_routes(Arc::<Table>::default());
                    (row.build)(&table.raw, document, &context, faults);
                }
                None => unknown_type(table.kind, type_name, &middlewares, document, faults),
            },
            Kind::Registry => match plugins.find_registry(type_name) {
                Some(row) => {
                    let context = RegistryContext::new(name).in_directory(directory);
                    (row.build)(&table.raw, document, &context, faults);
                }
                None => unknown_type(table.kind, type_name, &registries, document, faults),
            },
        }
    }
    unknown_names(document, &middlewares, faults);
}

/// The file's services may be what could not be read, so every name is taken for one.
struct AnyService;

impl Services for AnyService {
    fn service(&self, _: &str) -> Option<Next> {
        Some(hop(|_| Running::ready(Rejection::new(Cause::NoService).into_response())))
    }
}

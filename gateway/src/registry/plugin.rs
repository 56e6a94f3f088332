//! A registry as a plugin: settings that become a [`Registry`].
//!
//! The sibling of the middlewares' [`Plugin`](portcullis_middleware::Plugin). The settings struct *is* the plugin, and
//! building it touches no network: `portcullis check` builds it too, and a gateway starts without its registries.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis_config::{Document, Faults, Raw};
use portcullis_middleware::plugin::{IntoKeyPath, describe, report, warn};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

use super::{BuildError, Registry};

/// A registry's settings, and how they become the registry.
pub trait RegistryPlugin: DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The `type` it has in the file, in `snake_case`.
    const NAME: &'static str;

    /// Settings that work, in TOML, without the `type`. They are documentation, and a test builds them.
    const EXAMPLE: &'static str;

    /// Turns the settings into a registry, or says which setting is wrong and what to do about it.
    fn build(self, context: &RegistryContext) -> Result<Arc<dyn Registry>, BuildError>;
}

/// What a registry may use while it is built.
#[derive(Debug, Clone)]
pub struct RegistryContext {
    name: String,
    directory: PathBuf,
    warnings: RefCell<BuildError>,
}

impl RegistryContext {
    /// A context for the registry that the file calls `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), directory: PathBuf::from("."), warnings: RefCell::default() }
    }

    /// The directory that relative paths in the settings start from.
    #[must_use]
    pub fn in_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// The name the file gives to this registry. Good for logs and labels.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path from the settings, taken relative to the configuration file's directory.
    #[must_use]
    pub fn path(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }

    /// Says that a setting works and is probably not what was meant.
    pub fn warn(&self, key: impl IntoKeyPath, sentence: impl Into<String>) {
        self.warnings.borrow_mut().add(key, sentence);
    }

    /// The warnings that were made so far; leaves none.
    #[must_use]
    pub fn take_warnings(&self) -> BuildError {
        self.warnings.take()
    }
}

/// A registry as a row of the list: everything the gateway needs to know of it, without its type.
#[derive(Clone, Copy)]
pub struct RegistryRow {
    /// [`RegistryPlugin::NAME`].
    pub name: &'static str,
    /// The Rust type, to tell two plugins of one name apart.
    pub type_name: &'static str,
    /// [`RegistryPlugin::EXAMPLE`].
    pub example: &'static str,
    /// The settings' JSON Schema.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Decodes the settings and builds the registry; whatever is wrong goes to the faults.
    pub build: fn(&Raw, &Document, &RegistryContext, &mut Faults) -> Option<Arc<dyn Registry>>,
}

impl RegistryRow {
    /// The row of one plugin.
    #[must_use]
    pub fn of<P: RegistryPlugin>() -> Self {
        Self {
            name: P::NAME,
            type_name: std::any::type_name::<P>(),
            example: P::EXAMPLE,
            schema: |generator| P::json_schema(generator),
            build: build::<P>,
        }
    }
}

impl fmt::Debug for RegistryRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryRow")
            .field("name", &self.name)
            .field("type_name", &self.type_name)
            .finish_non_exhaustive()
    }
}

fn build<P: RegistryPlugin>(
    raw: &Raw,
    document: &Document,
    context: &RegistryContext,
    faults: &mut Faults,
) -> Option<Arc<dyn Registry>> {
    let whom = describe("registry", context.name(), P::NAME);
    let settings: P = raw.decode(&whom, document, faults)?;
    let built = settings.build(context);
    warn(context.take_warnings(), &whom, raw, document, faults);
    report(built, &whom, raw, document, faults)
}

#[cfg(test)]
mod tests {
    use portcullis_config::Diagnostic;

    use super::*;
    use crate::registry::consul::Consul;
    use crate::registry::file::File;
    use crate::registry::memory::Memory;
    use crate::registry::static_::Static;

    fn built(row: RegistryRow, settings: &str) -> Result<Arc<dyn Registry>, String> {
        let listener = "[listener.web]\naddress = \"127.0.0.1:80\"";
        let text = format!("[registry.r]\ntype = \"{}\"\n{settings}\n{listener}\n", row.name);
        let (file, mut faults) = portcullis_config::File::parse("gateway.toml", &text);
        let registry = file.and_then(|file| {
            let raw = &file.registries[0].value;
            (row.build)(raw, &file.document, &RegistryContext::new("r"), &mut faults)
        });
        let sentence = |fault: &Diagnostic| format!("{}: {}", fault.place().expect("a place").line, fault.message);
        registry.ok_or_else(|| faults.errors().map(sentence).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn every_example_builds_without_a_runtime() {
        for row in [
            RegistryRow::of::<Memory>(),
            RegistryRow::of::<Static>(),
            RegistryRow::of::<File>(),
            RegistryRow::of::<Consul>(),
        ] {
            if let Err(faults) = built(row, row.example) {
                panic!("{}: {faults}", row.name);
            }
            let schema = (row.schema)(&mut SchemaGenerator::default());
            assert!(schema.as_object().is_some_and(|schema| schema.contains_key("properties")), "{}", row.name);
        }
    }

    #[test]
    fn a_fault_points_at_its_line() {
        for (row, settings, wanted) in [
            (RegistryRow::of::<Consul>(), "addres = \"http://127.0.0.1:8500\"", "`addres`"),
            (RegistryRow::of::<Consul>(), "address = \"https://127.0.0.1:8500\"", "`address` is https"),
            (RegistryRow::of::<Consul>(), "wait = \"1h\"", "`wait` must be between"),
            (RegistryRow::of::<Memory>(), "instances = 0", "`instances`"),
            (RegistryRow::of::<Static>(), "services = { orders = [\"127.0.0.1\"] }", "has no port"),
            (RegistryRow::of::<Static>(), "services = { \"a/b\" = [] }", "no slashes"),
            (RegistryRow::of::<File>(), "", "`path`"),
        ] {
            let faults = built(row, settings).err().unwrap_or_else(|| panic!("{settings} was accepted"));
            assert!(faults.contains(wanted), "{settings}: {faults}");
            let line = if settings.is_empty() { "1: " } else { "3: " };
            assert!(faults.starts_with(line), "{faults}");
        }
    }
}

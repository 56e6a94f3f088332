//! `[registry.*]`: plugins that become registries, each followed by one [`Live`].

use std::path::Path;
use std::sync::{Arc, Weak};

use portcullis_config::{Faults, File, Kind, unknown_type};

use super::Carry;
use crate::plugins::Plugins;
use crate::registry::{Live, RegistryContext};

/// The registries of a plan, in file order.
#[derive(Default)]
pub(super) struct Registries {
    lives: Vec<Arc<Live>>,
}

impl Registries {
    pub(super) fn build(file: &File, directory: &Path, plugins: &Plugins, carry: &Carry, faults: &mut Faults) -> Self {
        let mut registries = Self::default();
        let mut carried = carry.registries.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        carried.retain(|_, live| live.strong_count() > 0);
        for named in &file.registries {
            let (name, raw) = (&named.name.value, &named.value);
            let identity = (name.clone(), raw.canonical());
            // The same settings under the same name: what it knows, and its connections, go on.
            if let Some(live) = carried.get(&identity).and_then(Weak::upgrade) {
                registries.lives.push(live);
                continue;
            }
            let Some(row) = plugins.find_registry(&raw.type_name) else {
                let types: Vec<_> = plugins.registries().iter().map(|row| row.name).collect();
                unknown_type(Kind::Registry, &raw.type_name, &types, &file.document, faults);
                continue;
            };
            let context = RegistryContext::new(name).in_directory(directory);
            if let Some(registry) = (row.build)(raw, &file.document, &context, faults) {
                let live = Arc::new(Live::new(name, registry));
                carried.insert(identity, Arc::downgrade(&live));
                registries.lives.push(live);
            }
        }
        registries
    }

    pub(super) fn all(&self) -> &[Arc<Live>] {
        &self.lives
    }

    pub(super) fn find(&self, name: &str) -> Option<&Arc<Live>> {
        self.lives.iter().find(|live| live.name() == name)
    }
}

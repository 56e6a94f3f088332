//! `[registry.*]`: plugins that become registries, each followed by one [`Live`].

use std::path::Path;
use std::sync::{Arc, Weak};

use portcullis_config::{Faults, File, did_you_mean};

use super::Carry;
use crate::plugins::Plugins;
use crate::registry::{Live, RegistryContext};

/// The registries of a plan, in file order.
#[derive(Default)]
pub(super) struct Registries {
    lives: Vec<Arc<Live>>,
    /// Those that could not be built: whoever names one is not told that it does not exist.
    broken: Vec<String>,
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
                unknown_type(file, named, plugins, faults);
                registries.broken.push(name.clone());
                continue;
            };
            let context = RegistryContext::new(name).in_directory(directory);
            match (row.build)(raw, &file.document, &context, faults) {
                Some(registry) => {
                    let live = Arc::new(Live::new(name, registry));
                    carried.insert(identity, Arc::downgrade(&live));
                    registries.lives.push(live);
                }
                None => registries.broken.push(name.clone()),
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

    /// Whether the file declares it, though it could not be built.
    pub(super) fn is_broken(&self, name: &str) -> bool {
        self.broken.iter().any(|broken| broken == name)
    }
}

fn unknown_type(
    file: &File,
    named: &portcullis_config::Named<portcullis_config::Raw>,
    plugins: &Plugins,
    faults: &mut Faults,
) {
    let given = &named.value.type_name;
    let types: Vec<_> = plugins.registries().iter().map(|row| row.name).collect();
    let suggestion = did_you_mean(given, types.iter().copied());
    let meant = suggestion.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    faults
        .error(&file.document, given.span.clone(), format!("unknown registry type `{}`{meant}", given.value))
        .label(format!("this binary has: {}", types.join(", ")));
}

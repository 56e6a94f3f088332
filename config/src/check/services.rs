//! Services: where their instances come from.

use super::Check;
use crate::file::DEFAULT_REGISTRY;
use crate::{Named, Service};

impl Check<'_> {
    pub(super) fn services(&mut self) {
        for service in &self.file.services {
            self.service(service);
        }
    }

    fn service(&mut self, service: &Named<Service>) {
        let Named { name, value, .. } = service;
        match (&value.registry, &value.instances) {
            (Some(registry), Some(instances)) => {
                let said = format!("service `{name}` has both `instances` and a `registry`");
                self.error(&instances.span, said)
                    .label("instances written here")
                    .also(registry.span.clone(), "instances from a registry")
                    .help("keep one of them");
            }
            (Some(registry), None) => {
                if !self.known.registries.contains(&registry.value) {
                    self.unknown("registry", registry, &self.known.registries);
                }
            }
            (None, Some(instances)) => {
                if let Some(named) = &value.name {
                    let said = "`name` is a name in a registry, and these instances need none";
                    self.error(&named.span, said).also(instances.span.clone(), "the instances");
                }
                let weighed = instances.iter().any(|instance| instance.weight > 0);
                if !weighed && !instances.is_empty() && !self.is_torn(name) {
                    let said = format!("all instances of service `{name}` have weight 0");
                    self.error(&instances.span, said).label("none of them would get a request");
                }
                let addresses = instances.iter().map(|instance| {
                    let span = instance.span.clone();
                    crate::Spanned::new(&instance.address, span)
                });
                let addresses: Vec<_> = addresses.collect();
                self.no_duplicates(&addresses);
            }
            (None, None) => {
                let found = self.known.registries.contains(DEFAULT_REGISTRY);
                if !found && !self.is_torn(name) && !self.known.torn {
                    let said = format!("service `{name}` has neither `instances` nor a registry");
                    self.error(&name.span, said).label("no registry is called `default`, which it would use");
                }
            }
        }
    }

    fn is_torn(&self, service: &str) -> bool {
        self.known.torn_services.contains(service)
    }
}

//! The registry that is written down: `type = "static"`.
//!
//! It never changes, and cannot be registered with.
//!
//! ```toml
//! [registry.fixed]
//! type = "static"
//! services = { orders = ["127.0.0.1:9001", { address = "127.0.0.1:9002", weight = 2 }], idle = [] }
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{BuildError, Instance, Registry, RegistryContext, RegistryError, RegistryPlugin, Service, ServiceName};

/// Services that are written down once and for all.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Static {
    /// The instances behind each name.
    services: BTreeMap<ServiceName, Vec<Instance>>,
}

impl RegistryPlugin for Static {
    const NAME: &'static str = "static";
    const EXAMPLE: &'static str =
        r#"services = { orders = ["127.0.0.1:9001", { address = "127.0.0.1:9002", weight = 2 }], idle = [] }"#;

    fn build(self, _: &RegistryContext) -> Result<Arc<dyn Registry>, BuildError> {
        Ok(Arc::new(self))
    }
}

impl Static {
    /// A registry of these services.
    #[must_use]
    pub fn new(services: BTreeMap<ServiceName, Vec<Instance>>) -> Self {
        Self { services }
    }

    pub(super) fn get(&self, name: &ServiceName) -> Result<Service, RegistryError> {
        let instances = self.services.get(name).cloned();
        let instances = instances.ok_or_else(|| RegistryError::NotFound(name.clone()))?;
        Ok(Service { name: name.clone(), instances })
    }
}

#[async_trait]
impl Registry for Static {
    async fn get_service(&self, name: &ServiceName) -> Result<Service, RegistryError> {
        self.get(name)
    }

    async fn list_services(&self) -> Result<Vec<ServiceName>, RegistryError> {
        Ok(self.services.keys().cloned().collect())
    }

    fn watch(&self, name: &ServiceName) -> BoxStream<'static, Result<Service, RegistryError>> {
        let only = self.get(name);
        stream::iter([only]).chain(stream::pending()).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::conformance::{self, Abilities};

    struct Subject;

    #[async_trait]
    impl conformance::Subject for Subject {
        async fn holding(&self, services: &[Service]) -> Arc<dyn Registry> {
            let services = services.iter().cloned();
            Arc::new(Static::new(services.map(|service| (service.name, service.instances)).collect()))
        }

        fn abilities(&self) -> Abilities {
            Abilities { register: false, change: false, empty: true, ttl: None, metadata: true }
        }
    }

    #[tokio::test]
    async fn it_keeps_the_promises_of_a_registry() {
        println!("{}", conformance::run(&Subject).await);
    }
}

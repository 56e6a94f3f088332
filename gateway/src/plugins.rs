//! THE LIST: what this binary carries, one line per middleware and registry.
//!
//! It is explicit on purpose. Linker tricks that collect plugins by themselves lose them just as silently; here what is
//! in the binary is what this file says, and `portcullis plugins` prints it.

use portcullis_middleware::{
    Plugin, PluginRow, body_limit, compress, cors, headers, ip_whitelist, mirror, request_id, rewrite, router, timeout,
    xray,
};

use crate::registry::{self, RegistryPlugin, RegistryRow};

/// The middlewares and registries that ship with the gateway.
pub fn plugins() -> Plugins {
    Plugins::default()
        .middleware::<router::Router>()
        .middleware::<xray::XRay>()
        .middleware::<ip_whitelist::IpWhitelist>()
        .middleware::<request_id::RequestId>()
        .middleware::<headers::Headers>()
        .middleware::<rewrite::Rewrite>()
        .middleware::<timeout::Timeout>()
        .middleware::<body_limit::BodyLimit>()
        .middleware::<compress::Compress>()
        .middleware::<cors::Cors>()
        .middleware::<mirror::Mirror>()
        .registry::<registry::memory::Memory>()
        .registry::<registry::static_::Static>()
        .registry::<registry::file::File>()
        .registry::<registry::consul::Consul>()
}

/// A set of plugins, each known by its `type` in the file.
#[derive(Debug, Clone, Default)]
pub struct Plugins {
    middlewares: Vec<PluginRow>,
    registries: Vec<RegistryRow>,
}

impl Plugins {
    /// Adds a middleware.
    #[must_use]
    pub fn middleware<P: Plugin>(mut self) -> Self {
        self.middlewares.push(PluginRow::of::<P>());
        self
    }

    /// Adds a registry.
    #[must_use]
    pub fn registry<R: RegistryPlugin>(mut self) -> Self {
        self.registries.push(RegistryRow::of::<R>());
        self
    }

    /// Every middleware, in the order of the list.
    pub fn middlewares(&self) -> &[PluginRow] {
        &self.middlewares
    }

    /// Every registry, in the order of the list.
    pub fn registries(&self) -> &[RegistryRow] {
        &self.registries
    }

    /// The middleware with this `type`.
    pub fn find_middleware(&self, name: &str) -> Option<&PluginRow> {
        self.middlewares.iter().find(|row| row.name == name)
    }

    /// The registry with this `type`.
    pub fn find_registry(&self, name: &str) -> Option<&RegistryRow> {
        self.registries.iter().find(|row| row.name == name)
    }

    /// Makes sure that a name means one plugin; otherwise says which two types claim it.
    pub fn unambiguous(&self) -> Result<(), String> {
        let middlewares = self.middlewares.iter().map(|row| ("middleware", row.name, row.type_name));
        let registries = self.registries.iter().map(|row| ("registry", row.name, row.type_name));
        let rows: Vec<_> = middlewares.chain(registries).collect();
        for (index, (kind, name, second)) in rows.iter().enumerate() {
            let earlier = rows[..index].iter().find(|(other, claimed, _)| other == kind && claimed == name);
            if let Some((_, _, first)) = earlier {
                return Err(format!(
                    "two plugins are called `{name}`: the {kind} types `{first}` and `{second}`; rename or remove one"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_list_has_no_name_twice() {
        assert_eq!(plugins().unambiguous(), Ok(()));
    }

    #[test]
    fn two_plugins_of_one_name_are_refused_and_both_types_are_named() {
        let twice = plugins().middleware::<ip_whitelist::IpWhitelist>();
        let sentence = twice.unambiguous().expect_err("the name is there twice");
        assert!(sentence.contains("`ip_whitelist`"), "{sentence}");
        assert!(sentence.contains("portcullis_middleware::ip_whitelist::IpWhitelist"), "{sentence}");
    }
}

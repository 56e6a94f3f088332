//! Services: where their instances come from.

use super::Check;
use crate::file::DEFAULT_REGISTRY;
use crate::{Named, Protocol, Service};

impl Check<'_> {
    pub(super) fn services(&mut self) {
        for service in &self.file.services {
            self.service(service);
        }
    }

    fn service(&mut self, service: &Named<Service>) {
        let Named { name, value, .. } = service;
        self.protocol(value);
        self.introduction(service);
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

    /// A protocol and TLS that contradict each other.
    fn protocol(&mut self, service: &Service) {
        let protocol = &service.protocol;
        match (protocol.value, &service.tls) {
            (Protocol::H2, None) => {
                self.error(&protocol.span, "`h2` is HTTP/2 over TLS, and this service has no `tls`")
                    .help("add `tls = {}`, or write \"h2c\" for HTTP/2 without TLS");
            }
            (Protocol::H2c, Some(tls)) => {
                self.error(&protocol.span, "`h2c` is HTTP/2 without TLS, and this service has `tls`")
                    .also(tls.span.clone(), "TLS towards its instances")
                    .help("write \"h2\" for HTTP/2 over TLS, or remove `tls`");
            }
            _ => {}
        }
    }

    /// A header at the begin of a connection speaks of one client, and streams of many share a connection.
    fn introduction(&mut self, service: &Named<Service>) {
        let (Some(wanted), protocol) = (&service.value.proxy_protocol, &service.value.protocol) else { return };
        if protocol.value != Protocol::Http1 {
            let said = "`proxy_protocol` needs `protocol = \"http1\"`";
            self.error(&wanted.span, said)
                .label("names one client per connection")
                .also(protocol.span.clone(), "has requests of many clients on one connection");
        }
    }

    fn is_torn(&self, service: &str) -> bool {
        self.known.torn_services.contains(service)
    }
}

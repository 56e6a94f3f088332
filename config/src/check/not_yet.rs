//! What the file format has and this version does not do: an error, never silently ignored.
//!
//! This is the only place that knows such things. Whoever makes one work deletes its lines here.

use std::ops::Range;

use crate::units::{InstanceAddress, ListenAddress};
use crate::{Balance, Faults, File, Listener, Service};

/// What the reference adds to a key: its table's type, the key, the sentence.
pub(crate) const REMARKS: [(&str, &str, &str); 5] = [
    ("Listener", "address", "This version serves no `unix:` address yet."),
    ("Listener", "proxy_protocol", "This version does not serve it yet."),
    ("Service", "instances", "This version serves no `unix:` address yet."),
    ("Service", "balance", "This version serves only `round_robin` yet."),
    ("Service", "health", "This version does not serve it yet."),
];

pub(super) fn check(file: &File, faults: &mut Faults) {
    let listeners = file.listeners.iter().flat_map(|it| of_listener(&it.value));
    let services = file.services.iter().flat_map(|it| of_service(&it.value));
    for (what, span) in listeners.chain(services) {
        let said = format!("{what} is part of the file format, but this version of Portcullis does not serve it yet");
        faults.error(&file.document, span, said);
    }
}

type Found<'a> = Vec<(&'static str, Range<usize>)>;

fn of_listener(listener: &Listener) -> Found<'_> {
    let mut found = Found::new();
    let address = &listener.address;
    if matches!(address.value, ListenAddress::Unix(_)) {
        found.push(("a `unix:` address", address.span.clone()));
    }
    if listener.proxy_protocol.value {
        found.push(("`proxy_protocol`", listener.proxy_protocol.span.clone()));
    }
    found
}

fn of_service(service: &Service) -> Found<'_> {
    let mut found = Found::new();
    for instance in service.instances.iter().flat_map(|list| &list.value) {
        if matches!(instance.address, InstanceAddress::Unix(_)) {
            found.push(("a `unix:` address", instance.span.clone()));
        }
    }
    if service.balance.value != Balance::RoundRobin {
        found.push(("a balance other than `round_robin`", service.balance.span.clone()));
    }
    if let Some(health) = &service.health {
        found.push(("`health`", health.span.clone()));
    }
    found
}

//! What the file format has and this version does not do: an error, never silently ignored.
//!
//! This is the only place that knows such things. Whoever makes one work deletes its lines here.

use std::ops::Range;

use crate::{Balance, Faults, File, Service};

/// What the reference adds to a key: its table's type, the key, the sentence.
pub(crate) const REMARKS: [(&str, &str, &str); 2] = [
    ("Service", "balance", "This version serves only `round_robin` yet."),
    ("Service", "health", "This version does not serve it yet."),
];

pub(super) fn check(file: &File, faults: &mut Faults) {
    for (what, span) in file.services.iter().flat_map(|it| of_service(&it.value)) {
        let said = format!("{what} is part of the file format, but this version of Portcullis does not serve it yet");
        faults.error(&file.document, span, said);
    }
}

type Found<'a> = Vec<(&'static str, Range<usize>)>;

fn of_service(service: &Service) -> Found<'_> {
    let mut found = Found::new();
    if service.balance.value != Balance::RoundRobin {
        found.push(("a balance other than `round_robin`", service.balance.span.clone()));
    }
    if let Some(health) = &service.health {
        found.push(("`health`", health.span.clone()));
    }
    found
}

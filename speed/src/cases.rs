//! The cases by name. A name here is a line in `baselines.toml`.

use crate::{Meter, chains, edge};

/// What is counted.
pub(crate) const ALL: &[(&str, fn(&mut Meter<'_>))] = &[
    // A chain of hops that do nothing.
    ("chain_empty", chains::empty),
    ("chain_16_guards", |meter| chains::guards(meter, 16)),
    ("chain_16_arounds", |meter| chains::arounds(meter, 16)),
    // A middleware alone before an answer that is ready.
    ("ip_whitelist_10_networks", |meter| chains::ip_whitelist(meter, 10)),
    ("ip_whitelist_10000_networks", |meter| chains::ip_whitelist(meter, 10_000)),
    ("request_id", chains::request_id),
    ("xray_unsampled_by_caller", |meter| chains::xray(meter, "", Some(chains::UNSAMPLED))),
    ("xray_unsampled_by_us", |meter| chains::xray(meter, "sampling = { reservoir = 0, rate = 0.0 }", None)),
    ("xray_sampled", |meter| chains::xray(meter, "sampling.mode = \"always\"", None)),
    // The parts of the edge and of the proxy.
    ("router_10_routes", |meter| edge::router(meter, 10)),
    ("router_10000_routes", |meter| edge::router(meter, 10_000)),
    ("client_of_peer", |meter| edge::client(meter, "192.0.2.1")),
    ("client_behind_proxies", |meter| edge::client(meter, "10.0.0.1")),
    ("headers_to_upstream", edge::headers),
    ("arrive", edge::arrive),
    ("observe_numbers", |meter| edge::observe(meter, "\"off\"")),
    ("observe_numbers_and_log", |meter| edge::observe(meter, "{ file = \"/dev/null\" }")),
    // All of it but the sockets and the way to a service.
    ("answer_without_upstream", edge::answer),
];

//! What holds for whatever strangers write: headers, paths, the first bytes of a connection, the file.
//!
//! Each module has a function of its own name that takes any bytes and panics if something does not hold for them.
//! libFuzzer calls it as a target (`scripts/fuzz`), and the test here calls it with every seed. Inputs are text as far
//! as they can be, so that seeds can be read, written and reviewed.

#![forbid(unsafe_code)]

mod authority;
mod client_address;
mod configuration;
mod forwarding_headers;
mod input;
mod path_policy;
mod proxy_protocol;
mod request_head;
mod route_lookup;
mod trace_header;

pub use authority::authority;
pub use client_address::client_address;
pub use configuration::configuration;
pub use forwarding_headers::forwarding_headers;
pub use path_policy::path_policy;
pub use proxy_protocol::proxy_protocol;
pub use request_head::request_head;
pub use route_lookup::route_lookup;
pub use trace_header::trace_header;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::read_dir;
    use std::path::Path;

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 9] = [
        ("authority", super::authority),
        ("client_address", super::client_address),
        ("configuration", super::configuration),
        ("forwarding_headers", super::forwarding_headers),
        ("path_policy", super::path_policy),
        ("proxy_protocol", super::proxy_protocol),
        ("request_head", super::request_head),
        ("route_lookup", super::route_lookup),
        ("trace_header", super::trace_header),
    ];

    #[test]
    fn what_was_found_once_holds_for_every_seed() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
        let folders: BTreeSet<_> =
            read_dir(&seeds).expect("there are seeds").map(|folder| folder.expect("a folder").file_name()).collect();
        assert_eq!(folders, TARGETS.iter().map(|(name, _)| name.into()).collect(), "every target has seeds");
        for (name, target) in TARGETS {
            for seed in read_dir(seeds.join(name)).expect("there are seeds") {
                let seed = seed.expect("a seed").path();
                // Shown if it does not hold.
                println!("{}", seed.display());
                target(&std::fs::read(&seed).expect("it can be read"));
            }
        }
    }
}

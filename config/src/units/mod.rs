//! Values as people write them: durations and sizes with units, networks, hosts, header text, secrets.
//!
//! Every type here reads itself from TOML, says what is wrong in a sentence, and knows its JSON
//! Schema. Plugins use them in their settings.

mod address;
mod collections;
mod duration;
mod header;
mod host;
mod network;
mod percent;
mod regex;
mod secret;
mod size;
mod trusted_proxy;
mod written;

pub use address::{AdminAddress, InstanceAddress, ListenAddress};
pub use collections::{OneOrMany, Pairs};
pub use duration::Duration;
pub use header::{HeaderName, HeaderText, Method, settled_by_the_gateway};
pub use host::HostPattern;
pub use network::Network;
pub use percent::Percent;
pub use regex::{Regex, TooMany};
pub use secret::Secret;
pub use size::Size;
pub use trusted_proxy::TrustedProxy;

pub(crate) use written::written;

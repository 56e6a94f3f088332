//! For tests of what plugs into the gateway, ours and yours.

pub use crate::registry::conformance;

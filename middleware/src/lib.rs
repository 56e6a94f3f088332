//! .

pub mod metrics;
pub mod ip_set;

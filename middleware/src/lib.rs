//! .

pub mod metrics;

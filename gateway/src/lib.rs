//! .

pub mod registry;
pub mod testing;

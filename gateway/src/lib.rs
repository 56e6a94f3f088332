//! .

pub mod balance;
pub mod proxy;
pub mod registry;
pub mod testing;

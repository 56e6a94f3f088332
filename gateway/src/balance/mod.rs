//! Which instance is next: pure decisions, no I/O and no clock.

mod rotation;

pub use rotation::Rotation;

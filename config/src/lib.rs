//! What a Portcullis file says, and what is wrong with it.
//!
//! [`File::parse`] turns TOML into a typed [`File`] and a list of [`Faults`]. Every value keeps the
//! place it was written at, so whoever finds a mistake later (a plugin that cannot be built, a name
//! that leads nowhere) points at the same characters as a syntax error would.
//!
//! This crate knows no plugin. Tables whose type is open (`[middleware.x]`, `[registry.x]`, inline
//! tables in a chain) are kept as [`Raw`] and decoded later with the plugin's own type:
//!
//! ```text
//! text ──Document──▶ File ──(gateway)──▶ Plan
//!                     └─ Raw::decode::<Plugin>
//! ```

mod check;
mod decode;
mod diagnostic;
mod document;
pub mod file;
mod names;
mod node;
pub mod one_form;
mod open;
mod raw;
pub mod schema;
mod sections;
mod spanned;
pub mod units;

pub use diagnostic::{Diagnostic, Faults, Level};
pub use document::{Document, Place};
pub use file::*;
pub use names::did_you_mean;
pub use open::{Kind, OpenTable, open_tables, unknown_middleware, unknown_names, unknown_type};
pub use raw::{Raw, Step};
pub use sections::Section;
pub use spanned::Spanned;

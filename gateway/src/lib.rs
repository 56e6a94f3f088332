//! Portcullis: an HTTP API gateway for the edge.
//!
//! One binary reads one TOML file: listeners, routes, services, and for each route a chain of middlewares. It finds the
//! services behind the routes through a pluggable registry.
//!
//! To build a gateway with a plugin of your own, write one file:
//!
//! ```no_run
//! # use portcullis_middleware::prelude::*;
//! # /// Does nothing.
//! # #[derive(Debug, Deserialize, JsonSchema)]
//! # struct Greet {}
//! # impl Plugin for Greet {
//! #     const NAME: &'static str = "greet";
//! #     const EXAMPLE: &'static str = "";
//! #     fn build(self, _: &Context) -> Result<RouteLayer, BuildError> { Ok(RouteLayer::guard(self)) }
//! # }
//! # impl Guard for Greet {
//! #     fn check(&self, _: &mut Request) -> Result<(), Rejection> { Ok(()) }
//! # }
//! fn main() -> std::process::ExitCode {
//!     portcullis::main(portcullis::plugins().middleware::<Greet>())
//! }
//! ```
//!
//! To put a gateway into an axum application, see [`Gateway::router`](gateway::Gateway::router).

pub mod admin;
mod alarm;
pub mod app;
pub mod authority;
pub mod balance;
mod cli;
mod demo;
pub mod edge;
mod escaped;
pub mod explain;
pub mod gateway;
mod health;
mod lines;
pub mod observe;
pub mod plan;
pub mod plugins;
pub mod proxy;
pub mod proxy_protocol;
pub mod reference;
pub mod registry;
pub mod server;
pub mod testing;
pub mod tls;
mod unavailable;
mod wire;
pub mod workers;

#[doc = include_str!("../../docs/architecture.md")]
pub mod architecture {}

/// The page's examples, so that they are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/writing-plugins.md")]
pub mod writing_plugins {}

pub use cli::main;
pub use gateway::Gateway;
pub use plugins::{Plugins, plugins};
pub use unavailable::Unavailable;

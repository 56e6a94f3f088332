//! The plugin API of Portcullis and the middlewares that ship with it.
//!
//! A middleware is one struct: its fields are its settings in the TOML file, its [`Plugin`] implementation turns them
//! into a [`RouteLayer`]. The smallest shape that fits is the right one: a [`Guard`] decides and is gone, an [`Around`]
//! sees the answer too, [`RouteLayer::tower`] takes any tower layer.
//!
//! This crate accepts no connection and knows no registry: requests come to it from the gateway and leave it towards
//! the gateway.

pub mod blame;
pub mod body;
pub mod body_limit;
pub mod client;
pub mod compress;
pub mod cors;
pub mod exchange;
mod few;
pub mod follow;
pub mod headers;
pub mod ip_set;
pub mod ip_whitelist;
pub mod layer;
pub mod metrics;
pub mod mirror;
pub mod new_path;
pub mod paths;
pub mod plugin;
pub mod rejection;
pub mod request_id;
pub mod rewrite;
pub mod router;
pub mod testing;
pub mod timeout;
pub mod tls;
pub mod upgrade;
pub mod worker;
pub mod xray;

pub use exchange::{Attempt, Client, Exchange, MatchedRoute, Origin, RouteInfo};
pub use layer::{Around, Guard, Next, Request, Response, RouteLayer, Running};
pub use plugin::{BuildError, Context, Plugin, PluginRow};
pub use rejection::{Cause, Rejection};
pub use tls::Tls;
pub use upgrade::Upgrade;

/// Everything a plugin usually needs, in one `use`.
pub mod prelude {
    pub use crate::{
        Around, BuildError, Cause, Context, Exchange, Guard, MatchedRoute, Next, Plugin, Rejection, Request, Response,
        RouteLayer,
    };
    pub use axum::response::IntoResponse;
    pub use portcullis_config::units::{Duration, HeaderName, HeaderText, Network, Percent, Secret, Size};
    pub use schemars::{self, JsonSchema};
    pub use serde::{self, Deserialize};
}

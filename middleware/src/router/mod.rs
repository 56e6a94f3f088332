//! Finds the route of a request, enters its chain, and lets what stands at its end answer.
//!
//! ```toml
//! [listener.web]
//! address = "0.0.0.0:8080"
//! chain = ["router"]      # the default
//! ```
//!
//! A request that no route matches gets `404` with the cause `no_route`; one that only has the wrong method gets `405`
//! with `Allow` and the cause `method_not_allowed`. The rest of the chain finds the
//! [`MatchedRoute`](crate::MatchedRoute) in the request's extensions, and the log finds the route in the [`Exchange`].
//!
//! # What matches
//! * The host of the target or of `Host`, without port and trailing dot, in any case. `*.example.org` is every name
//!   below `example.org`, however deep.
//! * The path in its [one form](crate::paths), segment by segment. `/a/{id}` wants one segment that is not
//!   empty, `/a/{*rest}` at least one byte more, `/a/v{n}.json` a capture between fixed text. A trailing slash counts,
//!   except in `prefix`.
//! * A method among `methods`. Whoever takes `GET` takes `HEAD`, as RFC 9110 asks of every server; a route for `HEAD`
//!   alone is written before it or with a higher priority.
//! * Headers, query parameters (decoded) and cookies: one of the values is what is wanted.
//! * The client's address. If it cannot be told, a route that asks for it wins and refuses, because the next route might
//!   be one that was meant for others.
//!
//! # Who wins
//! [`order`](self) holds the whole order. A route that does not match falls through to the next; [`Table::explain`] tells
//! the story of a request with the same code that [`Table::find`] decides with.

mod captures;
mod explain;
mod hash;
mod host;
mod index;
mod links;
mod order;
mod overlap;
mod path;
mod predicate;
mod reading;
mod redirect;
mod respond;
mod split;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trie;

use std::ops::Range;
use std::sync::Arc;

use axum::response::IntoResponse;
use portcullis_config::{Document, Faults};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::layer::{Hop, Running};
use crate::{BuildError, Context, Exchange, Next, Plugin, Request, RouteLayer};

pub use captures::Captures;
pub use explain::{Consideration, Outcome};
pub(crate) use host::is_host;
pub use host::{HostMap, fold_host, host_of};
pub use order::Criterion;
pub use overlap::{Claim, Destination, Finding, check};
pub use redirect::redirect;
pub use respond::respond;
pub use split::{Branch, split};
pub use table::{Entry, Hit, Miss, Table};

/// Sends every request into the chain of the route that it matches.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Router {}

impl Plugin for Router {
    const NAME: &'static str = "router";
    const EXAMPLE: &'static str = "";

    fn build(self, context: &Context<'_>) -> Result<RouteLayer, BuildError> {
        match context.routes() {
            Some(table) => Ok(RouteLayer::terminal(Next::new(Routing(table)))),
            None => {
                Err(BuildError::whole("the router finds a route, so it belongs into a listener's chain, not a route's"))
            }
        }
    }
}

struct Routing(Arc<Table>);

impl Hop for Routing {
    fn run(&self, mut request: Request) -> Running {
        match self.0.take(&mut request) {
            Ok(hit) => {
                Exchange::of(&request).settle_route(hit.matched.route.clone());
                request.extensions_mut().insert(hit.matched);
                hit.answer.run(request)
            }
            Err(rejection) => Running::ready(rejection.into_response()),
        }
    }
}

/// What is wrong with a route, and where the file says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it is.
    pub span: Range<usize>,
    /// What it is.
    pub sentence: String,
}

impl Fault {
    /// Puts it where the user sees it.
    pub fn report(self, document: &Document, faults: &mut Faults) {
        faults.error(document, self.span, self.sentence);
    }
}

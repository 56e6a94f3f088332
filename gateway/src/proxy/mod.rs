//! The last hop: pick an instance, clean the headers, send, perhaps try again, stream the answer back.
//!
//! [`Forward`] is the story. An [`Upstream`] is a service as requests see it, a [`Policy`] how it wants to be talked
//! to; [`Pools`] keep its connections. A request that is only asked about ends at a [`Stage`].

mod answer;
mod attempt;
mod connection;
mod counts;
mod failure;
mod forward;
mod grpc;
pub mod headers;
mod line;
mod policy;
mod pool;
mod rehearsal;
mod room;
mod sharing;
mod trailers;
mod tunnel;
mod upload;
mod upstream;

pub use connection::http2::Pings;
pub use forward::{Forward, Resolve, Resolved, Service};
pub use policy::{Host, Overrides, Policy, Retry, Timeouts};
pub use pool::{Closed, Counts, Limits, Pools};
pub use rehearsal::{Rehearsed, Stage};
pub use upstream::Upstream;

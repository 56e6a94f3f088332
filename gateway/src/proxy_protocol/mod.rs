//! The PROXY protocol: who a client is, told in front of a connection's first byte.
//!
//! ```toml
//! trusted_proxies = ["10.0.0.0/8"]
//!
//! [listener.web]
//! address = "0.0.0.0:8080"
//! proxy_protocol = true            # a load balancer tells us
//!
//! [service.mail]
//! instances = ["127.0.0.1:9001"]
//! proxy_protocol = "v2"            # and we tell an instance
//! ```
//!
//! Both versions of [the protocol](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt) are [read](parse()) and
//! [written](Introduction). A connection either has a header or has none, and a receiver that guesses which can be told
//! anything by anybody. So a listener [takes](Receiver) one from `trusted_proxies` only, and closes a connection that
//! comes from somebody else or without one.

mod introduction;
mod parse;
mod receive;

pub use introduction::Introduction;
pub use parse::{Header, LONGEST, Malformed, Said, parse};
pub(crate) use receive::Taken;
pub use receive::{Counts, Outcome, Receiver};

//! `portcullis health`: asks a running gateway whether it is ready.
//!
//! It exists so that a container image needs no curl: the image's health check is this same binary.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::admin::client;
use crate::cli::{UNAVAILABLE, fail, print};

/// `portcullis health`.
#[derive(Debug, Args)]
pub(crate) struct Health {
    /// The admin listener's address.
    #[arg(long, env = "PORTCULLIS_ADMIN", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
    /// How long to wait for the answer, in seconds.
    #[arg(long, default_value_t = 3)]
    timeout: u64,
}

/// Prints `ready` and succeeds, or says why not.
pub(crate) fn run(health: &Health) -> ExitCode {
    match client::get(health.admin, "/ready", Duration::from_secs(health.timeout)) {
        Ok((200, _)) => print("ready\n"),
        Ok((status, body)) => fail(UNAVAILABLE, &format!("the gateway is not ready ({status}): {}", body.trim())),
        Err(error) => {
            fail(UNAVAILABLE, &format!("the gateway's admin listener at {} does not answer: {error}", health.admin))
        }
    }
}

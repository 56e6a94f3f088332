//! TLS handshakes of an address: how many at once, how long, and what is told of those that fail.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tracing::info;

use super::places::Places;
use super::{Manners, Peer};
use crate::lines::Lines;
use crate::tls::{Accepted, Downstream, Handshake, Refused};

/// The handshakes of an address that are in progress, on all workers.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    places: Arc<Places>,
    /// What is told of those that failed. Scanners try many; the metrics count them all.
    lines: Lines,
}

impl Handshakes {
    /// Shakes hands on a new connection. `None` if nothing comes of it; that is logged and counted.
    pub(super) async fn shake<S>(
        &self,
        tls: &Downstream,
        stream: S,
        peer: &Peer,
        manners: &Manners,
    ) -> Option<Accepted<S>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        // Whoever waited for a place would hold a connection and take its time twice.
        let Some(_place) = self.places.take(manners.handshakes) else {
            self.failed(tls, peer, Handshake::TooMany, "as many are in progress as `limits.handshakes` allows");
            return None;
        };
        let accepted = match manners.handshake {
            Some(limit) => timeout(limit, tls.accept(stream)).await,
            None => Ok(tls.accept(stream).await),
        };
        match accepted {
            Ok(Ok(accepted)) => {
                tls.count(if accepted.secured.tls.resumed { Handshake::Resumed } else { Handshake::Full });
                Some(accepted)
            }
            // As load balancers do that only look whether the port is open.
            Ok(Err(Refused::Unbegun)) => {
                tls.count(Handshake::Closed);
                None
            }
            Ok(Err(refused)) => {
                self.failed(tls, peer, refused.result(), &refused.to_string());
                None
            }
            Err(_) => {
                self.failed(tls, peer, Handshake::Timeout, "it took longer than `timeouts.handshake`");
                None
            }
        }
    }

    fn failed(&self, tls: &Downstream, peer: &Peer, result: Handshake, reason: &str) {
        tls.count(result);
        if self.lines.one_more() {
            info!(peer = %peer, result = result.name(), reason, "a TLS handshake failed");
        }
    }
}

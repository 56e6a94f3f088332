//! TLS handshakes of an address: how many at once, how long, and what is told of those that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tracing::info;

use super::places::Places;
use super::{Manners, Peer};
use crate::tls::{Accepted, Downstream, Handshake};

/// How many failed handshakes of an address are logged in a second. Scanners try many; the metrics count them all.
const LINES: u64 = 10;

/// The handshakes of an address that are in progress, on all workers.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    places: Arc<Places>,
    /// The second in which lines were logged last, and how many: `second * (LINES + 1) + lines`.
    logged: AtomicU64,
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
            self.failed(tls, peer, Handshake::TooMany, "there are too many in progress");
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
            Ok(Err(refused)) => {
                self.failed(tls, peer, refused.result(), &refused.to_string());
                None
            }
            Err(_) => {
                self.failed(tls, peer, Handshake::Timeout, "it took too long");
                None
            }
        }
    }

    fn failed(&self, tls: &Downstream, peer: &Peer, result: Handshake, reason: &str) {
        tls.count(result);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.may_log(now) {
            info!(peer = %peer.address, result = result.name(), reason, "a TLS handshake failed");
        }
    }

    fn may_log(&self, second: u64) -> bool {
        let one_more = |logged: u64| match logged % (LINES + 1) {
            _ if logged / (LINES + 1) != second => Some(second * (LINES + 1) + 1),
            LINES => None,
            _ => Some(logged + 1),
        };
        self.logged.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_failures_is_few_lines() {
        let handshakes = Handshakes::default();
        let lines = |second| (0..1000).filter(|_| handshakes.may_log(second)).count() as u64;
        assert_eq!((lines(7), lines(8), lines(8)), (LINES, LINES, 0));
        assert_eq!(lines(3), LINES, "a clock may be set back");
    }
}

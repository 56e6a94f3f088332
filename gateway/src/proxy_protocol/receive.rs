//! Taking a header from the begin of a connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use portcullis_middleware::client::TrustedProxies;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::parse::{LONGEST, Malformed, Said, parse};

/// How much is read at first. Few headers are longer.
const READ: usize = 512;

/// Whose headers are believed at an address whose connections begin with one.
#[derive(Debug)]
pub struct Receiver {
    trusted: Arc<TrustedProxies>,
    counts: Arc<Counts>,
}

/// A header that was taken.
#[derive(Debug)]
pub(crate) struct Taken {
    /// What it says.
    pub said: Said,
    /// What was read behind it: the begin of the connection itself.
    pub behind: Vec<u8>,
}

/// Why a connection is closed instead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// Nobody takes this peer's word for anything.
    #[error("the peer is none of `trusted_proxies`")]
    Untrusted,
    /// The peer has sent something else.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The header took too long.
    #[error("it took too long")]
    Timeout,
    /// The peer went away before the header was whole.
    #[error("the peer went away before it was whole")]
    Closed,
}

impl Receiver {
    /// Takes headers from these.
    pub fn new(trusted: Arc<TrustedProxies>, counts: Arc<Counts>) -> Self {
        Self { trusted, counts }
    }

    /// Takes the header from a new connection with this peer. It may take so long.
    pub(crate) async fn take(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        peer: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Result<Taken, Refused> {
        let taken = self.try_take(stream, peer, limit).await;
        self.counts.count(match &taken {
            Ok(Taken { said: Said::Relayed { .. }, .. }) => Outcome::Relayed,
            Ok(Taken { said: Said::Itself, .. }) => Outcome::Local,
            Ok(Taken { said: Said::Unnamed, .. }) => Outcome::Unnamed,
            Err(refused) => refused.outcome(),
        });
        taken
    }

    async fn try_take(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        peer: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Result<Taken, Refused> {
        if !self.trusted.trusts(peer) {
            return Err(Refused::Untrusted);
        }
        match limit {
            Some(limit) => timeout(limit, read(stream)).await.unwrap_or(Err(Refused::Timeout)),
            None => read(stream).await,
        }
    }
}

/// Reads up to the end of the header, and perhaps further: asking the kernel for exactly its bytes would take several
/// calls, since nobody knows beforehand how many they are.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Taken, Refused> {
    let mut bytes = Vec::with_capacity(READ);
    loop {
        let came: io::Result<usize> = stream.read_buf(&mut bytes).await;
        if came.unwrap_or(0) == 0 {
            return Err(Refused::Closed);
        }
        if let Some(header) = parse(&bytes)? {
            bytes.drain(..header.length);
            return Ok(Taken { said: header.said, behind: bytes });
        }
        // What is longer was refused by now.
        if bytes.len() == bytes.capacity() {
            bytes.reserve_exact(LONGEST);
        }
    }
}

impl Refused {
    /// What is counted.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Untrusted => Outcome::Untrusted,
            Self::Malformed(Malformed::Missing) => Outcome::Missing,
            Self::Malformed(_) => Outcome::Malformed,
            Self::Timeout => Outcome::Timeout,
            Self::Closed => Outcome::Closed,
        }
    }
}

/// What became of the headers of connections, in this process.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Outcome::ALL.len()]);

impl Counts {
    fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.into_iter().map(|outcome| (outcome, self.0[outcome as usize].load(Relaxed)))
    }
}

/// What became of the header of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It named a client.
    Relayed,
    /// It said that the peer speaks for itself.
    Local,
    /// It named nobody, and yet somebody else's bytes follow.
    Unnamed,
    /// With `Refused::Untrusted`, without a look at it.
    Untrusted,
    /// There was none.
    Missing,
    /// With any other [`Malformed`].
    Malformed,
    /// With `Refused::Timeout`.
    Timeout,
    /// With `Refused::Closed`.
    Closed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 8] = [
        Outcome::Relayed,
        Outcome::Local,
        Outcome::Unnamed,
        Outcome::Untrusted,
        Outcome::Missing,
        Outcome::Malformed,
        Outcome::Timeout,
        Outcome::Closed,
    ];

    /// Its name as a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Relayed => "relayed",
            Outcome::Local => "local",
            Outcome::Unnamed => "unnamed",
            Outcome::Untrusted => "untrusted",
            Outcome::Missing => "missing",
            Outcome::Malformed => "malformed",
            Outcome::Timeout => "timeout",
            Outcome::Closed => "closed",
        }
    }
}

//! The way to X-Ray's daemon: datagrams over UDP, which nobody acknowledges.
//!
//! All we ever hear is a refusal, when nobody listens at the address, and it comes late: with the next thing we do on
//! the socket. So a datagram counts as delivered only when something after it was not refused, and a daemon that was
//! away counts as back only after a while without a refusal.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};
use tokio::time::{Instant, timeout};

use super::address::HostPort;
use super::counts::{DocumentCounts, Loss};
use super::document::{Datagrams, MAX_DATAGRAM};
use super::exporter::COMPLAIN_EVERY;
use super::record::Record;

/// How long a name's addresses are believed. Containers move, and their names with them.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// How soon a name is looked up again after a refusal or after it did not resolve.
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);
/// How long a look-up may take.
const RESOLVE_WITHIN: Duration = Duration::from_secs(2);
/// How long to wait for room in the socket's buffer.
const ROOM_WITHIN: Duration = Duration::from_millis(5);
/// Below this no segment fits, so a way that cannot carry it is no way.
const MIN_DATAGRAM: usize = 512;
/// How long no datagram must have been refused before the daemon counts as back. A host that refuses says so once a
/// second at most (Linux's `icmp_ratelimit`), so a shorter silence means nothing.
const QUIET_FOR: Duration = Duration::from_secs(2);

/// Sends records to one daemon.
pub(super) struct Daemon {
    address: HostPort,
    socket: Option<Connected>,
    /// When the name was last looked up.
    resolved: Option<Instant>,
    /// The largest datagram that got through so far.
    limit: usize,
    /// Whether the latest datagram may still be refused.
    in_doubt: bool,
    /// Whether something was refused in this round.
    refused: bool,
    /// There from the first refusal until the daemon counts as back.
    away: Option<Away>,
    complained: Option<Instant>,
    datagrams: Datagrams,
}

struct Connected {
    socket: UdpSocket,
    peer: SocketAddr,
}

/// A daemon out of reach.
struct Away {
    /// How much was lost before that.
    lost_before: u64,
    /// Whether the log says that it is away.
    told: bool,
    /// Since when rounds end without a refusal.
    quiet_since: Option<Instant>,
}

/// What became of one datagram.
enum Sent {
    Yes,
    /// Too long for this way.
    TooLong,
    Lost(Loss),
}

impl Daemon {
    /// Nothing happens until the first record.
    pub(super) fn new(address: HostPort) -> Self {
        Self {
            address,
            socket: None,
            resolved: None,
            limit: MAX_DATAGRAM,
            in_doubt: false,
            refused: false,
            away: None,
            complained: None,
            datagrams: Datagrams::default(),
        }
    }

    /// Sends one record, and counts what becomes of it.
    pub(super) async fn send(&mut self, record: &Record, counts: &DocumentCounts) {
        let mut datagrams = std::mem::take(&mut self.datagrams);
        datagrams.fill(record, self.limit);
        // Not every way carries what UDP can: macOS stops at 9 KiB, some tunnels earlier.
        while let Err(smaller) = self.send_all(&datagrams, counts).await {
            self.limit = smaller;
            datagrams.fill(record, self.limit);
        }
        counts.lose(Loss::TooLarge, datagrams.too_large);
        self.datagrams = datagrams;
    }

    /// Sends datagrams in order. The error is a smaller limit to try.
    async fn send_all(&mut self, datagrams: &Datagrams, counts: &DocumentCounts) -> Result<(), usize> {
        for datagram in datagrams.iter() {
            match self.send_one(datagram, counts).await {
                Sent::Yes => {}
                Sent::TooLong if datagram.len() / 2 >= MIN_DATAGRAM => return Err(datagram.len() / 2),
                Sent::TooLong => counts.lose(Loss::TooLarge, 1),
                Sent::Lost(loss) => counts.lose(loss, 1),
            }
        }
        Ok(())
    }

    /// Ends a round of sending: asks once more whether the latest datagram was refused.
    pub(super) fn settle(&mut self, counts: &DocumentCounts) {
        let refused = self.socket.as_ref().and_then(|connected| connected.socket.take_error().ok().flatten());
        // A round in which nothing was sent says nothing.
        let sent = self.in_doubt;
        match refused {
            Some(error) => self.note_refusal(&error, counts),
            None => self.note_delivery(counts),
        }
        if !std::mem::take(&mut self.refused) && sent {
            self.note_quiet_round(counts);
        }
    }

    async fn send_one(&mut self, datagram: &[u8], counts: &DocumentCounts) -> Sent {
        if let Err(error) = self.connect().await {
            self.note_absence(&error, counts);
            return Sent::Lost(Loss::DaemonRefused);
        }
        // Twice, because the first error can be about an earlier datagram; then this one has not been sent.
        for _ in 0..2 {
            let Some(Connected { socket, .. }) = &self.socket else { break };
            let sent = match timeout(ROOM_WITHIN, socket.send(datagram)).await {
                Ok(sent) => sent,
                Err(_) => return Sent::Lost(Loss::SendError),
            };
            match sent {
                Ok(_) => {
                    self.note_delivery(counts);
                    self.in_doubt = true;
                    return Sent::Yes;
                }
                Err(error) if is_too_long(&error) => return Sent::TooLong,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.note_refusal(&error, counts);
                    if self.connect().await.is_err() {
                        return Sent::Lost(Loss::DaemonRefused);
                    }
                }
                Err(error) => {
                    // No route, no permission: a new socket may fare better.
                    self.note_absence(&error, counts);
                    self.socket = None;
                    return Sent::Lost(Loss::SendError);
                }
            }
        }
        Sent::Lost(Loss::DaemonRefused)
    }

    /// Makes sure there is a socket that points at one of the daemon's addresses.
    async fn connect(&mut self) -> io::Result<()> {
        if let Some(ip) = self.address.ip() {
            if self.socket.is_none() {
                self.point_at(SocketAddr::new(ip, self.address.port.get())).await?;
            }
            return Ok(());
        }
        let wait = if self.socket.is_none() || self.is_refusing() { RESOLVE_AGAIN } else { RESOLVE_EVERY };
        if self.resolved.is_some_and(|then| then.elapsed() < wait) {
            return match self.socket {
                Some(_) => Ok(()),
                None => Err(io::Error::new(io::ErrorKind::NotFound, "the name does not resolve")),
            };
        }
        self.resolved = Some(Instant::now());
        let lookup = lookup_host((self.address.host.as_str(), self.address.port.get()));
        let found: io::Result<Vec<_>> = match timeout(RESOLVE_WITHIN, lookup).await {
            Ok(found) => found.map(Iterator::collect),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the name did not resolve in time")),
        };
        match (found, self.socket.as_ref().map(|connected| connected.peer)) {
            (Ok(found), peer) => match choose(&found, peer, self.is_refusing()) {
                Some(next) if Some(next) == peer => Ok(()),
                Some(next) => self.point_at(next).await,
                None => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
            },
            // The old address may be as good as ever.
            (Err(_), Some(_)) => Ok(()),
            (Err(error), None) => Err(error),
        }
    }

    async fn point_at(&mut self, peer: SocketAddr) -> io::Result<()> {
        let any = match peer.ip() {
            IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any).await?;
        // Connected, because only then the kernel tells us of refusals.
        socket.connect(peer).await?;
        self.socket = Some(Connected { socket, peer });
        self.limit = MAX_DATAGRAM;
        Ok(())
    }

    fn note_delivery(&mut self, counts: &DocumentCounts) {
        if std::mem::take(&mut self.in_doubt) {
            counts.exported.increment();
        }
    }

    fn note_refusal(&mut self, error: &io::Error, counts: &DocumentCounts) {
        self.note_absence(error, counts);
        self.in_doubt = false;
        counts.lose(Loss::DaemonRefused, 1);
    }

    /// Notes that the daemon is away. Says so once, and if it comes and goes all the time, not more than every 30 seconds.
    fn note_absence(&mut self, error: &io::Error, counts: &DocumentCounts) {
        self.refused = true;
        if let Some(away) = &mut self.away {
            away.quiet_since = None;
            return;
        }
        let told = self.complained.is_none_or(|then| then.elapsed() >= COMPLAIN_EVERY);
        self.away = Some(Away { lost_before: lost(counts), told, quiet_since: None });
        if told {
            self.complained = Some(Instant::now());
            tracing::warn!(daemon = %self.address, %error, "the X-Ray daemon is out of reach; segments are lost until it is back");
        }
    }

    /// Whether the daemon is away, and nothing speaks for its return so far.
    fn is_refusing(&self) -> bool {
        self.away.as_ref().is_some_and(|away| away.quiet_since.is_none())
    }

    /// Something was sent in this round, and nothing refused. What was sent last can still be: that shows in a later
    /// round. So one such round begins the silence, and another one, a while later, ends it.
    fn note_quiet_round(&mut self, counts: &DocumentCounts) {
        let Some(away) = &mut self.away else { return };
        if away.quiet_since.get_or_insert_with(Instant::now).elapsed() < QUIET_FOR {
            return;
        }
        if away.told {
            let lost = lost(counts) - away.lost_before;
            tracing::info!(daemon = %self.address, lost, "the X-Ray daemon is back");
        }
        self.away = None;
    }
}

/// How many documents an absent daemon has cost.
fn lost(counts: &DocumentCounts) -> u64 {
    counts.lost(Loss::DaemonRefused) + counts.lost(Loss::SendError)
}

/// The address to use next: the one in use while it is good, else the one after it, so that of `localhost`'s two
/// addresses the one gets its turn at which the daemon listens.
fn choose(found: &[SocketAddr], current: Option<SocketAddr>, refused: bool) -> Option<SocketAddr> {
    let at = current.and_then(|current| found.iter().position(|address| *address == current));
    match at {
        Some(at) if refused => found.get((at + 1) % found.len()).copied(),
        Some(at) => found.get(at).copied(),
        None => found.first().copied(),
    }
}

/// `EMSGSIZE`, which has no [`io::ErrorKind`] of its own: 90 on Linux, 40 on the BSDs and macOS, 10040 on Windows.
fn is_too_long(error: &io::Error) -> bool {
    const EMSGSIZE: i32 = if cfg!(target_os = "linux") {
        90
    } else if cfg!(windows) {
        10040
    } else {
        40
    };
    error.raw_os_error() == Some(EMSGSIZE)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[test]
    fn a_refusing_address_gives_way_to_the_next() {
        let (a, b) = (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 2], 1)));
        assert_eq!(choose(&[a, b], None, false), Some(a));
        assert_eq!(choose(&[a, b], Some(a), false), Some(a));
        assert_eq!(choose(&[a, b], Some(b), false), Some(b));
        assert_eq!(choose(&[a, b], Some(a), true), Some(b));
        assert_eq!(choose(&[a, b], Some(b), true), Some(a));
        assert_eq!(choose(&[a], Some(b), false), Some(a));
        assert_eq!(choose(&[], Some(b), true), None);
    }

    /// A daemon's socket, and one that sends to it.
    async fn pair() -> (UdpSocket, Daemon, DocumentCounts) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let counts = DocumentCounts::of(&address);
        (socket, Daemon::new(address.parse().unwrap()), counts)
    }

    #[tokio::test]
    async fn a_way_that_is_too_narrow_is_learned_and_the_document_shrinks() {
        let (socket, mut daemon, counts) = pair().await;
        daemon.connect().await.unwrap();
        // As on a system that takes less than it should: the first try is refused by the kernel.
        daemon.limit = usize::MAX;
        let mut record = Record::plain();
        record.headers = vec![(http::HeaderName::from_static("x-a"), "x".repeat(1000).parse().unwrap()); 80];
        daemon.send(&record, &counts).await;
        daemon.settle(&counts);
        let mut datagram = vec![0; 70_000];
        let length = socket.recv(&mut datagram).await.unwrap();
        assert!(length < 1000, "the metadata is gone: {length}");
        assert!((40_000..MAX_DATAGRAM).contains(&daemon.limit), "{}", daemon.limit);
        assert_eq!((counts.exported.get(), counts.lost(Loss::TooLarge)), (1, 0));
    }

    #[tokio::test]
    async fn every_datagram_is_counted_once_whether_refused_or_not() {
        let (socket, mut daemon, counts) = pair().await;
        let address = socket.local_addr().unwrap();
        daemon.send(&Record::plain(), &counts).await;
        daemon.settle(&counts);
        drop(socket);
        for _ in 0..5 {
            daemon.send(&Record::plain(), &counts).await;
        }
        daemon.settle(&counts);
        assert_eq!((counts.exported.get(), counts.lost(Loss::DaemonRefused)), (1, 5));
        assert!(daemon.away.is_some());

        let _socket = UdpSocket::bind(address).await.unwrap();
        for _ in 0..5 {
            daemon.send(&Record::plain(), &counts).await;
        }
        daemon.settle(&counts);
        assert_eq!((counts.exported.get(), counts.lost(Loss::DaemonRefused)), (6, 5));
    }

    /// One round of sending.
    async fn round(daemon: &mut Daemon, counts: &DocumentCounts) {
        daemon.send(&Record::plain(), counts).await;
        daemon.settle(counts);
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_is_back_only_after_a_while_without_a_refusal() {
        // It was said to be back by a stopping gateway, whose last round had nothing to send, although it was away.
        let (socket, mut daemon, counts) = pair().await;
        let address = socket.local_addr().unwrap();
        drop(socket);
        round(&mut daemon, &counts).await;
        assert!(daemon.is_refusing());
        for _ in 0..2 {
            advance(QUIET_FOR).await;
            daemon.settle(&counts);
            assert!(daemon.is_refusing(), "nothing was sent, so nothing could be refused");
        }

        let socket = UdpSocket::bind(address).await.unwrap();
        round(&mut daemon, &counts).await;
        assert!(daemon.away.is_some() && !daemon.is_refusing(), "one round begins the silence");
        advance(QUIET_FOR / 2).await;
        round(&mut daemon, &counts).await;
        assert!(daemon.away.is_some(), "it is too short");

        drop(socket);
        round(&mut daemon, &counts).await;
        assert!(daemon.is_refusing(), "a refusal ends it");

        let _socket = UdpSocket::bind(address).await.unwrap();
        round(&mut daemon, &counts).await;
        advance(QUIET_FOR).await;
        round(&mut daemon, &counts).await;
        assert!(daemon.away.is_none());
        assert_eq!((counts.exported.get(), counts.lost(Loss::DaemonRefused)), (4, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_comes_and_goes_is_not_spoken_of_all_the_time() {
        let (socket, mut daemon, counts) = pair().await;
        let address = socket.local_addr().unwrap();
        drop(socket);
        for (pause, told) in [(Duration::ZERO, true), (QUIET_FOR, false), (COMPLAIN_EVERY, true)] {
            advance(pause).await;
            round(&mut daemon, &counts).await;
            assert_eq!(daemon.away.as_ref().map(|away| away.told), Some(told), "after {pause:?}");

            let _socket = UdpSocket::bind(address).await.unwrap();
            round(&mut daemon, &counts).await;
            advance(QUIET_FOR).await;
            round(&mut daemon, &counts).await;
            assert!(daemon.away.is_none());
        }
    }
}

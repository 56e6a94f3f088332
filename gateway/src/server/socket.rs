//! Binding an address.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use portcullis_config::units::ListenAddress;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;
use tokio::task::{unconstrained, yield_now};

use super::socket_file::{self, SocketFile};
use super::stream::Stream;
use crate::unavailable::{self, Unavailable};

/// How much of an answer the kernel keeps for a client beyond what is on its way, in bytes. With as much as it likes, 4 MiB, it
/// says that there is room again only when a third of that has gone; a client that takes 30 KB a second would look for
/// most of a minute as if it took nothing.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// A connection and both its ends, or what was wrong.
pub(super) type Accepted = io::Result<Arrived>;

/// A connection that was accepted.
pub(super) struct Arrived {
    pub(super) stream: Stream,
    /// The other end. A unix socket's has no address.
    pub(super) peer: Option<SocketAddr>,
    /// This end, if it is not known before.
    pub(super) local: Option<SocketAddr>,
}

/// How one worker hears of connections.
pub(super) enum Ear {
    Tcp {
        listener: TcpListener,
        /// Whether connections come to several addresses.
        wide: bool,
    },
    Unix(UnixListener),
}

impl Ear {
    /// Accepts a connection once `place` has one for it; `None` if there is a connection and no place.
    ///
    /// The place is taken when a connection is there and not before: one that a worker keeps while it waits is one that
    /// others lack. And not after, or every worker that has waited lets one in too many.
    pub(super) async fn accept<P>(&self, mut place: impl FnMut() -> Option<P>) -> Option<(P, Accepted)> {
        poll_fn(|context: &mut Context<'_>| -> Poll<Option<(P, Accepted)>> {
            let Some(place) = place() else { return Poll::Ready(None) };
            let accepted = ready!(self.poll_accept(context));
            Poll::Ready(Some((place, accepted)))
        })
        .await
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<Accepted> {
        match self {
            Self::Tcp { listener, wide } => listener.poll_accept(context).map_ok(|(stream, peer)| {
                let local = if *wide { stream.local_addr().ok() } else { None };
                Arrived { stream: stream.into(), peer: Some(peer), local }
            }),
            Self::Unix(listener) => listener.poll_accept(context).map_ok(|(stream, _)| Arrived {
                stream: stream.into(),
                peer: None,
                local: None,
            }),
        }
    }

    /// The next of the connections that wait already.
    pub(super) async fn waiting(&self) -> Option<Arrived> {
        // The runtime looks what is new.
        yield_now().await;
        unconstrained(poll_fn(|context| self.poll_accept(context))).now_or_never()?.ok()
    }
}

/// A bound address, at which every worker has an ear. The kernel queues who connects.
///
/// It is one socket, of which each worker has a descriptor. A socket per worker (`SO_REUSEPORT`) would let a second
/// gateway bind the same address without a word, and would bind a connection that waits to the one worker whose turn
/// it is by the hash of its port, busy or not.
pub struct Socket {
    pub(super) address: ListenAddress,
    pub(super) ears: Vec<Ear>,
    /// Its name, if it is a unix socket.
    pub(super) file: Option<SocketFile>,
}

impl Socket {
    /// Binds an address for the named listeners, with an ear on each of these runtimes. `[::]` takes IPv4 too.
    pub(crate) fn bind<'a>(
        address: &ListenAddress,
        listeners: &[&str],
        runtimes: impl IntoIterator<Item = &'a Handle>,
    ) -> Result<Self, Unavailable> {
        let socket = match address {
            ListenAddress::Tcp(address) => Self::open(*address, runtimes).map_err(|error| unavailable::reason(&error)),
            ListenAddress::Unix(path) => socket_file::listen(path).and_then(|(socket, file)| {
                let ears = runtimes.into_iter().map(|runtime| -> io::Result<Ear> {
                    let _here = runtime.enter();
                    Ok(Ear::Unix(UnixListener::from_std(socket.try_clone()?)?))
                });
                let ears = ears.collect::<io::Result<_>>().map_err(|error| error.to_string())?;
                Ok(Self { address: address.clone(), ears, file: Some(file) })
            }),
        };
        socket.map_err(|reason| Unavailable::address(listeners, address, reason))
    }

    fn open<'a>(address: SocketAddr, runtimes: impl IntoIterator<Item = &'a Handle>) -> io::Result<Self> {
        let socket = open(address)?;
        let ear = |runtime: &Handle| -> io::Result<Ear> {
            let _here = runtime.enter();
            let listener = TcpListener::from_std(socket.try_clone()?)?;
            Ok(Ear::Tcp { listener, wide: address.ip().is_unspecified() })
        };
        let ears = runtimes.into_iter().map(ear).collect::<io::Result<_>>()?;
        Ok(Self { address: socket.local_addr()?.into(), ears, file: None })
    }

    /// The address that was bound; it has the real port where the file says 0.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }
}

fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the previous run to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    // Answers are written whole; waiting for more to fill a segment would only delay them. Connections inherit it.
    socket.set_tcp_nodelay(true)?;
    // Inherited as well.
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(UNSENT)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

//! Binding an address.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::{unconstrained, yield_now};

use crate::unavailable::Unavailable;

/// A connection and its other end, or what was wrong.
pub(super) type Accepted = io::Result<(TcpStream, SocketAddr)>;

/// How one worker hears of connections.
pub(super) struct Ear(TcpListener);

impl Ear {
    /// Accepts a connection once `place` has one for it; `None` if there is a connection and no place.
    ///
    /// The place is taken when a connection is there and not before: one that a worker keeps while it waits is one that
    /// others lack. And not after, or every worker that has waited lets one in too many.
    pub(super) async fn accept<P>(&self, mut place: impl FnMut() -> Option<P>) -> Option<(P, Accepted)> {
        poll_fn(|context: &mut Context<'_>| -> Poll<Option<(P, Accepted)>> {
            let Some(place) = place() else { return Poll::Ready(None) };
            let accepted = ready!(self.0.poll_accept(context));
            Poll::Ready(Some((place, accepted)))
        })
        .await
    }

    /// The next of the connections that wait already.
    pub(super) async fn waiting(&self) -> Option<(TcpStream, SocketAddr)> {
        // The runtime looks what is new.
        yield_now().await;
        unconstrained(self.0.accept()).now_or_never()?.ok()
    }
}

/// A bound address, at which every worker has an ear. The kernel queues who connects.
///
/// It is one socket, of which each worker has a descriptor. A socket per worker (`SO_REUSEPORT`) would let a second
/// gateway bind the same address without a word, and would bind a connection that waits to the one worker whose turn
/// it is by the hash of its port, busy or not.
pub struct Socket {
    pub(super) address: SocketAddr,
    pub(super) ears: Vec<Ear>,
}

impl Socket {
    /// Binds an address for the named listeners, with an ear on each of these runtimes. `[::]` takes IPv4 too.
    pub(crate) fn bind<'a>(
        address: SocketAddr,
        listeners: &[&str],
        runtimes: impl IntoIterator<Item = &'a Handle>,
    ) -> Result<Self, Unavailable> {
        Self::open(address, runtimes).map_err(|error| Unavailable::address(listeners, address, &error))
    }

    fn open<'a>(address: SocketAddr, runtimes: impl IntoIterator<Item = &'a Handle>) -> io::Result<Self> {
        let socket = open(address)?;
        let ear = |runtime: &Handle| -> io::Result<Ear> {
            let _here = runtime.enter();
            Ok(Ear(TcpListener::from_std(socket.try_clone()?)?))
        };
        let ears = runtimes.into_iter().map(ear).collect::<io::Result<_>>()?;
        Ok(Self { address: socket.local_addr()?, ears })
    }

    /// The address that was bound; it has the real port where the file says 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the previous run to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    // Answers are written whole; waiting for more to fill a segment would only delay them. Connections inherit it.
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

//! Binding an address.

use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// An address that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listener {listeners} cannot bind {address}: {reason}")]
pub struct BindError {
    /// The listeners that wanted it, as they are to be printed.
    pub listeners: String,
    /// The address they wanted.
    pub address: SocketAddr,
    /// Why not, and what to do.
    pub reason: String,
}

/// Binds an address for the named listeners. `[::]` takes IPv4 too.
pub fn bind(address: SocketAddr, listeners: &[&str]) -> Result<TcpListener, BindError> {
    open(address).map_err(|error| BindError {
        listeners: listeners.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        address,
        reason: match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "the address is in use; stop the program that has it, or choose another port".to_owned()
            }
            std::io::ErrorKind::PermissionDenied => {
                format!("permission denied; ports below 1024 need CAP_NET_BIND_SERVICE ({error})")
            }
            std::io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address".to_owned(),
            _ => error.to_string(),
        },
    })
}

fn open(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the previous run to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

//! Takes datagrams and forgets them, so that a sender meets a socket that somebody empties.

use std::io;
use std::net::{SocketAddr, UdpSocket};

/// Says on standard output when the first datagram came, with its length; the benchmark waits for that.
pub fn run(listen: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(listen)?;
    let mut datagram = vec![0; 64 * 1024];
    let length = socket.recv(&mut datagram)?;
    println!("{length}");
    loop {
        socket.recv(&mut datagram)?;
    }
}

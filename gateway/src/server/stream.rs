//! A client's connection, over TCP or over a unix socket.

use std::io::{self, IoSlice};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A client's connection.
///
/// One type for both kinds, so that all that is done with a connection is compiled once. What tells them apart costs a
/// comparison per system call.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Socket,
    /// What was read in advance, and is read again first.
    ahead: Vec<u8>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection on its way from one worker to another.
#[derive(Debug)]
pub(super) enum Parcel {
    Tcp(std::net::TcpStream),
    Unix(StdUnixStream),
}

impl Stream {
    /// Gives back what was read and belongs to whoever reads next.
    pub(super) fn put_back(&mut self, bytes: Vec<u8>) {
        self.ahead = bytes;
    }

    /// Ends at once, with a reset. A unix socket knows none and is closed.
    pub(super) fn reset(self) {
        if let Socket::Tcp(stream) = &self.socket {
            // Where it fails the connection has ended already.
            let _ = stream.set_zero_linger();
        }
    }

    /// Leaves the runtime that accepted it.
    pub(super) fn pack(self) -> io::Result<Parcel> {
        Ok(match self.socket {
            Socket::Tcp(stream) => Parcel::Tcp(stream.into_std()?),
            Socket::Unix(stream) => Parcel::Unix(stream.into_std()?),
        })
    }

    #[cold]
    fn read_again(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..count]);
        self.ahead.drain(..count);
        if self.ahead.is_empty() {
            self.ahead = Vec::new();
        }
    }
}

impl Parcel {
    /// Arrives at the current runtime.
    pub(super) fn unpack(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(stream) => TcpStream::from_std(stream)?.into(),
            Self::Unix(stream) => UnixStream::from_std(stream)?.into(),
        })
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self { socket: Socket::Tcp(stream), ahead: Vec::new() }
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self { socket: Socket::Unix(stream), ahead: Vec::new() }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            self.read_again(buffer);
            return Poll::Ready(Ok(()));
        }
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(context, data),
            Socket::Unix(stream) => Pin::new(stream).poll_write(context, data),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, data),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(context, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_was_read_in_advance_is_read_first_and_leaves_nothing_behind() {
        let (mut client, end) = UnixStream::pair().unwrap();
        let mut stream = Stream::from(end);
        stream.put_back(b"ahead".to_vec());
        client.write_all(b" behind").await.unwrap();
        let mut bytes = [0; 12];
        stream.read_exact(&mut bytes[..3]).await.unwrap();
        stream.read_exact(&mut bytes[3..]).await.unwrap();
        assert_eq!((&bytes, stream.ahead.capacity()), (b"ahead behind", 0));
    }
}

//! A TCP connection as hyper writes to it.
//!
//! hyper hands over the head and the body of a message as a list of buffers. For a list the kernel takes a longer way
//! (`writev`) than for one buffer (`send`), and a copy of a few hundred bytes costs less than the difference. Large
//! buffers are never copied.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is copied together at most, in bytes.
const SMALL: usize = 1024;

pin_project! {
    /// A stream whose short writes go out by the short way.
    #[derive(Debug)]
    pub(crate) struct Wire<S> {
        #[pin]
        stream: S,
    }
}

impl<S> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream }
    }

    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_read(context, buffer)
    }
}

impl<S: AsyncWrite> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write(context, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = self.project().stream;
        if let [only] = data {
            return stream.poll_write(context, only);
        }
        let mut joined = [0; SMALL];
        match join(data, &mut joined) {
            Some(joined) => stream.poll_write(context, joined),
            None => stream.poll_write_vectored(context, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(context)
    }
}

/// The buffers one after the other, if there is room for all of them.
fn join<'a>(data: &[IoSlice<'_>], room: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut length = 0;
    for part in data {
        room.get_mut(length..length + part.len())?.copy_from_slice(part);
        length += part.len();
    }
    Some(&room[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(parts: &[&[u8]]) -> Option<Vec<u8>> {
        let parts: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        join(&parts, &mut [0; SMALL]).map(<[u8]>::to_vec)
    }

    #[test]
    fn short_buffers_become_one_and_long_ones_stay() {
        assert_eq!(joined(&[b"head", b"", b"body"]).unwrap(), b"headbody");
        assert_eq!(joined(&[&[1; SMALL - 1], &[2]]).unwrap().len(), SMALL);
        assert_eq!(joined(&[&[1; SMALL], &[2]]), None);
        assert_eq!(joined(&[]).unwrap(), b"");
    }
}

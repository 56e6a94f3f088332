//! The bytes of a connection on their way from and to h2, seen as they go by.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::course::Course;
use crate::server::exit::Exit;

/// A connection whose frames are seen.
pub(super) struct Keeper<I> {
    /// Gone once the connection takes its leave.
    io: Option<I>,
    /// What was read before.
    read: Vec<u8>,
    ended: bool,
    course: Arc<Course>,
    exit: Exit<I>,
}

impl<I> Keeper<I> {
    pub(super) fn new(io: I, read: Vec<u8>, course: Arc<Course>, exit: Exit<I>) -> Self {
        Self { io: Some(io), read, ended: false, course, exit }
    }

    fn io(&mut self) -> io::Result<Pin<&mut I>>
    where
        I: Unpin,
    {
        self.io.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Leaves the connection for whoever closes it so that the last words are heard.
    fn leave(&mut self) {
        if let Some(io) = self.io.take() {
            self.exit.leave(io);
        }
    }

    fn refuse(&mut self) -> Poll<io::Result<()>> {
        self.leave();
        Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
    }
}

impl<I> Drop for Keeper<I> {
    fn drop(&mut self) {
        if self.course.fault().is_some() {
            self.leave();
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Keeper<I> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.course.fault().is_some() {
            return this.refuse();
        }
        let before = buffer.filled().len();
        if this.read.is_empty() {
            let read = ready!(this.io()?.poll_read(context, buffer));
            // h2 takes a client that leaves TLS without a farewell for one that is done, and closes nothing itself then.
            read.inspect_err(|_| this.course.close())?;
        } else {
            let count = this.read.len().min(buffer.remaining());
            buffer.put_slice(&this.read[..count]);
            this.read.drain(..count);
            if this.read.is_empty() {
                this.read = Vec::new();
            }
        }
        let new = &buffer.filled()[before..];
        this.ended = new.is_empty();
        match this.course.arrived(new) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => this.refuse(),
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Keeper<I> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(this.io()?.poll_write(context, data))?;
        this.course.sent(&data[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().io()?.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.course.close();
        if this.ended {
            return this.io()?.poll_shutdown(context);
        }
        // What the client still sends must not be answered with a reset, which would overtake our last frame.
        this.leave();
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(this.io()?.poll_write_vectored(context, data))?;
        let mut left = count;
        for part in data {
            let part = &part[..part.len().min(left)];
            this.course.sent(part);
            left -= part.len();
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

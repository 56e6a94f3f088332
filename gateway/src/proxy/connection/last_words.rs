//! What an instance said before it closed a connection that it is still written to.
//!
//! An instance that refuses an upload answers in the middle of it and closes. What of the upload it has not read makes its
//! system break the connection off, so that writing fails here, most likely before the answer was read, which has come by
//! then. hyper and h2 take the first error for the end and lose it. So an error of writing is kept to ourselves: what is
//! written goes nowhere until all that has come was read, and the end that is read then is the end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection to an instance that is heard to its end.
pub(super) struct LastWords<S> {
    stream: S,
    /// Why writing is in vain.
    deaf: Option<io::ErrorKind>,
    /// Nothing is kept to ourselves: no more comes, or it comes for somebody who wants to know.
    told: bool,
}

impl<S> LastWords<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, deaf: None, told: false }
    }

    /// From here on another protocol is spoken, where either end may mean something else.
    pub(super) fn let_go(&mut self) {
        self.told = true;
    }

    /// What becomes of writing so many bytes.
    fn written(&mut self, written: Poll<io::Result<usize>>, count: usize) -> Poll<io::Result<usize>> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        match written {
            Poll::Ready(Err(error))
                if !self.told && matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset) =>
            {
                self.deaf = Some(error.kind());
                Poll::Ready(Ok(count))
            }
            written => written,
        }
    }

    /// What comes of writing to an instance that is gone; `None` if it is there.
    fn in_vain(&self) -> Option<io::Result<()>> {
        self.deaf.map(|kind| if self.told { Err(kind.into()) } else { Ok(()) })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LastWords<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(context, buffer));
        if this.deaf.is_some() && (read.is_err() || buffer.filled().len() == before) {
            this.told = true;
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LastWords<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(outcome) = this.in_vain() {
            return Poll::Ready(outcome.map(|()| data.len()));
        }
        let written = Pin::new(&mut this.stream).poll_write(context, data);
        this.written(written, data.len())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.in_vain() {
            None => Pin::new(&mut this.stream).poll_flush(context),
            // Whoever has more to write waits here, and is woken by what there is to read. There always is something: the
            // connection is gone, so at least its end.
            Some(Ok(())) => Poll::Pending,
            Some(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.deaf.is_some() { Poll::Ready(Ok(())) } else { Pin::new(&mut this.stream).poll_shutdown(context) }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = || data.iter().map(|part| part.len()).sum();
        if let Some(outcome) = this.in_vain() {
            return Poll::Ready(outcome.map(|()| count()));
        }
        match Pin::new(&mut this.stream).poll_write_vectored(context, data) {
            written @ Poll::Ready(Err(_)) => this.written(written, count()),
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn what_was_said_before_the_end_is_heard_and_then_the_end() {
        let (mut instance, stream) = UnixStream::pair().unwrap();
        let mut words = LastWords::new(stream);
        words.write_all(b"unread").await.unwrap();
        instance.write_all(b"last words").await.unwrap();
        drop(instance);
        for _ in 0..3 {
            assert_eq!(words.write(b"in vain").await.unwrap(), 7);
        }
        assert!(words.flush().now_or_never().is_none(), "there is something to read first");
        let mut heard = [0; 10];
        words.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"last words");
        assert!(words.flush().now_or_never().is_none(), "the end was not read yet");
        assert!(!matches!(words.read(&mut heard).await, Ok(1..)));
        assert!(words.flush().await.is_err() && words.write(b"in vain").await.is_err());
        words.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn in_another_protocol_an_end_is_told_at_once() {
        let (instance, stream) = UnixStream::pair().unwrap();
        let mut words = LastWords::new(stream);
        words.let_go();
        drop(instance);
        assert!(words.write(b"in vain").await.is_err());
    }
}

//! What an instance said before it closed a connection that it is still written to.
//!
//! An instance that refuses an upload answers in the middle of it and closes. What of the upload it has not read makes its
//! system break the connection off, so that writing fails here, most likely before the answer was read, which has come by
//! then. hyper and h2 take the first error for the end and lose it. So an error of writing is kept to ourselves: what is
//! written goes nowhere until all that has come was read, and the end that is read then is the end.
//!
//! h2 reads no more once it has said goodbye itself, and waits only for its goodbye to be written. So whoever waits for that
//! looks whether anything was left unread, and waits for it to be read for a moment only.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::alarm::Alarm;

/// How much is read by whoever only wants to know whether there is something to read, in bytes.
const PEEK: usize = 2048;

/// A connection to an instance that is heard to its end.
pub(super) struct LastWords<S> {
    stream: S,
    /// Why writing is in vain.
    deaf: Option<io::ErrorKind>,
    /// Nothing is kept to ourselves: no more comes, or it comes for somebody who wants to know.
    told: bool,
    /// What has come and was not read yet, as far as somebody has looked.
    unread: Vec<u8>,
    /// How long that may lie there, if whoever reads reads all that comes.
    patience: Option<Duration>,
    since: Option<Instant>,
    alarm: Alarm,
}

impl<S> LastWords<S> {
    /// Those of a connection whose reader waits for somebody to take what it reads, for however long.
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            deaf: None,
            told: false,
            unread: Vec::new(),
            patience: None,
            since: None,
            alarm: Alarm::default(),
        }
    }

    /// Those of a connection whose reader takes all that comes, or reads no more at all.
    pub(super) fn taken_within(stream: S, patience: Duration) -> Self {
        Self { patience: Some(patience), ..Self::new(stream) }
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

impl<S: AsyncRead + Unpin> LastWords<S> {
    /// Whoever has more to write waits here for what has come to be read. If nothing has, this is the end.
    ///
    /// h2 need not read it: that nothing more comes is no part of any message.
    #[cold]
    fn poll_unread(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // Such a reader comes to the end by itself, and there is always one: the connection is gone.
        let Some(patience) = self.patience else { return Poll::Pending };
        if self.unread.is_empty() {
            let mut room = [0; PEEK];
            let mut buffer = ReadBuf::new(&mut room);
            let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                self.told = true;
                return Poll::Ready(());
            }
            self.unread.extend_from_slice(buffer.filled());
            // Whoever reads has been told that there is nothing.
            context.waker().wake_by_ref();
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        ready!(self.alarm.poll_until(since.checked_add(patience), context));
        self.told = true;
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LastWords<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.unread.is_empty() {
            let count = this.unread.len().min(buffer.remaining());
            buffer.put_slice(&this.unread[..count]);
            this.unread.drain(..count);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(context, buffer));
        if this.deaf.is_some() && (read.is_err() || buffer.filled().len() == before) {
            this.told = true;
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LastWords<S> {
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
        if this.deaf.is_some() && !this.told {
            ready!(this.poll_unread(context));
        }
        this.in_vain().map_or_else(|| Pin::new(&mut this.stream).poll_flush(context), Poll::Ready)
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

    #[tokio::test(start_paused = true)]
    async fn whoever_reads_no_more_is_kept_waiting_for_a_moment_at_most() {
        for said in [&b""[..], b"last words"] {
            let (mut instance, stream) = UnixStream::pair().unwrap();
            let mut words = LastWords::taken_within(stream, Duration::from_secs(1));
            instance.write_all(said).await.unwrap();
            drop(instance);
            let begin = Instant::now();
            assert_eq!(words.write(b"goodbye").await.unwrap(), 7);
            assert!(words.flush().await.is_err());
            assert_eq!(begin.elapsed().as_secs(), u64::from(!said.is_empty()), "{said:?}");
            // What was looked at is not lost.
            let mut heard = Vec::new();
            words.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, said);
        }
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

//! A connection that rests: a socket, a clock, and nothing else.
//!
//! Clients keep connections open for requests that may come, and a gateway has many more that rest than such that work.
//! What a parser needs, above all its buffer, is made again when the next byte comes.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::stop::Stop;

/// How much of what wakes a connection is read at once. Only the stack has room for it.
const FIRST: usize = 2048;

/// Waits until the client asks again, and returns the connection with what has come. `None` when it has ended: the
/// client left, it rested for longer than `idle`, or it was told to come to its end.
pub(super) async fn rest<S>(mut io: S, since: Instant, idle: Option<Duration>, stop: &Stop) -> Option<(S, Vec<u8>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let over = async {
        match idle {
            Some(idle) => sleep_until(since + idle).await,
            None => std::future::pending().await,
        }
    };
    let come = tokio::select! {
        biased;
        come = read(&mut io) => come,
        () = stop.told() => Ok(Vec::new()),
        () = over => {
            debug!("a connection was idle for too long");
            Ok(Vec::new())
        }
    };
    match come {
        Ok(come) if !come.is_empty() => Some((io, come)),
        Ok(_) => {
            // Over TLS this says that nothing was cut off. There is nobody left to tell if it fails.
            let _ = io.shutdown().await;
            None
        }
        Err(error) => {
            debug!(%error, "a connection ended while it rested");
            None
        }
    }
}

/// What comes next; empty at the end.
async fn read<S: AsyncRead + Unpin>(io: &mut S) -> io::Result<Vec<u8>> {
    poll_fn(|context| {
        let mut room = [MaybeUninit::uninit(); FIRST];
        let mut buffer = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut *io).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().to_vec()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    const IDLE: Option<Duration> = Some(Duration::from_secs(30));

    #[tokio::test]
    async fn it_ends_with_what_comes_next() {
        let (mut client, io) = duplex(64);
        client.write_all(b"GET").await.unwrap();
        let (_, come) = rest(io, Instant::now(), IDLE, &Stop::default()).await.expect("bytes came");
        assert_eq!(come, b"GET");
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_in_its_time_counted_from_when_it_began() {
        let ((mut client, io), begin) = (duplex(64), Instant::now());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(rest(io, begin, IDLE, &Stop::default()).await.is_none());
        assert_eq!((begin.elapsed().as_secs(), client.read(&mut [0]).await.unwrap()), (30, 0));
    }

    #[tokio::test]
    async fn it_ends_when_it_is_told_to_and_when_the_client_leaves() {
        let ((mut client, io), stop) = (duplex(64), Stop::default());
        let (rested, ()) = tokio::join!(rest(io, Instant::now(), None, &stop), async { stop.tell() });
        assert!(rested.is_none());
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);

        let (client, io) = duplex(64);
        drop(client);
        assert!(rest(io, Instant::now(), None, &Stop::default()).await.is_none());
    }
}

//! Instances that speak HTTP/2, stream by stream or byte by byte.

use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Wire;
use super::speaker::{SETTINGS, frame};

/// A request that waits for its answer.
pub struct Stream {
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
}

impl Stream {
    /// Answers with this body.
    pub fn answer(mut self, body: impl Into<Bytes>) {
        let mut send = self.respond.send_response(Response::new(()), false).unwrap();
        send.send_data(body.into(), true).unwrap();
    }

    /// Answers after the body was read; returns the body.
    pub async fn read_and_answer(mut self, body: &'static str) -> Vec<u8> {
        let (read, _) = read(self.request.body_mut()).await;
        self.answer(body);
        read
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name).map(|value| value.to_str().unwrap())
    }

    /// Waits until the other end resets the stream, and says why.
    pub async fn until_reset(&mut self) -> Reason {
        std::future::poll_fn(|context| self.respond.poll_reset(context)).await.unwrap()
    }
}

/// Reads a body to its end.
pub async fn read(body: &mut RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        whole.extend_from_slice(&data);
    }
    (whole, body.trailers().await.unwrap())
}

/// The instance's end of one connection.
pub struct Peer {
    streams: mpsc::UnboundedReceiver<Stream>,
    farewell: mpsc::UnboundedSender<Option<Reason>>,
}

impl Peer {
    pub async fn new(wire: Wire) -> Self {
        Self::with(wire, &mut Builder::new()).await
    }

    /// One that takes no more streams at a time.
    pub async fn taking(wire: Wire, streams: u32) -> Self {
        Self::with(wire, Builder::new().max_concurrent_streams(streams)).await
    }

    pub async fn with(wire: Wire, builder: &mut Builder) -> Self {
        let mut connection = builder.handshake::<_, Bytes>(wire.into_parts().0).await.unwrap();
        let (accepted, streams) = mpsc::unbounded_channel();
        let (farewell, mut farewells) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    stream = connection.accept() => match stream {
                        Some(Ok((request, respond))) => _ = accepted.send(Stream { request, respond }),
                        _ => return,
                    },
                    Some(farewell) = farewells.recv() => match farewell {
                        None => connection.graceful_shutdown(),
                        Some(reason) => connection.abrupt_shutdown(reason),
                    },
                }
            }
        });
        Self { streams, farewell }
    }

    /// The next stream.
    pub async fn next(&mut self) -> Stream {
        self.try_next().await.expect("the connection ended where a request should be")
    }

    /// The next stream; `None` if the connection ends.
    pub async fn try_next(&mut self) -> Option<Stream> {
        timeout(Duration::from_secs(10), self.streams.recv()).await.expect("no request came")
    }

    /// Whether no stream waits.
    pub fn is_quiet(&mut self) -> bool {
        self.streams.try_recv().is_err()
    }

    /// Says that it takes no more streams.
    pub fn go_away(&self) {
        self.farewell.send(None).unwrap();
    }

    /// Closes the connection at once, with a reason.
    pub fn shut_down(&self, reason: Reason) {
        self.farewell.send(Some(reason)).unwrap();
    }
}

/// An instance's end of a connection, that sends what the test says byte by byte.
pub struct Raw(pub Wire);

impl Raw {
    /// Reads the preface and says that it takes what is usual.
    pub async fn begin(mut wire: Wire) -> Self {
        wire.take(24).await;
        wire.put(frame(SETTINGS, 0, 0, "")).await;
        Self(wire)
    }

    /// The next frame: its kind, flags, stream and payload; `None` if the connection ends.
    pub async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let head = self.0.try_take(9).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, self.0.try_take(length).await?))
    }

    /// Reads up to the next frame of this kind.
    pub async fn until(&mut self, kind: u8) -> (u8, u32, Vec<u8>) {
        loop {
            let (found, flags, stream, payload) = self.next().await.expect("the connection ended");
            if found == kind {
                return (flags, stream, payload);
            }
        }
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let _ = self.0.try_put(frame(kind, flags, stream, payload)).await;
    }
}

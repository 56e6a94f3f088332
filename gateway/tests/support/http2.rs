//! A client that speaks HTTP/2, and the answers that it gets.

use std::net::SocketAddr;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::pki::Secure;

/// A connection that many requests share. Clones are the same connection.
#[derive(Clone)]
pub struct Client(SendRequest<Body>);

/// The head of an answer and all of its body.
pub struct Whole {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Client {
    /// With prior knowledge.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        // As clients do: or a frame's end waits for the other end to say that it has the rest.
        stream.set_nodelay(true).unwrap();
        Self::over(stream).await.0
    }

    /// Over a connection whose handshake is done.
    pub async fn secure(connection: Secure) -> Self {
        assert_eq!(connection.protocol().as_deref(), Some("h2"));
        Self::over(connection.into_stream()).await.0
    }

    /// Over anything; and how the connection ends.
    pub async fn over<I>(io: I) -> (Self, JoinHandle<hyper::Result<()>>)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(io)).await.unwrap();
        (Self(sender), tokio::spawn(connection))
    }

    pub async fn try_send(&self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        let mut sender = self.0.clone();
        sender.ready().await?;
        sender.send_request(request).await
    }

    pub async fn send(&self, request: Request<Body>) -> Response<Incoming> {
        self.try_send(request).await.unwrap()
    }

    /// A `GET`, and its answer to the end.
    pub async fn get(&self, url: &str) -> Whole {
        whole(self.send(Request::get(url).body(Body::empty()).unwrap()).await).await
    }

    /// Whether the connection takes no more requests.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// Reads an answer to its end.
pub async fn whole(response: Response<Incoming>) -> Whole {
    let (head, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    Whole { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers }
}

impl Whole {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

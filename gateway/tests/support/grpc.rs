//! Calls of gRPC whose messages are plain bytes: a service with one method of each kind, and somebody who calls it.
//!
//! What reads and writes the calls is tonic, without the code that it would generate from a description.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures_util::{Stream, StreamExt, stream};
use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Response, Status, Streaming};
use tower::{Service, service_fn};

/// Messages as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Plain;
    type Decoder = Plain;

    fn encoder(&mut self) -> Plain {
        Plain
    }

    fn decoder(&mut self) -> Plain {
        Plain
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}

/// A service of gRPC. It ends when it is dropped, and all its connections with it.
pub struct Server {
    pub address: SocketAddr,
    /// What became of calls that wait for ever: `begun`, `cancelled`.
    pub events: Arc<Mutex<Vec<&'static str>>>,
    accepting: JoinHandle<()>,
}

impl Server {
    pub async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, events) = (socket.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let noted = events.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let noted = noted.clone();
                let service = hyper::service::service_fn(move |request| call(noted.clone(), request));
                let connection =
                    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move { _ = connection.await });
            }
        });
        Self { address, events, accepting }
    }

    /// Whether something has happened, or does so soon.
    pub async fn has_seen(&self, event: &str) -> bool {
        for _ in 0..200 {
            if self.events.lock().unwrap().contains(&event) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Notes that a call was given up.
struct Begun(Arc<Mutex<Vec<&'static str>>>);

impl Begun {
    fn new(events: &Arc<Mutex<Vec<&'static str>>>) -> Self {
        events.lock().unwrap().push("begun");
        Self(events.clone())
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.lock().unwrap().push("cancelled");
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

async fn call(
    events: Arc<Mutex<Vec<&'static str>>>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Body>, Infallible> {
    let mut grpc = tonic::server::Grpc::new(Plain);
    Ok(match request.uri().path() {
        // The message comes back, and metadata beside it.
        "/test.Echo/Unary" => grpc.unary(service_fn(unary), request).await,
        // One answer with all messages joined.
        "/test.Echo/Join" => grpc.client_streaming(service_fn(join), request).await,
        // As many answers as the message has bytes, each a byte.
        "/test.Echo/Split" => grpc.server_streaming(service_fn(split), request).await,
        // Every message comes back as it comes.
        "/test.Echo/Chat" => grpc.streaming(service_fn(chat), request).await,
        // One message, and then nothing for ever.
        "/test.Echo/Hang" => {
            let hang = service_fn(move |request: Request<Bytes>| {
                let begun = Begun::new(&events);
                async move {
                    let first = stream::iter([Ok(request.into_inner())]);
                    let answers: Answers = Box::pin(first.chain(stream::once(async move {
                        let _begun = begun;
                        std::future::pending().await
                    })));
                    Ok::<_, Status>(Response::new(answers))
                }
            });
            grpc.server_streaming(hang, request).await
        }
        // Nothing for ever.
        "/test.Echo/Never" => {
            let never = service_fn(move |_: Request<Bytes>| {
                let begun = Begun::new(&events);
                async move {
                    let _begun = begun;
                    std::future::pending::<Result<Response<Bytes>, Status>>().await
                }
            });
            grpc.unary(never, request).await
        }
        _ => Status::unimplemented("no such method").into_http(),
    })
}

async fn unary(request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    if request.get_ref() == "fail" {
        return Err(Status::with_details(
            Code::FailedPrecondition,
            "not now: 100 %",
            Bytes::from_static(b"\0details\xff"),
        ));
    }
    let metadata = request.metadata().clone();
    let mut response = Response::new(request.into_inner());
    for name in ["x-ascii", "x-forwarded-for", "grpc-timeout", "te"] {
        if let Some(value) = metadata.get(name) {
            response
                .metadata_mut()
                .insert(format!("x-got-{name}").parse::<tonic::metadata::AsciiMetadataKey>().unwrap(), value.clone());
        }
    }
    if let Some(value) = metadata.get_bin("x-binary-bin") {
        response.metadata_mut().insert_bin("x-binary-bin", value.clone());
    }
    Ok(response)
}

async fn join(request: Request<Streaming<Bytes>>) -> Result<Response<Bytes>, Status> {
    let mut messages = request.into_inner();
    let mut joined = Vec::new();
    while let Some(message) = messages.message().await? {
        joined.extend_from_slice(&message);
    }
    Ok(Response::new(joined.into()))
}

async fn split(request: Request<Bytes>) -> Result<Response<Answers>, Status> {
    let bytes = request.into_inner();
    let parts = (0..bytes.len()).map(move |at| Ok(bytes.slice(at..=at)));
    Ok(Response::new(Box::pin(stream::iter(parts))))
}

async fn chat(request: Request<Streaming<Bytes>>) -> Result<Response<Answers>, Status> {
    Ok(Response::new(Box::pin(request.into_inner())))
}

/// Somebody who calls, over one connection.
#[derive(Clone)]
pub struct Caller {
    sender: SendRequest<Body>,
    origin: Uri,
}

impl Service<http::Request<Body>> for Caller {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<http::Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

impl Caller {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, origin: format!("http://{address}").parse().unwrap() }
    }

    fn grpc(&self) -> tonic::client::Grpc<Self> {
        tonic::client::Grpc::with_origin(self.clone(), self.origin.clone())
    }

    pub async fn unary(&self, method: &str, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        self.grpc().unary(request, path(method), Plain).await
    }

    pub async fn join(&self, messages: impl Stream<Item = Bytes> + Send + 'static) -> Result<Response<Bytes>, Status> {
        self.grpc().client_streaming(Request::new(messages), path("Join"), Plain).await
    }

    pub async fn split(&self, method: &str, message: Request<Bytes>) -> Result<Streaming<Bytes>, Status> {
        Ok(self.grpc().server_streaming(message, path(method), Plain).await?.into_inner())
    }

    pub async fn chat(&self, messages: impl Stream<Item = Bytes> + Send + 'static) -> Result<Streaming<Bytes>, Status> {
        Ok(self.grpc().streaming(Request::new(messages), path("Chat"), Plain).await?.into_inner())
    }
}

fn path(method: &str) -> http::uri::PathAndQuery {
    format!("/test.Echo/{method}").parse().unwrap()
}

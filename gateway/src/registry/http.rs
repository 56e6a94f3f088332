//! A small HTTP/1.1 client for registries that speak it: one far side, bounded answers, bounded waits.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::uri::Scheme;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::RegistryError;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);
/// The largest answer that is read: some ten thousand instances.
const ANSWER: usize = 32 << 20;
/// Connections that are kept for the next question.
const IDLE: usize = 64;

/// One far side, written `http://host:port`, maybe with a path that goes before all others.
#[derive(Debug)]
pub(super) struct Http {
    host: String,
    port: u16,
    prefix: String,
    headers: HeaderMap,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Http {
    /// Takes the address as it stands in the file. The error goes on from its key's name.
    pub(super) fn new(address: &str, mut headers: HeaderMap) -> Result<Self, String> {
        let uri: Uri = address.parse().map_err(|error| format!("is no URL: {error}"))?;
        if uri.scheme() == Some(&Scheme::HTTPS) {
            return Err("is https, which registries cannot use yet; write an http address".to_owned());
        }
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err("is no URL; write for example \"http://127.0.0.1:8500\"".to_owned());
        };
        if authority.as_str().contains('@') {
            return Err("has a user in it; use the `token` key for credentials".to_owned());
        }
        if uri.query().is_some() {
            return Err("has a query, which it cannot have".to_owned());
        }
        let port = authority.port_u16().filter(|port| *port != 0);
        let port = port.ok_or_else(|| format!("names no port; write for example \"http://{authority}:8500\""))?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| "is no URL".to_owned())?;
        headers.insert(HOST, host);
        let bare = authority.host().trim_start_matches('[').trim_end_matches(']');
        Ok(Self {
            host: bare.to_owned(),
            port,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            headers,
            idle: Mutex::default(),
        })
    }

    /// Asks, and reads the whole answer, within `limit`. Whatever its status, an answer is an answer.
    ///
    /// Everything that is asked this way can be asked twice: a connection that was kept may turn out
    /// to be closed, and then the question goes out again on a new one.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Reply, RegistryError> {
        let exchange = async {
            while let Some(kept) = self.take() {
                match self.exchange(kept, &method, path, &body).await {
                    Err(RegistryError::Unreachable(_)) => {}
                    answer => return answer,
                }
            }
            self.exchange(self.connect().await?, &method, path, &body).await
        };
        match timeout(limit, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(RegistryError::Unreachable(format!("no answer within {limit:?}"))),
        }
    }

    async fn exchange(
        &self,
        mut connection: SendRequest<Full<Bytes>>,
        method: &Method,
        path: &str,
        body: &Bytes,
    ) -> Result<Reply, RegistryError> {
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = format!("{}{path}", self.prefix)
            .parse()
            .map_err(|error| RegistryError::Refused(format!("`{path}` cannot be asked for: {error}")))?;
        *request.headers_mut() = self.headers.clone();
        // One that was kept may still be busy with the end of its last answer.
        connection.ready().await.map_err(broken)?;
        let response = connection.send_request(request).await.map_err(broken)?;
        let reply = read(response).await?;
        self.keep(connection);
        Ok(reply)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, RegistryError> {
        let unreachable = |error: &dyn std::fmt::Display| {
            RegistryError::Unreachable(format!("connecting to {}:{}: {error}", self.host, self.port))
        };
        let connected = timeout(CONNECT, TcpStream::connect((&*self.host, self.port))).await;
        let stream = connected
            .map_err(|_| unreachable(&format_args!("no answer within {CONNECT:?}")))?
            .map_err(|error| unreachable(&error))?;
        // A question may stay open for minutes without a byte. If the far side's machine is gone, or
        // came back and knows nothing of us, this finds out.
        let alive = TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2));
        let _ = SockRef::from(&stream).set_tcp_keepalive(&alive.with_retries(3));
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends when the sender is dropped, or the far side closes. Its error is the sender's as well.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|kept| !kept.is_closed())
    }

    fn keep(&self, connection: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !connection.is_closed() && idle.len() < IDLE {
            idle.push(connection);
        }
    }
}

async fn read(response: Response<Incoming>) -> Result<Reply, RegistryError> {
    let (head, body) = response.into_parts();
    match Limited::new(body, ANSWER).collect().await {
        Ok(body) => Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes() }),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(RegistryError::Malformed(format!("longer than {ANSWER} bytes")))
        }
        Err(error) => Err(RegistryError::Unreachable(format!("the answer broke off: {error}"))),
    }
}

/// What is wrong with a connection: it speaks no HTTP, or it is gone.
fn broken(error: hyper::Error) -> RegistryError {
    if error.is_parse() {
        return RegistryError::Malformed(format!("not HTTP: {error}"));
    }
    RegistryError::Unreachable(format!("the connection broke: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_that_cannot_be_used_says_why() {
        for (address, why) in [
            ("https://127.0.0.1:8501", "cannot use yet"),
            ("127.0.0.1:8500", "write for example"),
            ("http://consul", "names no port; write for example \"http://consul:8500\""),
            ("http://me:secret@consul:8500", "has a user in it"),
            ("http://consul:8500/?dc=1", "has a query"),
            ("unix:/run/consul.sock", "is no URL"),
            ("", "is no URL"),
        ] {
            let error = Http::new(address, HeaderMap::new()).unwrap_err();
            assert!(error.contains(why), "{address}: {error}");
        }
        let http = Http::new("http://[::1]:8500/consul/", HeaderMap::new()).unwrap();
        assert_eq!((&*http.host, http.port, &*http.prefix), ("::1", 8500, "/consul"));
    }

    #[tokio::test]
    async fn one_connection_serves_one_question_after_the_other_and_a_closed_one_is_replaced() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", socket.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = socket.accept().await {
                counter.fetch_add(1, Relaxed);
                // Five answers, and then it is closed without a word.
                for _ in 0..5 {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await.unwrap());
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                }
            }
        });
        let http = Http::new(&address, HeaderMap::new()).unwrap();
        for _ in 0..20 {
            let reply = http.send(Method::GET, "/", Bytes::new(), Duration::from_secs(5)).await.unwrap();
            assert_eq!(reply.body, "ok");
        }
        assert_eq!(connections.load(Relaxed), 4);
    }
}

//! Instances and clients that are made of bytes, so that a test says exactly what crosses the wire.

#![allow(dead_code, unreachable_pub, reason = "every test takes from here what it needs")]

pub mod echo;
pub mod fetched;
pub mod frames;
pub mod gateway;
pub mod grpc;
pub mod http2;
pub mod logged;
pub mod pki;
pub mod process;
pub mod proxy;
pub mod python;
pub mod speaker;

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An instance that does what the test says.
pub struct Fake {
    pub address: SocketAddr,
    listener: TcpListener,
}

impl Fake {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: listener.local_addr().unwrap(), listener }
    }

    /// The next connection that is made to it.
    pub async fn accept(&self) -> Wire {
        Wire::new(self.listener.accept().await.unwrap().0)
    }

    /// Whether a connection waits to be accepted. The other end must have had its chance to make one.
    pub async fn is_wanted(&self) -> bool {
        tokio::select! {
            biased;
            _ = self.listener.accept() => true,
            () = tokio::task::yield_now() => false,
        }
    }

    /// Answers every request of every connection in the same way, for ever.
    pub async fn answer(self, answer: &'static str) {
        loop {
            let mut wire = self.accept().await;
            tokio::spawn(async move {
                while let Some(head) = wire.try_head().await {
                    wire.take(content_length(&head)).await;
                    wire.put(answer).await;
                }
            });
        }
    }
}

/// An address where nobody listens.
pub async fn nobody() -> SocketAddr {
    Fake::new().await.address
}

/// One end of a connection.
pub struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    pub async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.unwrap())
    }

    /// Reads a head, up to and with the empty line.
    pub async fn head(&mut self) -> String {
        self.try_head().await.expect("the connection ended where a head should be")
    }

    /// Reads a head; `None` if the connection ended before it began.
    pub async fn try_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = self.read.drain(..end + 4).collect();
                return Some(String::from_utf8(head).unwrap());
            }
            if self.fill().await.unwrap_or(0) == 0 {
                assert!(self.read.is_empty(), "half a head: {:?}", String::from_utf8_lossy(&self.read));
                return None;
            }
        }
    }

    /// Reads so many bytes; `None` if the connection ends before.
    pub async fn try_take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.read.len() < count {
            if self.fill().await.unwrap_or(0) == 0 {
                return None;
            }
        }
        Some(self.read.drain(..count).collect())
    }

    /// Reads so many bytes.
    pub async fn take(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert_ne!(
                self.fill().await.unwrap(),
                0,
                "the connection ended after {:?}",
                String::from_utf8_lossy(&self.read)
            );
        }
        self.read.drain(..count).collect()
    }

    /// Reads what comes up to and with `end`.
    pub async fn take_until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end.as_bytes()) {
                let bytes = self.read.drain(..at + end.len()).collect();
                return String::from_utf8(bytes).unwrap();
            }
            assert_ne!(
                self.fill().await.unwrap(),
                0,
                "the connection ended after {:?}",
                String::from_utf8_lossy(&self.read)
            );
        }
    }

    /// Reads whatever comes until the other end closes or breaks the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await.unwrap_or(0) > 0 {}
        std::mem::take(&mut self.read)
    }

    pub async fn put(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends bytes as long as the other end takes them.
    pub async fn try_put(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Reads a head and answers it, without a look at the body.
    pub async fn answer_head(&mut self, answer: &str) -> String {
        let head = self.head().await;
        self.put(answer).await;
        head
    }

    /// Reads one request and answers it.
    pub async fn answer(&mut self, answer: &str) -> String {
        let head = self.head().await;
        self.take(content_length(&head)).await;
        self.put(answer).await;
        head
    }

    /// Says that nothing more will come; what the other end sends is still read.
    pub async fn shut_down(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// The connection itself, and what was read of it in advance.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.read)
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.stream.read_buf(&mut self.read).await
    }
}

/// The value of a header in a head, if it is there.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

pub fn content_length(head: &str) -> usize {
    header(head, "content-length").map_or(0, |length| length.parse().unwrap())
}

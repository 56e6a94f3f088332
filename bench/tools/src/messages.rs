//! WebSocket messages as fast as they come back: every connection sends one, waits for it, and sends the next.
//!
//! With no seconds, each connection sends one message. Says what came of it as `wrk` does for the harness, in one line.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{self, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::connections::wait_at_most;
use crate::websocket::{ACCEPT, KEY, from_client, from_server};

/// What a chat, a ticker or a game sends.
const MESSAGE: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl";

const PATIENCE: Duration = Duration::from_secs(10);

struct Connection {
    stream: TcpStream,
    sent: Instant,
    come: Vec<u8>,
}

pub fn run(to: SocketAddr, path: &str, connections: u16, seconds: u16) -> io::Result<()> {
    let (message, echo) = (from_client(MESSAGE), from_server(MESSAGE));
    let mut poll = Poll::new()?;
    let mut open = Vec::new();
    for number in 0..usize::from(connections) {
        let mut stream = TcpStream::from_std(agree(to, path)?);
        poll.registry().register(&mut stream, Token(number), Interest::READABLE)?;
        open.push(Connection { stream, sent: Instant::now(), come: Vec::new() });
    }

    let began = Instant::now();
    let end = began + Duration::from_secs(seconds.into());
    for connection in &mut open {
        connection.send(&message)?;
    }
    let (mut waits, mut waiting) = (Vec::new(), open.len());
    let mut events = Events::with_capacity(1024);
    while waiting > 0 {
        wait_at_most(&mut poll, &mut events, Some(PATIENCE))?;
        if events.is_empty() {
            return Err(io::Error::other("no message came back for 10 s"));
        }
        for event in &events {
            let connection = &mut open[event.token().0];
            if connection.receive(&echo)? {
                let now = Instant::now();
                waits.push((now - connection.sent).as_secs_f64() * 1e6);
                if now < end { connection.send(&message)? } else { waiting -= 1 }
            }
        }
    }
    let took = began.elapsed().as_micros();
    waits.sort_by(f64::total_cmp);
    let part = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
    let (p50, p99, p999) = (part(0.5), part(0.99), part(0.999));
    println!(r#"{{"requests":{},"us":{took},"errors":0,"p50":{p50:.1},"p99":{p99:.1},"p999":{p999:.1}}}"#, waits.len());
    Ok(())
}

/// Opens a connection and asks for WebSocket.
fn agree(to: SocketAddr, path: &str) -> io::Result<net::TcpStream> {
    let mut stream = net::TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // Nothing of what follows the head may be taken with it.
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    if !head.starts_with("HTTP/1.1 101 ") || !head.contains(ACCEPT) {
        return Err(io::Error::other(format!("WebSocket was asked for, and the answer was `{}`", head.trim_end())));
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

impl Connection {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.sent = Instant::now();
        // One message at a time always has room.
        self.stream.write_all(message)
    }

    /// Whether the message is back.
    fn receive(&mut self, echo: &[u8]) -> io::Result<bool> {
        // More than there can be, so that the socket is empty afterwards and nobody has to ask.
        let mut buffer = [0; 256];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(io::Error::other("a connection was closed")),
            Ok(length) => self.come.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        if !echo.starts_with(&self.come) {
            return Err(io::Error::other("what came back is not the message"));
        }
        let whole = self.come.len() == echo.len();
        if whole {
            self.come.clear();
        }
        Ok(whole)
    }
}

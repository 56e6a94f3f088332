//! Passes bytes on, both ways, and knows nothing of HTTP: what any proxy in user space has to pay at the least.
//!
//! A request and its answer cost two reads and two writes, and a share of an `epoll_wait`. Every client has an upstream
//! connection of its own.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::connections::{Connections, wait};

const LISTENER: Token = Token(usize::MAX);
const AT_ONCE: usize = 64 * 1024;

struct Pair {
    client: TcpStream,
    upstream: TcpStream,
    up: Flow,
    down: Flow,
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// What was read and could not be written yet. While there is some, nothing more is read.
    waiting: Vec<u8>,
    /// The sender said that nothing more will come.
    ending: bool,
    ended: bool,
}

pub fn run(listen: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(listen)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;

    let mut pairs = Connections::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; AT_ONCE];
    loop {
        wait(&mut poll, &mut events)?;
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, upstream, &poll, &mut pairs)?;
                continue;
            }
            // Two tokens a pair: an even one for the client, the odd one after it for the upstream.
            let Token(token) = event.token();
            let Some(pair) = pairs.get(token / 2) else { continue };
            if !pair.serve(event, token % 2 == 0, &mut buffer).unwrap_or(false) {
                pairs.remove(token / 2);
            }
        }
    }
}

fn accept(listener: &TcpListener, upstream: SocketAddr, poll: &Poll, pairs: &mut Connections<Pair>) -> io::Result<()> {
    loop {
        let mut client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut upstream = TcpStream::connect(upstream)?;
        client.set_nodelay(true)?;
        upstream.set_nodelay(true)?;
        let number = pairs.next();
        poll.registry().register(&mut client, Token(2 * number), Interest::READABLE | Interest::WRITABLE)?;
        poll.registry().register(&mut upstream, Token(2 * number + 1), Interest::READABLE | Interest::WRITABLE)?;
        pairs.insert(Pair { client, upstream, up: Flow::default(), down: Flow::default() });
    }
}

impl Pair {
    /// Says whether there is anything left to do for these two.
    fn serve(&mut self, event: &Event, from_client: bool, buffer: &mut [u8]) -> io::Result<bool> {
        let Self { client, upstream, up, down } = self;
        let (here, there, out, back) =
            if from_client { (client, upstream, up, down) } else { (upstream, client, down, up) };
        if event.is_readable() {
            out.ending |= event.is_read_closed();
            out.pump(here, there, buffer)?;
        }
        if event.is_writable() && !back.waiting.is_empty() {
            back.pump(there, here, buffer)?;
        }
        Ok(!(out.ended && back.ended))
    }
}

impl Flow {
    fn pump(&mut self, from: &mut TcpStream, to: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
        while !self.ended {
            if !self.waiting.is_empty() {
                let written = write(to, &self.waiting)?;
                self.waiting.drain(..written);
                if !self.waiting.is_empty() {
                    return Ok(());
                }
            }
            let length = match from.read(buffer) {
                Ok(length) => length,
                Err(error) if not_yet(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            if length == 0 {
                self.ended = true;
                return to.shutdown(Shutdown::Write);
            }
            let written = write(to, &buffer[..length])?;
            self.waiting.extend_from_slice(&buffer[written..length]);
            // A short read says that the socket is empty, so that nobody has to ask. An end that was announced has to
            // be fetched, though: it is announced once.
            if length < buffer.len() && !self.ending {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// How much of it the socket takes now.
fn write(to: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match to.write(bytes) {
        Err(error) if not_yet(&error) => Ok(0),
        outcome => outcome,
    }
}

/// A socket that is still connecting takes and gives nothing either.
fn not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

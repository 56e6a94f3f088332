//! Answers `GET /any/path/SIZE` with SIZE bytes: every answer is made once and then only written.
//!
//! Requests have no bodies here. Who asks for WebSocket gets every message back.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::asked::{Asked, letters};
use crate::connections::{Connections, wait};
use crate::websocket;

const LISTENER: Token = Token(usize::MAX);
const LARGEST_HEAD: usize = 64 * 1024;

struct Answers {
    made: HashMap<(usize, bool), Rc<[u8]>>,
    accepted: Arc<AtomicUsize>,
}

struct Connection {
    stream: TcpStream,
    /// Of a request whose head has not come to its end, or of a message.
    begun: Vec<u8>,
    /// Messages come, and go back.
    echo: bool,
    answers: VecDeque<Rc<[u8]>>,
    /// How much of the first answer is written.
    written: usize,
    /// After the last answer.
    close: bool,
}

pub fn run(listen: SocketAddr, accepted: Arc<AtomicUsize>) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(listen)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;

    let mut answers = Answers { made: HashMap::new(), accepted };
    let mut connections = Connections::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; LARGEST_HEAD];
    loop {
        wait(&mut poll, &mut events)?;
        for event in &events {
            if event.token() == LISTENER {
                answers.accepted.fetch_add(accept(&listener, &poll, &mut connections)?, Relaxed);
                continue;
            }
            let Token(number) = event.token();
            let Some(connection) = connections.get(number) else { continue };
            let mut open = true;
            if event.is_readable() {
                open = connection.read(event.is_read_closed(), &mut answers, &mut buffer).unwrap_or(false);
            }
            if !connection.write().unwrap_or(false) || !open {
                connections.remove(number);
            }
        }
    }
}

fn accept(listener: &TcpListener, poll: &Poll, connections: &mut Connections<Connection>) -> io::Result<usize> {
    let mut accepted = 0;
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(accepted),
            Err(error) => return Err(error),
        };
        accepted += 1;
        stream.set_nodelay(true)?;
        poll.registry().register(&mut stream, Token(connections.next()), Interest::READABLE | Interest::WRITABLE)?;
        connections.insert(Connection {
            stream,
            begun: Vec::new(),
            echo: false,
            answers: VecDeque::new(),
            written: 0,
            close: false,
        });
    }
}

impl Connection {
    /// Reads what there is and queues the answers. Says whether the peer may still send.
    fn read(&mut self, ending: bool, answers: &mut Answers, buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            let length = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            self.begun.extend_from_slice(&buffer[..length]);
            self.take_requests(answers);
            if self.echo && !self.take_messages() || self.begun.len() > LARGEST_HEAD {
                return Ok(false);
            }
            // A short read says that the socket is empty; only an announced end has to be fetched.
            if length < buffer.len() && !ending {
                return Ok(true);
            }
        }
    }

    fn take_requests(&mut self, answers: &mut Answers) {
        let mut taken = 0;
        while !self.echo
            && let Some(end) = self.begun[taken..].windows(4).position(|bytes| bytes == b"\r\n\r\n")
        {
            let head = &self.begun[taken..taken + end + 4];
            taken += end + 4;
            if field(head, "sec-websocket-key") == Some(websocket::KEY.as_bytes()) {
                self.answers.push_back(websocket::agreement().into_bytes().into());
                self.echo = true;
                continue;
            }
            let close = field(head, "connection").is_some_and(|it| it.eq_ignore_ascii_case(b"close"));
            self.answers.push_back(answers.to(head, close));
            self.close |= close;
        }
        self.begun.drain(..taken);
    }

    /// Sends every message back. Says whether they were messages.
    fn take_messages(&mut self) -> bool {
        loop {
            match websocket::first(&self.begun) {
                Ok(Some((message, length))) => {
                    self.answers.push_back(websocket::from_server(&message).into());
                    self.begun.drain(..length);
                }
                Ok(None) => return true,
                Err(websocket::Unknown) => return false,
            }
        }
    }

    /// Writes what the socket takes. Says whether the connection stays open.
    fn write(&mut self) -> io::Result<bool> {
        while let Some(answer) = self.answers.front() {
            match self.stream.write(&answer[self.written..]) {
                Ok(length) => self.written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
            if self.written < answer.len() {
                return Ok(true);
            }
            self.written = 0;
            self.answers.pop_front();
        }
        Ok(!self.close)
    }
}

/// The value of a header whose name is given in lower case.
fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        found.eq_ignore_ascii_case(name.as_bytes()).then_some(value.strip_prefix(b":")?.trim_ascii())
    })
}

impl Answers {
    fn to(&mut self, head: &[u8], close: bool) -> Rc<[u8]> {
        match Asked::by(head.split(|byte| *byte == b' ').nth(1).unwrap_or_default()) {
            Some(Asked::Bytes(size)) => {
                let make = || answer("200 OK", &letters(size), close);
                Rc::clone(self.made.entry((size, close)).or_insert_with(make))
            }
            Some(Asked::Connections) => answer("200 OK", self.accepted.load(Relaxed).to_string().as_bytes(), close),
            Some(Asked::Head) => answer("200 OK", head, close),
            None => answer("404 Not Found", Asked::NOTHING, close),
        }
    }
}

fn answer(status: &str, body: &[u8], close: bool) -> Rc<[u8]> {
    let connection = if close { "Connection: close\r\n" } else { "" };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{connection}\r\n");
    [head.as_bytes(), body].concat().into()
}

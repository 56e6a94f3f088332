//! Answers `GET /any/path/SIZE` with SIZE bytes: every answer is made once and then only written.
//!
//! | path ends in | answer |
//! |---|---|
//! | `/113` | that many bytes, letters in turn |
//! | `/connections` | how many connections were accepted so far: tells whether a gateway keeps its own |
//! | `/head` | the head of the request as it came: tells what a gateway made of it |
//!
//! Requests have no bodies here.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::connections::{Connections, wait};

const LISTENER: Token = Token(usize::MAX);
const LARGEST_HEAD: usize = 64 * 1024;
const LARGEST_BODY: usize = 64 * 1024 * 1024;

#[derive(Default)]
struct Answers {
    made: HashMap<(usize, bool), Rc<[u8]>>,
    accepted: usize,
}

struct Connection {
    stream: TcpStream,
    /// Of a request whose head has not come to its end.
    begun: Vec<u8>,
    answers: VecDeque<Rc<[u8]>>,
    /// How much of the first answer is written.
    written: usize,
    /// After the last answer.
    close: bool,
}

pub fn run(listen: SocketAddr) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(listen)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;

    let mut answers = Answers::default();
    let mut connections = Connections::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; LARGEST_HEAD];
    loop {
        wait(&mut poll, &mut events)?;
        for event in &events {
            if event.token() == LISTENER {
                answers.accepted += accept(&listener, &poll, &mut connections)?;
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
            if self.begun.len() > LARGEST_HEAD {
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
        while let Some(end) = self.begun[taken..].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = &self.begun[taken..taken + end + 4];
            let close = asks_to_close(head);
            self.answers.push_back(answers.to(head, close));
            self.close |= close;
            taken += end + 4;
        }
        self.begun.drain(..taken);
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

fn asks_to_close(head: &[u8]) -> bool {
    const CLOSE: &[u8] = b"connection: close";
    head.split(|byte| *byte == b'\n')
        .any(|line| line.get(..CLOSE.len()).is_some_and(|it| it.eq_ignore_ascii_case(CLOSE)))
}

impl Answers {
    fn to(&mut self, head: &[u8], close: bool) -> Rc<[u8]> {
        let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let size = std::str::from_utf8(last).ok().and_then(|text| text.parse().ok());
        match (last, size) {
            (_, Some(size)) if size <= LARGEST_BODY => Rc::clone(self.made.entry((size, close)).or_insert_with(|| {
                let body: Vec<u8> = (b'a'..=b'z').cycle().take(size).collect();
                answer("200 OK", &body, close)
            })),
            (b"connections", _) => answer("200 OK", self.accepted.to_string().as_bytes(), close),
            (b"head", _) => answer("200 OK", head, close),
            _ => answer("404 Not Found", b"the path ends in no size\n", close),
        }
    }
}

fn answer(status: &str, body: &[u8], close: bool) -> Rc<[u8]> {
    let connection = if close { "Connection: close\r\n" } else { "" };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{connection}\r\n");
    [head.as_bytes(), body].concat().into()
}

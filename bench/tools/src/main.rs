//! What stands at both ends of a gateway while it is measured.
//!
//! ```text
//! portcullis-bench-tools upstream HTTP1 HTTP2    answers GET /any/path/SIZE with SIZE bytes, at next to no cost, and
//!                                                sends WebSocket messages back
//! portcullis-bench-tools relay LISTEN UPSTREAM   passes bytes on and knows nothing of HTTP: the floor
//! portcullis-bench-tools sink LISTEN             takes what comes over UDP and forgets it, like a tracing daemon
//! portcullis-bench-tools messages ADDRESS PATH CONNECTIONS SECONDS
//!                                                sends WebSocket messages and waits for each to come back
//! ```
//!
//! One thread and one epoll each, but for the upstream, whose two doors have one each. Nobody is trusted less than the benchmark itself, so little is checked.

mod asked;
mod connections;
mod http2;
mod messages;
mod relay;
mod sink;
mod upstream;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["upstream", http1, http2] => address(http1).and_then(|http1| answer(http1, address(http2)?)),
        ["relay", listen, upstream] => address(listen).and_then(|listen| relay::run(listen, address(upstream)?)),
        ["sink", listen] => address(listen).and_then(sink::run),
        ["messages", to, path, connections, seconds] => {
            address(to).and_then(|to| messages::run(to, path, number(connections)?, number(seconds)?))
        }
        _ => Err(io::Error::other(
            "usage: upstream HTTP1 HTTP2 | relay LISTEN UPSTREAM | sink LISTEN | messages ADDRESS PATH CONNECTIONS SECONDS",
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis-bench-tools: {error}");
            ExitCode::FAILURE
        }
    }
}

fn answer(http1: SocketAddr, http2: SocketAddr) -> io::Result<()> {
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = accepted.clone();
    let other = thread::spawn(move || http2::run(http2, counted));
    upstream::run(http1, accepted)?;
    other.join().expect("it does not panic")
}

fn number(text: &str) -> io::Result<u16> {
    text.parse().map_err(|_| io::Error::other(format!("`{text}` is no number, such as 64")))
}

fn address(text: &str) -> io::Result<SocketAddr> {
    text.parse().map_err(|_| io::Error::other(format!("`{text}` is no address, such as 127.0.0.1:9000")))
}

//! What stands at both ends of a gateway while it is measured.
//!
//! ```text
//! portcullis-bench-tools upstream LISTEN         answers GET /any/path/SIZE with SIZE bytes, at next to no cost
//! portcullis-bench-tools relay LISTEN UPSTREAM   passes bytes on and knows nothing of HTTP: the floor
//! portcullis-bench-tools sink LISTEN             takes what comes over UDP and forgets it, like a tracing daemon
//! ```
//!
//! One thread and one epoll each. Nobody is trusted less than the benchmark itself, so little is checked.

mod connections;
mod relay;
mod sink;
mod upstream;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["upstream", listen] => address(listen).and_then(upstream::run),
        ["relay", listen, upstream] => address(listen).and_then(|listen| relay::run(listen, address(upstream)?)),
        ["sink", listen] => address(listen).and_then(sink::run),
        _ => Err(io::Error::other("usage: upstream LISTEN | relay LISTEN UPSTREAM | sink LISTEN")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis-bench-tools: {error}");
            ExitCode::FAILURE
        }
    }
}

fn address(text: &str) -> io::Result<SocketAddr> {
    text.parse().map_err(|_| io::Error::other(format!("`{text}` is no address, such as 127.0.0.1:9000")))
}

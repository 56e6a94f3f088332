//! Peers in Python, of `gateway/tests/python/`: programs that many people talk to a gateway with.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::fetched::fetched;

/// A server that runs until it is dropped.
pub(crate) struct Server {
    process: Child,
    /// Where it answers, in the order that it says so.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Server {
    /// Starts one; it says where it answers in its first line. `None` if Python's peers are to be skipped.
    pub(crate) fn start(script: &str) -> Option<Self> {
        let mut process = command(script)?.stdout(Stdio::piped()).spawn().expect("python3 can be started");
        let mut line = String::new();
        let output = process.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let addresses = line.split_whitespace().map(|address| address.parse().expect("an address")).collect();
        Some(Self { process, addresses })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a client to its end, off the test's runtime. It must succeed; what it printed is returned.
pub(crate) async fn run(script: &'static str, arguments: &[String]) -> Option<String> {
    let mut command = command(script)?;
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().expect("python3 can be started")).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script} failed:\n{out}\n{err}");
    Some(out.into_owned())
}

fn command(script: &str) -> Option<Command> {
    let site = fetched("python")?;
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python"));
    let mut command = Command::new("python3");
    command.arg(folder.join(script)).env("PYTHONPATH", site).env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
    Some(command)
}

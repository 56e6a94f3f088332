//! The gateway as a process of its own.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// The gateway as a process of its own. It ends with the test.
pub struct Process {
    child: Child,
    _directory: TempDir,
    log: mpsc::UnboundedReceiver<Value>,
}

impl Process {
    /// Starts one with a file that says this and has an admin listener; where it listens.
    pub async fn start(toml: &str) -> (Self, SocketAddr) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.toml");
        std::fs::write(&file, format!("{toml}\n[admin]\naddress = \"127.0.0.1:0\"\n")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["run", "--log-format", "json"]).arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (lines, log) = mpsc::unbounded_channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = lines.send(serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}")));
            }
        });
        let mut gateway = Self { child, _directory: directory, log };
        let address = gateway.says("listening").await["address"].as_str().unwrap().parse().unwrap();
        (gateway, address)
    }

    /// Waits for a line of the log with this message.
    pub async fn says(&mut self, message: &str) -> Value {
        let line = async {
            loop {
                let line = self.log.recv().await.unwrap_or_else(|| panic!("it ended without saying {message:?}"));
                if line["message"] == message {
                    return line;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), line)
            .await
            .unwrap_or_else(|_| panic!("it never said {message:?}"))
    }

    /// The lines of the log that nobody has waited for.
    pub fn said(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.log.try_recv().ok()).collect()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(format!("-{name}")).arg(pid).status().unwrap().success());
    }

    /// Waits for its end: how it ended, and what it wrote to standard output.
    pub async fn end(mut self) -> (ExitStatus, String) {
        let mut stdout = self.child.stdout.take().unwrap();
        tokio::task::spawn_blocking(move || {
            let mut written = String::new();
            stdout.read_to_string(&mut written).unwrap();
            (self.child.wait().unwrap(), written)
        })
        .await
        .unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

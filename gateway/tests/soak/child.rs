//! The gateway as a process, and what the system knows about it.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use portcullis::admin::client;
use serde_json::Value;
use tempfile::TempDir;

/// A running gateway. It is killed with the test.
pub(crate) struct Child {
    process: std::process::Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: PathBuf,
    _directory: TempDir,
}

impl Child {
    /// Starts a gateway with two workers. `keys` are its listener's, `rest` follows it. A route answers `/good`.
    pub(crate) async fn start(keys: &str, rest: &str) -> Self {
        Self::start_with(None, keys, rest).await
    }

    /// The same with so many descriptors at most.
    pub(crate) async fn start_with(descriptors: Option<usize>, keys: &str, rest: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let (file, log) = (directory.path().join("gateway.toml"), directory.path().join("log"));
        let text = format!(
            "workers = 2\naccess_log = {{ output = \"off\" }}\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [listener.web]\naddress = \"127.0.0.1:0\"\n{keys}\n\
             [[route]]\nmatch = {{ path = \"/good\" }}\nrespond = {{ body = \"good\" }}\n{rest}"
        );
        fs::write(&file, text).unwrap();
        let limit = descriptors.map_or("$(ulimit -Hn)".to_owned(), |limit| limit.to_string());
        let process = Command::new("sh")
            .args(["-c", &format!("ulimit -n {limit}; exec \"$0\" run --log-format json \"$1\"")])
            .arg(env!("CARGO_BIN_EXE_portcullis"))
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut child = Self { process, address: unknown, admin: unknown, log, _directory: directory };
        for (message, here) in [("listening", true), ("the admin API listens", false)] {
            let address = child.said(message).await;
            *(if here { &mut child.address } else { &mut child.admin }) = address;
        }
        child
    }

    /// The address in a line of the log, as soon as it is there.
    async fn said(&self, message: &str) -> SocketAddr {
        for _ in 0..1000 {
            if let Some(line) = self.log().iter().find(|line| line["message"] == message) {
                return line["address"].as_str().unwrap().parse().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it never said {message:?}: {:?}", fs::read_to_string(&self.log));
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.log).unwrap();
        // The last line may be on its way.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Bytes of it in memory.
    pub(crate) fn resident(&self) -> usize {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let row = status.lines().find_map(|row| row.strip_prefix("VmRSS:")).unwrap();
        row.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    /// Its open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// The processor time it has taken.
    pub(crate) fn processor(&self) -> Duration {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        // The name before them may have anything in it but a last parenthesis.
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn proc(&self, file: &str) -> PathBuf {
        format!("/proc/{}/{file}", self.process.id()).into()
    }

    /// The sum of a number over all its labels that have this in them.
    pub(crate) async fn number(&self, name: &str, labels: &str) -> f64 {
        let (_, page) = client::send(self.admin, "GET", "/metrics", &[], String::new()).await.unwrap();
        let rows = page.lines().filter(|row| {
            row.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])) && row.contains(labels)
        });
        rows.map(|row| row.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    /// Connections from clients.
    pub(crate) async fn connections(&self) -> f64 {
        self.number("portcullis_connections", "").await
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

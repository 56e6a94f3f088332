//! A stand-in for the X-Ray daemon: takes segments by UDP and prints each as a tree.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::cli::print;

/// A daemon that listens until it is dropped.
pub(super) struct Daemon {
    address: SocketAddr,
    seen: watch::Receiver<u64>,
    listening: tokio::task::JoinHandle<()>,
}

impl Daemon {
    pub(super) async fn start() -> std::io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        let (count, seen) = watch::channel(0);
        let listening = tokio::spawn(async move {
            let mut datagram = vec![0; 65_536];
            while let Ok((length, _)) = socket.recv_from(&mut datagram).await {
                // A header line, then one document: the daemon's protocol.
                let Some(document) = datagram[..length].splitn(2, |byte| *byte == b'\n').nth(1) else { continue };
                if let Ok(segment) = serde_json::from_slice::<Value>(document) {
                    print(&tree(&segment));
                    count.send_modify(|count| *count += 1);
                }
            }
        });
        Ok(Self { address, seen, listening })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until a trace has come in.
    pub(super) async fn first_trace(&mut self, limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.seen.wait_for(|count| *count > 0)).await, Ok(Ok(_)))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A segment and its subsegments, a line each.
fn tree(segment: &Value) -> String {
    let mut text = format!("trace {}\n", segment["trace_id"].as_str().unwrap_or("?"));
    branch(segment, "", true, &mut text);
    text.push('\n');
    text
}

fn branch(part: &Value, indent: &str, last: bool, text: &mut String) {
    let _ = write!(text, "{indent}{} {}", if last { "└─" } else { "├─" }, part["name"].as_str().unwrap_or("?"));
    let http = &part["http"];
    if let (Some(method), Some(url)) = (http["request"]["method"].as_str(), http["request"]["url"].as_str()) {
        let _ = write!(text, "  {method} {url}");
    }
    if let Some(status) = http["response"]["status"].as_u64() {
        let _ = write!(text, "  {status}");
    }
    for flag in ["throttle", "error", "fault"] {
        if part[flag] == Value::Bool(true) {
            let _ = write!(text, "  {flag}");
        }
    }
    if let (Some(start), Some(end)) = (part["start_time"].as_f64(), part["end_time"].as_f64()) {
        let _ = write!(text, "  {:.1} ms", (end - start) * 1000.0);
    }
    if let Some(annotations) = part["annotations"].as_object().filter(|annotations| !annotations.is_empty()) {
        let shown: Vec<_> = annotations.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let _ = write!(text, "  [{}]", shown.join(" "));
    }
    text.push('\n');
    let children = part["subsegments"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, child) in children.iter().enumerate() {
        let indent = format!("{indent}{}  ", if last { " " } else { "│" });
        branch(child, &indent, index + 1 == children.len(), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_printed_as_a_tree_with_its_attempts() {
        let segment = serde_json::json!({
            "trace_id": "1-67891233-abcdef012345678912345678", "name": "edge", "start_time": 1.0, "end_time": 1.0125,
            "http": { "request": { "method": "GET", "url": "http://a/b" }, "response": { "status": 503 } }, "fault": true,
            "subsegments": [
                { "name": "orders", "start_time": 1.0, "end_time": 1.005, "fault": true },
                { "name": "orders", "start_time": 1.005, "end_time": 1.012, "http": { "response": { "status": 503 } } },
            ],
        });
        assert_eq!(
            tree(&segment),
            "trace 1-67891233-abcdef012345678912345678\n\
             └─ edge  GET http://a/b  503  fault  12.5 ms\n   \
             ├─ orders  fault  5.0 ms\n   \
             └─ orders  503  7.0 ms\n\n"
        );
    }
}

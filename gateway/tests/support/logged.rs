//! A gateway without an app around it, whose access log goes to a file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use portcullis::Gateway;
use portcullis::edge::Edge;
use portcullis::server::Handle;
use portcullis::workers::Workers;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime;

use super::Wire;

/// A gateway on the test's runtime, at one address. It ends with the test.
pub struct Logged {
    pub gateway: Gateway,
    pub address: SocketAddr,
    pub log: PathBuf,
    /// Drains it, if a test wants that.
    pub server: Handle,
    _folder: TempDir,
}

impl Logged {
    /// Serves what the text says, after a log and the head of a listener `web`.
    pub async fn with(text: &str) -> Self {
        Self::trusting(&[], text).await
    }

    /// The same with proxies that may speak for clients.
    pub async fn trusting(proxies: &[&str], text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("access.log");
        let text = format!(
            "trusted_proxies = {proxies:?}\naccess_log = {{ output = {{ file = \"{}\" }} }}\n[listener.web]\naddress = \"127.0.0.1:0\"\n{text}",
            log.display()
        );
        let gateway = Gateway::new(portcullis::plugins());
        let (plan, faults) = gateway.plan_text("test.toml", &text);
        let plan = plan.unwrap_or_else(|| panic!("{}", faults.render(false)));
        let door = plan.doors().next().unwrap().clone();
        let workers = Workers::here();
        let socket = workers.bind(door.address.clone(), &["web"]).unwrap();
        let address = socket.address().tcp().expect("the listener is on a port");
        gateway.go_live(plan, &runtime::Handle::current()).unwrap();
        let server = workers.open(socket, vec![Arc::new(Edge::new(door, gateway.observer()))]);
        Self { gateway, address, log, server, _folder: folder }
    }

    /// One route `all`, for every path, to one instance. `settings` are the listener's.
    pub async fn before(instance: SocketAddr, settings: &str) -> Self {
        let route = "[[route]]\nname = \"all\"\nmatch = { path = { prefix = \"/\" } }\nservice = \"orders\"\n";
        Self::with(&format!("{settings}\n[service.orders]\ninstances = [\"{instance}\"]\n{route}")).await
    }

    pub async fn connect(&self) -> Wire {
        Wire::connect(self.address).await
    }

    /// The lines of the log so far.
    pub async fn lines(&self) -> Vec<Value> {
        self.gateway.observer().flush().await;
        let text = std::fs::read_to_string(&self.log).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The lines of the log, as soon as there are so many. There must not be more.
    pub async fn first_lines(&self, count: usize) -> Vec<Value> {
        // No clock ends it: a test's may be paused.
        for _ in 0..10_000 {
            if self.lines().await.len() >= count {
                break;
            }
            tokio::task::yield_now().await;
        }
        let lines = self.lines().await;
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }

    /// The only line of the log.
    pub async fn line(&self) -> Value {
        self.first_lines(1).await.remove(0)
    }

    /// The value of a number, by its name and labels.
    pub fn number(&self, name: &str) -> Option<f64> {
        let page = self.gateway.metrics();
        let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        Some(line.rsplit_once(' ')?.1.parse().unwrap())
    }
}

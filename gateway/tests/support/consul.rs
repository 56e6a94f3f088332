//! A real Consul, started by the tests on free ports.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::registry::consul::Consul as Settings;
use portcullis::registry::{Registry, RegistryContext, RegistryPlugin};
use tempfile::TempDir;

use super::fetched::fetched;

/// How long a Consul may take to elect itself.
const START: Duration = Duration::from_secs(60);

/// An agent of its own, gone with the test.
pub(crate) struct Consul {
    program: PathBuf,
    home: TempDir,
    http: u16,
    persistent: bool,
    process: Option<Child>,
}

impl Consul {
    /// One that starts fast and forgets everything when it stops. `None` if Consul is to be skipped.
    pub(crate) async fn forgetful() -> Option<Self> {
        Self::new(false).await
    }

    /// One that a restart finds as it was. `None` if Consul is to be skipped.
    pub(crate) async fn persistent() -> Option<Self> {
        Self::new(true).await
    }

    async fn new(persistent: bool) -> Option<Self> {
        let program = fetched("consul")?;
        // A port that was free may be taken until Consul gets to it. Then it is tried with others.
        for _ in 0..5 {
            let home = TempDir::new().expect("a temporary directory");
            let [http, server, serf] = free_ports();
            let config = format!(
                r#"{{ "ports": {{ "http": {http}, "server": {server}, "serf_lan": {serf}, "serf_wan": -1, "dns": -1, "grpc": -1 }},
                      "performance": {{ "raft_multiplier": 1 }}, "disable_update_check": true }}"#
            );
            fs::write(home.path().join("config.json"), config).expect("the configuration can be written");
            let mut consul = Self { program: program.clone(), home, http, persistent, process: None };
            if consul.start().await {
                return Some(consul);
            }
        }
        panic!("Consul does not start");
    }

    /// Starts it (again), and waits until it has a leader. Whether it came up.
    pub(crate) async fn start(&mut self) -> bool {
        self.launch();
        let begun = Instant::now();
        let registry = self.registry("");
        while registry.list_services().await.is_err() {
            let process = self.process.as_mut().expect("it was launched");
            if process.try_wait().expect("a process has a state").is_some() {
                return false;
            }
            assert!(begun.elapsed() < START, "Consul does not come up; its log: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// Starts it, and does not wait.
    pub(crate) fn launch(&mut self) {
        let at = |name: &str| self.home.path().join(name);
        let log = fs::File::create(at("log")).expect("the log can be written");
        let mut command = Command::new(&self.program);
        command.args(["agent", "-bind=127.0.0.1", "-client=127.0.0.1", "-node=test", "-log-level=warn"]);
        command.arg(format!("-config-file={}", at("config.json").display()));
        if self.persistent {
            command.args(["-server", "-bootstrap-expect=1"]).arg(format!("-data-dir={}", at("data").display()));
        } else {
            command.arg("-dev");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.process = Some(command.spawn().expect("Consul can be started"));
    }

    /// Where it answers.
    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// A registry of it, with these further settings.
    pub(crate) fn registry(&self, settings: &str) -> Arc<dyn Registry> {
        registry(&format!("address = \"{}\"\n{settings}", self.address()))
    }

    /// Kills it, as a machine that loses power.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops it without closing anything: connections stay, nobody answers.
    pub(crate) fn hang(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("it runs");
        let sent = Command::new("kill").arg(signal).arg(process.id().to_string()).status();
        assert!(sent.expect("kill can be started").success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A registry out of its settings.
pub(crate) fn registry(settings: &str) -> Arc<dyn Registry> {
    let settings: Settings = toml::from_str(settings).expect("settings of the consul registry");
    settings.build(&RegistryContext::new("consul")).expect("a registry")
}

/// Ports that nobody listens on now.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let sockets = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    sockets.map(|socket| socket.local_addr().expect("an address").port())
}

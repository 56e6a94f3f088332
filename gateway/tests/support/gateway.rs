//! A whole gateway in the test's process: its file, its sockets on free ports, and somebody who asks it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use portcullis::admin::client;
use portcullis::app::App;
use portcullis::workers::{Fallen, Workers};
use portcullis::{Gateway, Plugins, plugins};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// A running gateway. It ends with the test.
pub struct Running {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub file: PathBuf,
    pub app: JoinHandle<Result<(), Fallen>>,
    _directory: TempDir,
}

/// What every test's file begins with: a listener `web` and an admin listener, on free ports.
const HEAD: &str = "access_log = { output = \"off\" }\n[listener.web]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n";

impl Running {
    /// Starts a gateway. `toml` follows a listener `web` and the admin listener.
    pub async fn start(toml: &str) -> Self {
        Self::start_whole(&format!("{HEAD}{toml}")).await
    }

    /// Starts a gateway from a whole file with one listener on `127.0.0.1:0`, and an admin listener there too.
    pub async fn start_whole(toml: &str) -> Self {
        Self::start_with(plugins(), toml).await
    }

    /// The same with plugins of the test's own.
    pub async fn start_with(plugins: Plugins, toml: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("gateway.toml");
        std::fs::write(&file, toml).unwrap();
        let gateway = Gateway::new(plugins);
        let (plan, faults) = gateway.plan_file(&file);
        let plan = plan.unwrap_or_else(|| panic!("{}", faults.render(false)));
        // On the test's own runtime: its clock may be paused, and connections to instances are one worker's.
        let app = App::start_on(Workers::here(), gateway, plan, Some(file.clone())).await.unwrap();
        let address = app.bound("127.0.0.1:0".parse().unwrap()).expect("the listener is on port 0");
        let admin = app.admin().expect("there is an admin listener");
        Self { address, admin, file, app: tokio::spawn(app.until_stopped()), _directory: directory }
    }

    /// Writes the file anew, and asks for a reload; the status and the body of the answer.
    pub async fn reload(&self, toml: &str) -> (u16, String) {
        self.reload_whole(&format!("{HEAD}{toml}")).await
    }

    /// The same with a whole file.
    pub async fn reload_whole(&self, toml: &str) -> (u16, String) {
        std::fs::write(&self.file, toml).unwrap();
        client::post(self.admin, "/reload", String::new()).await.unwrap()
    }

    /// The status and the body of a `GET`.
    pub async fn get(&self, path: &str) -> (u16, String) {
        self.send("GET", path, &[]).await
    }

    /// The status and the body of a request.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        client::send(self.address, method, path, headers, String::new()).await.unwrap()
    }

    /// Waits until a `GET` answers with this status; the gateway has ten seconds to get there.
    pub async fn until_status(&self, path: &str, status: u16) {
        let arrived = tokio::time::timeout(Duration::from_secs(10), async {
            while self.get(path).await.0 != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(arrived.await.is_ok(), "GET {path} never became {status}, it is {:?}", self.get(path).await);
    }

    /// Waits until a `GET` answers with this status and body; the gateway has ten seconds to get there.
    pub async fn until(&self, path: &str, status: u16, body: &str) {
        let arrived = tokio::time::timeout(Duration::from_secs(10), async {
            while self.get(path).await != (status, body.to_owned()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(arrived.await.is_ok(), "GET {path} never became {status} {body:?}, it is {:?}", self.get(path).await);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.app.abort();
    }
}

/// Routes that tell who the client is taken for: `/office` is for some, `/secure` redirects to where the client came, and
/// everything else says what the instance was told.
pub fn routes_by_client(instance: SocketAddr) -> String {
    format!(
        r#"
        [service.orders]
        instances = ["{instance}"]
        [[route]]
        match = {{ path = {{ prefix = "/" }} }}
        service = "orders"
        [[route]]
        match = {{ path = "/office" }}
        chain = [{{ type = "ip_whitelist", allow = ["203.0.113.0/24"] }}]
        respond = {{ body = "office" }}
        [[route]]
        match = {{ path = "/secure" }}
        redirect = {{ path = "/there" }}
        "#
    )
}

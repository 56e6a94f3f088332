//! Several workers: who takes which connection, and what they do together.

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use portcullis::admin::client;
use portcullis::app::App;
use portcullis::{Gateway, plugins};
use support::Wire;
use tokio::task::JoinHandle;

const ANY: &str = "127.0.0.1:0";

/// A gateway whose workers are threads, as many as its file says.
struct Crowd {
    address: SocketAddr,
    admin: SocketAddr,
    file: PathBuf,
    app: JoinHandle<bool>,
    _directory: tempfile::TempDir,
}

impl Crowd {
    async fn start(workers: usize, rest: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.toml");
        let listener = format!("[listener.web]\naddress = \"{ANY}\"\nlimits = {{ connections = 6 }}\n");
        let text = text(workers, &format!("{listener}{rest}"));
        std::fs::write(&file, &text).unwrap();
        let gateway = Gateway::new(plugins());
        let (plan, faults) = gateway.plan_file(&file);
        let plan = plan.unwrap_or_else(|| panic!("{}", faults.render(false)));
        let app = App::start(gateway, plan, Some(file.clone())).await.unwrap();
        let address = app.bound(ANY.parse().unwrap()).unwrap();
        let admin = app.admin().unwrap();
        let app = tokio::spawn(async { app.until_stopped().await.is_ok() });
        Self { address, admin, file, app, _directory: directory }
    }

    /// Connections by worker, as the metrics tell.
    async fn connections(&self) -> Vec<usize> {
        let (_, metrics) = client::send(self.admin, "GET", "/metrics", &[], String::new()).await.unwrap();
        let counts = metrics.lines().filter(|line| line.starts_with("portcullis_connections{"));
        counts.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
    }

    /// Waits until the workers have so many connections together.
    async fn until_connections(&self, total: usize) {
        let arrived = async {
            while self.connections().await.iter().sum::<usize>() != total {
                tokio::task::yield_now().await;
            }
        };
        let arrived = tokio::time::timeout(std::time::Duration::from_secs(10), arrived).await;
        assert!(arrived.is_ok(), "never {total}, it is {:?}", self.connections().await);
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.app.abort();
    }
}

fn text(workers: usize, rest: &str) -> String {
    format!(
        "workers = {workers}\naccess_log = {{ output = \"off\" }}\n[admin]\naddress = \"{ANY}\"\n{rest}\n\
         [[route]]\nmatch = {{ path = \"/hello\" }}\nrespond = {{ body = \"hello\" }}\n"
    )
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
}

/// Asks, and reads the answer; the connection stays.
async fn hello(client: &mut Wire) -> String {
    client.put("GET /hello HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(client.take(5).await, b"hello");
    head
}

#[tokio::test]
async fn every_worker_takes_its_share_of_few_connections() {
    for workers in [1, 2, 4] {
        let gateway = Crowd::start(workers, "").await;
        let mut clients = Vec::new();
        for _ in 0..workers {
            let mut client = Wire::connect(gateway.address).await;
            hello(&mut client).await;
            clients.push(client);
        }
        assert_eq!(gateway.connections().await, vec![1; workers]);
        for client in &mut clients {
            hello(client).await;
        }
        drop(clients);
        gateway.until_connections(0).await;
    }
}

#[tokio::test]
async fn the_limit_of_an_address_holds_over_all_workers_and_any_of_them_makes_room() {
    let gateway = Crowd::start(4, "").await;
    let mut clients = Vec::new();
    // Six may come; the rest connects too, and waits in the kernel's queue.
    for _ in 0..12 {
        let mut client = Wire::connect(gateway.address).await;
        client.put("GET /hello HTTP/1.1\r\nhost: a\r\n\r\n").await;
        clients.push(client);
    }
    for client in &mut clients[..6] {
        assert!(client.head().await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(gateway.connections().await.iter().sum::<usize>(), 6);
    let (_, metrics) = client::send(gateway.admin, "GET", "/metrics", &[], String::new()).await.unwrap();
    let reached = format!("portcullis_connection_limit_reached_total{{address=\"{}\"}} ", gateway.address);
    let reached = metrics.lines().find_map(|line| line.strip_prefix(&reached)).expect("the limit is told of");
    assert_ne!(reached, "0");
    // One after the other leaves, each from another worker, and the next that waits comes in.
    for index in 0..6 {
        clients.remove(0);
        let next: &mut Wire = &mut clients[5];
        assert!(next.head().await.starts_with("HTTP/1.1 200"), "{index}");
    }
}

#[tokio::test]
async fn a_higher_limit_lets_in_who_waits() {
    let gateway = Crowd::start(2, "").await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = Wire::connect(gateway.address).await;
        client.put("GET /hello HTTP/1.1\r\nhost: a\r\n\r\n").await;
        clients.push(client);
    }
    gateway.until_connections(6).await;
    let file = std::fs::read_to_string(&gateway.file).unwrap();
    write(&gateway.file, &file.replace("connections = 6", "connections = 8"));
    assert_eq!(client::post(gateway.admin, "/reload", String::new()).await.unwrap().0, 200);
    for client in &mut clients {
        assert!(client.head().await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_reload_opens_and_closes_doors_on_all_workers() {
    let gateway = Crowd::start(2, "").await;
    let before = std::fs::read_to_string(&gateway.file).unwrap();
    let other = support::nobody().await;
    write(&gateway.file, &format!("{before}[listener.other]\naddress = \"{other}\"\n"));
    assert_eq!(client::post(gateway.admin, "/reload", String::new()).await.unwrap().0, 200);
    let mut clients = [Wire::connect(other).await, Wire::connect(other).await];
    for client in &mut clients {
        hello(client).await;
    }
    assert_eq!(gateway.connections().await, [1, 1]);

    write(&gateway.file, &before);
    assert_eq!(client::post(gateway.admin, "/reload", String::new()).await.unwrap().0, 200);
    // Connections that rest are closed, on every worker, and nobody listens there any more.
    for mut client in clients {
        assert_eq!(client.rest().await, b"");
    }
    gateway.until_connections(0).await;
    assert!(tokio::net::TcpStream::connect(other).await.is_err());
    hello(&mut Wire::connect(gateway.address).await).await;
}

#[tokio::test]
async fn an_address_that_a_gateway_has_is_refused_to_a_second_one() {
    let gateway = Crowd::start(2, "").await;
    let second = Gateway::new(plugins());
    let listener = format!("[listener.web]\naddress = \"{}\"\n", gateway.address);
    let (plan, _) = second.plan_text("gateway.toml", &text(2, &listener));
    let error = App::start(second, plan.unwrap(), None).await.err().expect("the address is taken").to_string();
    assert!(error.contains("in use; stop the program that has it"), "{error}");
    hello(&mut Wire::connect(gateway.address).await).await;
}

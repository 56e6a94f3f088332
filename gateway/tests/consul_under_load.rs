//! The whole gateway under load while its Consul is gone: nobody notices but the metrics.
//!
//! The outage is short unless told otherwise:
//!
//! ```text
//! PORTCULLIS_OUTAGE=60s cargo test -p portcullis --test consul_under_load -- --nocapture
//! ```

#[path = "support/fetched.rs"]
mod fetched;
#[path = "support/consul.rs"]
mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use portcullis::registry::{Instance, Registration, Registry};
use portcullis_config::units;
use server::{Consul, free_ports};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// Connections that ask without pause.
const CLIENTS: usize = 8;
/// How long the gateway may take to see what Consul says again.
const RESYNC: Duration = Duration::from_secs(2);

/// The gateway's own process, gone with the test.
struct Gateway {
    process: Child,
    address: SocketAddr,
    admin: SocketAddr,
    _home: TempDir,
}

impl Gateway {
    fn start(consul: &Consul) -> Self {
        let home = TempDir::new().unwrap();
        let [address, admin] = free_ports().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let file = home.path().join("gateway.toml");
        let text = format!(
            r#"
            access_log = {{ output = "off" }}
            [listener.web]
            address = "{address}"
            [admin]
            address = "{admin}"
            [registry.default]
            type = "consul"
            address = "{}"
            [[route]]
            match = {{ path = "/" }}
            service = "orders"
            "#,
            consul.address()
        );
        std::fs::write(&file, text).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("run").arg(&file).spawn().unwrap();
        Self { process, address, admin, _home: home }
    }

    /// How long ago Consul was last heard of, by the gateway's metrics.
    async fn stale(&self) -> f64 {
        let (_, metrics) = get(&mut connect(self.admin).await.unwrap(), "/metrics").await.unwrap();
        let line = metrics.lines().find(|line| !line.starts_with('#') && line.contains("registry_stale_seconds"));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a metric of this name")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

type Client = SendRequest<Empty<Bytes>>;

async fn connect(address: SocketAddr) -> Result<Client, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (client, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(client)
}

async fn get(client: &mut Client, path: &str) -> Result<(u16, String), String> {
    client.ready().await.map_err(|error| error.to_string())?;
    let request = http::Request::get(path).header("host", "localhost").body(Empty::new()).unwrap();
    let response = client.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// An instance that answers with its own name, and is registered under it.
async fn instance(registry: &dyn Registry, name: &'static str) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Instance = socket.local_addr().unwrap().to_string().parse().unwrap();
    let service = Router::new().fallback(move || async move { name });
    tokio::spawn(async move { axum::serve(socket, service).await });
    let instance = Instance { id: name.parse().unwrap(), ..address };
    registry.register(Registration { service: "orders".parse().unwrap(), instance, ttl: None }).await.unwrap();
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    answers: u64,
    failures: Vec<String>,
    /// When each instance answered last.
    last: BTreeMap<String, Instant>,
}

impl Seen {
    /// Whether it was an answer.
    fn note(&mut self, answer: Result<(u16, String), String>) -> bool {
        match answer {
            Ok((200, name)) => {
                self.answers += 1;
                self.last.insert(name, Instant::now());
                true
            }
            other => {
                self.failures.push(format!("{other:?}"));
                false
            }
        }
    }
}

fn load(address: SocketAddr, seen: &Arc<Mutex<Seen>>, stop: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<()>> {
    let client = |_| {
        let (seen, stop) = (Arc::clone(seen), Arc::clone(stop));
        tokio::spawn(async move {
            let mut client = connect(address).await.unwrap();
            while !stop.load(Relaxed) {
                let answer = get(&mut client, "/").await;
                if !seen.lock().unwrap().note(answer) {
                    return;
                }
                // Many requests, and some of the machine left for others.
                sleep(Duration::from_millis(1)).await;
            }
        })
    };
    (0..CLIENTS).map(client).collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_consul_fails_no_request() {
    let outage = std::env::var("PORTCULLIS_OUTAGE").unwrap_or_else(|_| "3s".to_owned());
    let outage = outage.parse::<units::Duration>().expect("PORTCULLIS_OUTAGE is a duration").get();
    let Some(mut consul) = Consul::persistent().await else { return };
    let registry = consul.registry("");
    for name in ["one", "two", "three"] {
        instance(&*registry, name).await;
    }
    let gateway = Gateway::start(&consul);
    let begun = Instant::now();
    loop {
        let answer = async { get(&mut connect(gateway.address).await?, "/").await };
        match answer.await {
            Ok((200, _)) => break,
            other => assert!(begun.elapsed() < Duration::from_secs(20), "the gateway does not serve: {other:?}"),
        }
        sleep(Duration::from_millis(10)).await;
    }

    let (seen, stop) = (Arc::default(), Arc::default());
    let clients = load(gateway.address, &seen, &stop);
    let last = |name: &str| seen.lock().unwrap().last.get(name).copied();
    until("all three answer", || ["one", "two", "three"].iter().all(|name| last(name).is_some())).await;
    assert_eq!(gateway.stale().await, 0.0);

    consul.kill();
    let before = seen.lock().unwrap().answers;
    // The length of the outage is the subject.
    sleep(outage).await;
    let during = seen.lock().unwrap().answers - before;
    let stale = gateway.stale().await;

    consul.launch();
    while registry.get_service(&"orders".parse().unwrap()).await.is_err() {
        sleep(Duration::from_millis(5)).await;
    }
    let returned = Instant::now();
    instance(&*registry, "four").await;
    until("the new instance answers", || last("four").is_some()).await;
    let resync = returned.elapsed();
    registry.deregister(&"one".parse().unwrap()).await.unwrap();
    let gone = Instant::now();
    until("the old one does not", || last("one").is_none_or(|last| last.elapsed() > Duration::from_millis(500))).await;
    let left = last("one").map_or(Duration::ZERO, |last| last.saturating_duration_since(gone));

    stop.store(true, Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(gateway.stale().await, 0.0);
    println!(
        "Consul gone for {outage:?}: {} requests, {during} of them during the outage, {} failed; registry_stale_seconds \
         rose to {stale}; a new instance answered {resync:?} after Consul's return, an old one left {left:?} after it \
         was deregistered",
        seen.answers,
        seen.failures.len(),
    );
    assert_eq!(seen.failures, [] as [String; 0]);
    assert!(during > 0);
    assert!(stale > 0.0 && stale >= outage.as_secs_f64() - 2.0, "registry_stale_seconds was {stale}");
    assert!(resync < RESYNC, "{resync:?}");
}

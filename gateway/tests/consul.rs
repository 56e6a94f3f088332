//! The consul registry against a real Consul, and against what pretends to be one.

#[path = "support/fetched.rs"]
mod fetched;
#[path = "support/consul.rs"]
mod server;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::StreamExt;
use portcullis::registry::{
    Instance, Live, LiveService, Registration, Registry, RegistryError, Service, ServiceName, Standing,
};
use portcullis::testing::conformance::{self, Abilities};
use server::Consul;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

/// A return must be noticed within this time.
const RESYNC: Duration = Duration::from_secs(2);

struct Subject(Consul);

#[async_trait]
impl conformance::Subject for Subject {
    async fn holding(&self, services: &[Service]) -> Arc<dyn Registry> {
        let registry = self.0.registry("wait = \"5s\"");
        conformance::fill(&*registry, services).await;
        registry
    }

    fn abilities(&self) -> Abilities {
        Abilities { ttl: Some(Duration::from_millis(500)), ..Abilities::default() }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_promises_of_a_registry() {
    let Some(consul) = Consul::forgetful().await else { return };
    println!("{}", conformance::run(&Subject(consul)).await);
}

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

async fn register(registry: &dyn Registry, service: &str, id: &str, tags: &[&str], ttl: Option<Duration>) {
    let address: Instance = format!("10.0.0.1:{}", 1000 + id.bytes().map(u16::from).sum::<u16>()).parse().unwrap();
    let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    let instance = Instance { id: id.parse().unwrap(), tags, ..address };
    registry.register(Registration { service: name(service), instance, ttl }).await.unwrap();
}

fn ids(instances: &[Instance]) -> BTreeSet<String> {
    instances.iter().map(|instance| instance.id.to_string()).collect()
}

async fn has(service: &LiveService, wanted: &[&str]) {
    let wanted: BTreeSet<_> = wanted.iter().map(|id| (*id).to_owned()).collect();
    let mut changes = service.changes();
    let there = changes.wait_for(|_| ids(&service.instances().instances) == wanted);
    let there = timeout(Duration::from_secs(10), there).await;
    assert!(there.is_ok(), "wanted {wanted:?}, got {:?}", service.instances());
}

/// The time until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
    begun.elapsed()
}

/// The moment at which a Consul that was gone answers for a service again.
async fn answers(registry: &dyn Registry, service: &str) -> Instant {
    let begun = Instant::now();
    while registry.get_service(&name(service)).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "Consul did not come back");
        sleep(Duration::from_millis(5)).await;
    }
    Instant::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_and_checks_select_and_names_are_escaped() {
    let Some(consul) = Consul::forgetful().await else { return };
    let all = consul.registry("passing_only = false");
    let passing = consul.registry("");
    let canary = consul.registry("tags = [\"canary\", \"a&b=c\"]");
    register(&*all, "a service?&x=1#%2F", "one", &["canary", "a&b=c"], None).await;
    register(&*all, "a service?&x=1#%2F", "two", &["canary"], None).await;
    register(&*all, "a service?&x=1#%2F", "gone", &[], Some(Duration::from_millis(1))).await;
    let name = name("a service?&x=1#%2F");

    let mut watch = passing.watch(&name);
    while ids(&watch.next().await.unwrap().unwrap().instances) != ["one", "two"].map(String::from).into() {}
    assert_eq!(ids(&all.get_service(&name).await.unwrap().instances).len(), 3);
    assert_eq!(ids(&canary.get_service(&name).await.unwrap().instances), ["one".to_owned()].into());
    assert!(canary.list_services().await.unwrap().contains(&name));

    register(&*all, "plain", "three", &[], None).await;
    assert_eq!(canary.get_service(&self::name("plain")).await.unwrap().instances, []);
    assert!(!canary.list_services().await.unwrap().contains(&self::name("plain")));
    let elsewhere = consul.registry("datacenter = \"nowhere\"").get_service(&name).await;
    assert!(matches!(elsewhere, Err(RegistryError::Unreachable(_))), "{elsewhere:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_come_and_go_while_lookups_run() {
    let Some(consul) = Consul::forgetful().await else { return };
    let registry = consul.registry("");
    register(&*registry, "orders", "always", &[], None).await;
    let live = Live::new("consul", consul.registry(""));
    live.start(&Handle::current());
    let orders = live.service(&name("orders"));
    assert!(orders.first_state(Duration::from_secs(5)).await);

    let stop = Arc::new(AtomicBool::new(false));
    let lookups = std::thread::spawn({
        let (orders, stop) = (Arc::clone(&orders), Arc::clone(&stop));
        move || {
            let (mut count, mut version) = (0_u64, 0);
            while !stop.load(Relaxed) {
                let snapshot = orders.instances();
                assert!(snapshot.version >= version, "a snapshot went backwards");
                assert!(snapshot.instances.iter().any(|instance| instance.id.as_str() == "always"));
                version = snapshot.version;
                count += 1;
                std::thread::yield_now();
            }
            count
        }
    });
    for round in 0..10 {
        let id = format!("guest-{round}");
        register(&*registry, "orders", &id, &[], None).await;
        has(&orders, &["always", &id]).await;
        registry.deregister(&id.parse().unwrap()).await.unwrap();
        has(&orders, &["always"]).await;
    }
    stop.store(true, Relaxed);
    println!("{} lookups during 20 changes", lookups.join().unwrap());

    let found = live.find("orders").await.unwrap();
    assert!(Arc::ptr_eq(&found, &orders));
    assert!(live.find("nobody").await.is_err());
}

/// Consul takes 200 connections from one client, and a watch holds one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_services_than_connections_are_followed_all_the_same() {
    let Some(consul) = Consul::forgetful().await else { return };
    let registry = consul.registry("");
    let names: Vec<_> = (0..300).map(|n| format!("orders-{n}")).collect();
    for name in &names {
        register(&*registry, name, &format!("{name}-one"), &[], None).await;
    }
    let live = Live::new("consul", consul.registry(""));
    live.start(&Handle::current());
    let services: Vec<_> = names.iter().map(|text| live.service(&name(text))).collect();
    for service in &services {
        assert!(service.first_state(Duration::from_secs(10)).await, "{}", service.name());
    }
    for at in [0, 299] {
        register(&*registry, &names[at], &format!("{at}-two"), &[], None).await;
        has(&services[at], &[&format!("{}-one", names[at]), &format!("{at}-two")]).await;
    }
    assert_eq!(live.stats().failing, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consul_that_is_killed_takes_nothing_with_it_and_its_return_is_seen() {
    let Some(mut consul) = Consul::persistent().await else { return };
    let registry = consul.registry("");
    for id in ["one", "two", "three"] {
        register(&*registry, "orders", id, &[], None).await;
    }
    let live = Live::new("consul", consul.registry(""));
    live.start(&Handle::current());
    let orders = live.service(&name("orders"));
    let nobody = live.service(&name("nobody"));
    has(&orders, &["one", "two", "three"]).await;
    assert!(nobody.first_state(Duration::from_secs(5)).await);
    let before = orders.instances().version;

    consul.kill();
    until("the outage is noticed", || live.stats().failing == 2).await;
    until("the age rises", || live.stats().stale > Duration::from_secs(3)).await;
    assert_eq!(orders.instances().version, before);

    consul.launch();
    let returned = answers(&*registry, "orders").await;
    until("all is well", || live.stats().failing == 0).await;
    let resync = returned.elapsed();
    println!("in touch {resync:?} after Consul's return");
    assert!(resync < RESYNC, "{resync:?}");
    // Nothing changed meanwhile, and nobody saw anything else.
    assert_eq!(orders.instances().version, before);
    assert_eq!(nobody.instances().standing, Standing::Unknown);

    register(&*registry, "orders", "four", &[], None).await;
    has(&orders, &["one", "two", "three", "four"]).await;
    assert_eq!(live.stats().stale, Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consul_that_hangs_holds_up_nobody() {
    let Some(consul) = Consul::persistent().await else { return };
    let registry = consul.registry("");
    register(&*registry, "orders", "one", &[], None).await;
    // Questions are held for so short a time that the test sees them time out.
    let live = Live::new("consul", consul.registry("wait = \"1s\""));
    live.start(&Handle::current());
    let orders = live.service(&name("orders"));
    has(&orders, &["one"]).await;

    consul.hang();
    until("it is noticed", || live.stats().failing == 1).await;
    assert_eq!(ids(&orders.instances().instances), ["one".to_owned()].into());
    // A gateway that starts now is told soon that there is nothing to tell.
    let late = Live::new("consul", consul.registry(""));
    late.start(&Handle::current());
    let begun = Instant::now();
    assert!(late.find("orders").await.is_err());
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    let late_orders = late.service(&name("orders"));
    assert!(!late_orders.first_state(Duration::from_secs(1)).await);

    consul.resume();
    let returned = answers(&*registry, "orders").await;
    until("all is well", || live.stats().failing == 0 && late_orders.instances().standing == Standing::Known).await;
    let resync = returned.elapsed();
    println!("in touch {resync:?} after Consul went on");
    assert!(resync < RESYNC, "{resync:?}");
}

/// Something that answers every request with the next of these, the last one again and again, and
/// remembers what was asked.
struct Pretender {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Pretender {
    async fn new(answers: Vec<Vec<u8>>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answers) = (Arc::clone(&asked), Arc::new(answers));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = socket.accept().await {
                let (seen, answers) = (Arc::clone(&seen), Arc::clone(&answers));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
                    let turn = {
                        let mut seen = seen.lock().unwrap();
                        seen.push(line);
                        (seen.len() - 1).min(answers.len() - 1)
                    };
                    let _ = stream.write_all(&answers[turn]).await;
                });
            }
        });
        Self { port, asked }
    }

    fn registry(&self) -> Arc<dyn Registry> {
        server::registry(&format!("address = \"http://127.0.0.1:{}\"", self.port))
    }
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}").into_bytes()
}

fn one_instance(index: u64) -> Vec<u8> {
    let body = r#"[{"Node":{"Node":"n","Address":"10.0.0.9"},"Service":{"ID":"one","Service":"orders","Tags":null,
        "Address":"","Meta":null,"Port":80,"Weights":{"Passing":1,"Warning":1}},"Checks":[]},
        {"Node":{"Node":"m","Address":"::1"},"Service":{"ID":"one","Service":"orders","Address":"","Port":81}},
        {"Node":{"Node":"n","Address":"10.0.0.9"},"Service":{"ID":"portless","Service":"orders","Address":"","Port":0}}]"#;
    answer("200 OK", &format!("X-Consul-Index: {index}\r\n"), body)
}

#[tokio::test]
async fn nonsense_is_an_error_of_its_kind_and_the_last_item_of_a_watch() {
    use RegistryError::{Malformed, Refused, Unreachable};
    let unreachable: fn(&RegistryError) -> bool = |error| matches!(error, Unreachable(_));
    let malformed: fn(&RegistryError) -> bool = |error| matches!(error, Malformed(_));
    let refused: fn(&RegistryError) -> bool = |error| matches!(error, Refused(_));
    let index = "X-Consul-Index: 7\r\n";
    let endless = {
        let mut bytes = b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\n\r\n[".to_vec();
        bytes.resize(40 << 20, b' ');
        bytes
    };
    for (bytes, kind, sign) in [
        (
            answer("500 Internal Server Error", "", "No cluster leader"),
            unreachable,
            "500 Internal Server Error: No cluster",
        ),
        (answer("429 Too Many Requests", "", "Your IP is issuing too many"), unreachable, "429"),
        (answer("403 Forbidden", "", "Permission denied"), refused, "Permission denied"),
        (answer("302 Found", "Location: /ui\r\n", ""), malformed, "302"),
        (answer("200 OK", index, "<html>"), malformed, "expected value"),
        (answer("200 OK", index, r#"[{"Node":7}]"#), malformed, "invalid type"),
        (answer("200 OK", index, r#"{"orders":[]}"#), malformed, "invalid type"),
        (answer("200 OK", index, ""), malformed, "EOF"),
        (answer("200 OK", "", "[]"), malformed, "x-consul-index"),
        (answer("200 OK", "X-Consul-Index: soon\r\n", "[]"), malformed, "x-consul-index"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), malformed, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[".to_vec(), unreachable, "broke off"),
        (Vec::new(), unreachable, "broke"),
        (endless, malformed, "longer than"),
    ] {
        let pretender = Pretender::new(vec![bytes]).await;
        let mut watch = pretender.registry().watch(&name("orders"));
        let error = watch.next().await.unwrap().unwrap_err();
        assert!(kind(&error) && error.to_string().contains(sign), "{sign}: {error:?}");
        assert_eq!(watch.next().await, None);
    }
    let nobody = server::registry("address = \"http://127.0.0.1:1\"").get_service(&name("orders")).await;
    assert!(matches!(&nobody, Err(Unreachable(why)) if why.contains("127.0.0.1:1")), "{nobody:?}");
}

#[tokio::test]
async fn nonsense_takes_no_instance_away() {
    let answers = vec![one_instance(5), answer("500 Internal Server Error", "", ""), answer("200 OK", "", "garbage")];
    let pretender = Pretender::new(answers).await;
    let live = Live::new("consul", pretender.registry());
    live.start(&Handle::current());
    let orders = live.service(&name("orders"));
    until("it fails for good", || pretender.asked.lock().unwrap().len() > 5).await;
    let addresses: Vec<_> = orders.instances().instances.iter().map(|one| one.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.9:80", "[::1]:81"]);
    assert_eq!(live.stats().failing, 1);
}

#[tokio::test]
async fn indexes_are_handled_by_the_rules_of_blocking_queries() {
    // It rises, repeats, goes backwards (asked from the start), rises, goes back to zero, and stays there (asked
    // with 1, because with 0 nothing would block).
    let pretender = Pretender::new([5, 9, 9, 3, 7, 0, 0, 0].map(one_instance).to_vec()).await;
    let watch = pretender.registry().watch(&name("orders"));
    let states: Vec<_> = watch.take(8).collect().await;
    assert!(states.iter().all(|state| state.as_ref().is_ok_and(|service| service.instances.len() == 2)));
    let asked = pretender.asked.lock().unwrap().clone();
    let indexes: Vec<_> = asked.iter().map(|line| line.split("index=").nth(1)?.split('&').next()).collect();
    assert_eq!(indexes, [None, Some("5"), Some("9"), Some("9"), None, Some("7"), None, Some("1")]);
    assert!(asked[1].contains("wait=60s") && asked[1].contains("passing=1"), "{}", asked[1]);
}

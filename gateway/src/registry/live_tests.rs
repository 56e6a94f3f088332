//! What [`Live`] promises, against a registry that can be switched off, hung and broken.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, future};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use super::memory::MemoryRegistry;
use super::{Live, LiveService, Missing, Registry, RegistryError, Service, ServiceName, Standing};

/// A registry in memory behind a line that can be cut.
#[derive(Clone)]
struct Remote {
    services: MemoryRegistry,
    line: watch::Sender<Line>,
    asked: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    watches: AtomicUsize,
    open: AtomicUsize,
    lists: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Line {
    Up,
    Down,
    Hung,
    Panics,
}

impl Remote {
    fn new(line: Line) -> Self {
        Self { services: MemoryRegistry::new(10_000), line: watch::Sender::new(line), asked: Arc::default() }
    }

    fn is(&self, line: Line) {
        self.line.send_replace(line);
    }

    async fn holds(&self, name: &str, addresses: &[&str]) {
        let name: ServiceName = name.parse().unwrap();
        if let Ok(old) = self.services.get_service(&name).await {
            for instance in old.instances {
                self.services.deregister(&instance.id).await.unwrap();
            }
        }
        for address in addresses {
            let mut instance: super::Instance = address.parse().unwrap();
            instance.id = format!("{name} {address}").parse().unwrap();
            let registration = super::Registration { service: name.clone(), instance, ttl: None };
            self.services.register(registration).await.unwrap();
        }
    }

    async fn call<T>(&self, answer: Result<T, RegistryError>) -> Result<T, RegistryError> {
        let line = *self.line.borrow();
        match line {
            Line::Up => answer,
            Line::Down => Err(RegistryError::Unreachable("the line is cut".into())),
            Line::Hung => future::pending().await,
            Line::Panics => panic!("as asked"),
        }
    }
}

#[async_trait]
impl Registry for Remote {
    async fn get_service(&self, name: &ServiceName) -> Result<Service, RegistryError> {
        self.call(self.services.get_service(name).await).await
    }

    async fn list_services(&self) -> Result<Vec<ServiceName>, RegistryError> {
        self.asked.lists.fetch_add(1, Relaxed);
        self.call(self.services.list_services().await).await
    }

    fn watch(&self, name: &ServiceName) -> BoxStream<'static, Result<Service, RegistryError>> {
        self.asked.watches.fetch_add(1, Relaxed);
        let mut line = self.line.subscribe();
        let cut = async move {
            let _ = line.wait_for(|line| *line == Line::Down).await;
        };
        let open = Open::new(&self.asked);
        let remote = self.clone();
        let states = self.services.watch(name).then(move |state| {
            let _still = &open;
            let remote = remote.clone();
            async move { remote.call(state).await }
        });
        let end = stream::iter([Err(RegistryError::Unreachable("the line was cut".into()))]);
        states.take_until(cut).chain(end).boxed()
    }
}

struct Open(Arc<Counts>);

impl Open {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Relaxed);
        Self(Arc::clone(counts))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

fn live(remote: &Remote) -> Live {
    let live = Live::new("default", Arc::new(remote.clone()));
    live.start(&Handle::current());
    live
}

fn addresses(service: &LiveService) -> Vec<String> {
    service.instances().instances.iter().map(|instance| instance.address.to_string()).collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(120), "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

/// The lines logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone());
        tracing::subscriber::set_default(lines.finish())
    }

    fn count(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).matches(text).count()
    }
}

#[tokio::test(start_paused = true)]
async fn changes_arrive_and_a_version_tells_them_apart() {
    let remote = Remote::new(Line::Up);
    remote.holds("orders", &["a:1"]).await;
    let live = live(&remote);
    let orders = live.service(&"orders".parse().unwrap());
    assert_eq!(orders.instances().standing, Standing::Pending);
    assert!(orders.first_state(Duration::from_secs(1)).await);
    assert_eq!(addresses(&orders), ["a:1"]);

    let version = orders.instances().version;
    let mut changes = orders.changes();
    remote.holds("orders", &["b:1", "c:1"]).await;
    changes.changed().await.unwrap();
    until("both are there", || addresses(&orders) == ["b:1", "c:1"]).await;
    assert!(orders.instances().version > version);
}

#[tokio::test(start_paused = true)]
async fn an_outage_takes_nothing_away_and_is_logged_once() {
    let log = Log::default();
    let _guard = log.start();
    let remote = Remote::new(Line::Up);
    let names: Vec<ServiceName> = (0..20).map(|n| format!("orders-{n}").parse().unwrap()).collect();
    for name in &names {
        remote.holds(name.as_str(), &["a:1"]).await;
    }
    let live = live(&remote);
    let services: Vec<_> = names.iter().map(|name| live.service(name)).collect();
    for service in &services {
        assert!(service.first_state(Duration::from_secs(1)).await);
    }

    for line in [Line::Down, Line::Panics, Line::Down, Line::Hung] {
        remote.is(line);
        sleep(Duration::from_secs(150)).await;
        assert!(services.iter().all(|service| addresses(service) == ["a:1"]), "{line:?}");
    }
    assert_eq!(live.stats().failing, 20);
    assert!(live.stats().stale >= Duration::from_secs(599), "{:?}", live.stats());
    remote.holds("orders-7", &["b:1"]).await;

    remote.is(Line::Up);
    let resynced = until("resynced", || addresses(&services[7]) == ["b:1"] && live.stats().failing == 0);
    let took = resynced.await;
    assert!(took < Duration::from_secs(2), "resync took {took:?}");
    assert_eq!(live.stats().stale, Duration::ZERO);
    assert_eq!(log.count("registry does not answer"), 1);
    assert_eq!(log.count("registry answers again"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_registry_is_not_stormed() {
    let remote = Remote::new(Line::Down);
    let live = live(&remote);
    let services: Vec<_> = (0..100).map(|n| live.service(&format!("orders-{n}").parse().unwrap())).collect();
    sleep(Duration::from_secs(60)).await;
    remote.asked.watches.store(0, Relaxed);
    remote.asked.lists.store(0, Relaxed);
    sleep(Duration::from_secs(100)).await;
    let watches = remote.asked.watches.load(Relaxed);
    let lists = remote.asked.lists.load(Relaxed);
    // A hundred watches that wait five seconds on average.
    assert!((1500..2500).contains(&watches), "{watches}");
    assert!((100..500).contains(&lists), "{lists}");
    drop(services);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_starts_without_its_registry() {
    let remote = Remote::new(Line::Hung);
    remote.holds("orders", &["a:1"]).await;
    let live = live(&remote);
    let orders = live.service(&"orders".parse().unwrap());
    assert!(!orders.first_state(Duration::from_secs(2)).await);
    assert_eq!(orders.instances().standing, Standing::Pending);
    until("it is noticed", || live.stats().failing == 1).await;
    remote.is(Line::Up);
    assert!(orders.first_state(Duration::from_secs(2)).await);
}

#[tokio::test(start_paused = true)]
async fn what_the_registry_says_is_obeyed() {
    let remote = Remote::new(Line::Up);
    remote.holds("orders", &["a:1"]).await;
    let live = live(&remote);
    let orders = live.service(&"orders".parse().unwrap());
    let nobody = live.service(&"nobody".parse().unwrap());
    assert!(orders.first_state(Duration::from_secs(1)).await);
    assert!(nobody.first_state(Duration::from_secs(1)).await);
    assert_eq!(nobody.instances().standing, Standing::Unknown);

    remote.holds("orders", &[]).await;
    until("it is drained", || orders.instances().instances.is_empty()).await;
    assert_eq!(orders.instances().standing, Standing::Known);
    assert_eq!(live.stats().failing, 0);
}

#[tokio::test(start_paused = true)]
async fn one_watch_serves_all_who_ask_and_ends_with_the_last() {
    let remote = Remote::new(Line::Up);
    let live = live(&remote);
    let name: ServiceName = "orders".parse().unwrap();
    let (one, two) = (live.service(&name), live.service(&name));
    assert!(Arc::ptr_eq(&one, &two));
    assert!(one.first_state(Duration::from_secs(1)).await);
    assert_eq!(remote.asked.open.load(Relaxed), 1);
    drop(one);
    yield_now().await;
    assert_eq!(remote.asked.open.load(Relaxed), 1);
    drop(two);
    until("the watch is closed", || remote.asked.open.load(Relaxed) == 0).await;
    assert_eq!(live.stats().services, 0);
}

#[tokio::test(start_paused = true)]
async fn everything_ends_with_live() {
    let remote = Remote::new(Line::Up);
    remote.holds("orders", &["a:1"]).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let live = live(&remote);
    live.find("orders").await.unwrap();
    remote.is(Line::Down);
    sleep(Duration::from_secs(30)).await;
    assert!(tasks() > before);
    drop(live);
    until("all tasks ended", || tasks() == before).await;
    assert_eq!(remote.asked.open.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_before_the_start() {
    let remote = Remote::new(Line::Up);
    remote.holds("orders", &["a:1"]).await;
    let live = Live::new("default", Arc::new(remote.clone()));
    let orders = live.service(&"orders".parse().unwrap());
    assert!(!orders.first_state(Duration::from_secs(1)).await);
    assert_eq!(remote.asked.watches.load(Relaxed), 0);
    live.start(&Handle::current());
    live.start(&Handle::current());
    assert!(orders.first_state(Duration::from_secs(1)).await);
    assert_eq!(remote.asked.watches.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_service_from_a_request_is_found_if_it_is_listed() {
    let remote = Remote::new(Line::Up);
    remote.holds("orders", &["a:1"]).await;
    let live = live(&remote);
    let orders = live.find("orders").await.unwrap();
    assert_eq!(addresses(&orders), ["a:1"]);
    for unknown in ["nobody", "", "..", "a/b"] {
        assert_eq!(live.find(unknown).await.unwrap_err(), Missing::Unknown);
    }
    // New names are found within a second.
    remote.holds("shop", &["b:1"]).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(addresses(&live.find("shop").await.unwrap()), ["b:1"]);
    assert_eq!(live.stats().dynamic, 2);
}

#[tokio::test(start_paused = true)]
async fn asking_for_unknown_names_asks_the_registry_once_per_second_at_most() {
    let remote = Remote::new(Line::Up);
    let live = live(&remote);
    let _ = live.find("nobody").await;
    remote.asked.lists.store(0, Relaxed);
    let begun = Instant::now();
    let mut n = 0;
    while begun.elapsed() < Duration::from_secs(10) {
        assert_eq!(live.find(&format!("nobody-{n}")).await.unwrap_err(), Missing::Unknown);
        n += 1;
        sleep(Duration::from_millis(5)).await;
    }
    let lists = remote.asked.lists.load(Relaxed);
    assert!(lists <= 11, "{lists} lists for {n} requests");
    assert_eq!(remote.asked.watches.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_registry_does_not_hold_requests_longer_than_a_second() {
    for line in [Line::Down, Line::Hung, Line::Panics] {
        let remote = Remote::new(line);
        let live = live(&remote);
        for _ in 0..5 {
            let found = timeout(Duration::from_millis(1100), live.find("orders")).await;
            assert_eq!(found.expect("an answer in time").unwrap_err(), Missing::Unreachable);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_found_stays_through_an_outage_and_is_let_go_when_idle() {
    let remote = Remote::new(Line::Up);
    remote.holds("orders", &["a:1"]).await;
    remote.holds("shop", &["b:1"]).await;
    let live = live(&remote);
    live.find("orders").await.unwrap();
    live.find("shop").await.unwrap();
    remote.is(Line::Down);
    for _ in 0..40 {
        sleep(Duration::from_secs(10)).await;
        assert_eq!(addresses(&live.find("orders").await.unwrap()), ["a:1"]);
    }
    assert_eq!(live.stats().dynamic, 1);
    assert_eq!(live.stats().services, 1);
}

#[tokio::test(start_paused = true)]
async fn requests_cannot_open_watches_without_limit() {
    let remote = Remote::new(Line::Up);
    for n in 0..1030 {
        remote.holds(&format!("orders-{n}"), &["a:1"]).await;
    }
    let live = live(&remote);
    let mut missing: BTreeMap<String, usize> = BTreeMap::new();
    for n in 0..1030 {
        if let Err(why) = live.find(&format!("orders-{n}")).await {
            assert_eq!(why, Missing::Full);
            *missing.entry(why.to_string()).or_default() += 1;
        }
    }
    assert_eq!(missing.values().sum::<usize>(), 6);
    assert_eq!((live.stats().dynamic, live.stats().dropped), (1024, 6));
}

//! The promises of a [`Registry`], as tests that any implementation can run.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use portcullis::registry::{Registry, Service};
//! use portcullis::{registry::memory::MemoryRegistry, testing::conformance};
//!
//! struct Memory;
//!
//! #[async_trait::async_trait]
//! impl conformance::Subject for Memory {
//!     async fn holding(&self, services: &[Service]) -> Arc<dyn Registry> {
//!         let registry = Arc::new(MemoryRegistry::new(100));
//!         conformance::fill(&*registry, services).await;
//!         registry
//!     }
//! }
//!
//! # async fn test() {
//! println!("{}", conformance::run(&Memory).await);
//! # }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, future};
use tokio::time::timeout;

use super::{Instance, Registration, Registry, RegistryError, Service, ServiceName};

/// How long a promise may take. Generous: it only ends what would never end.
const PATIENCE: Duration = Duration::from_secs(20);

/// The registry under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// A registry that holds these services. It may hold others, under other names.
    async fn holding(&self, services: &[Service]) -> Arc<dyn Registry>;

    /// Makes the far side say of `service` what it says here: somebody else's registration, an
    /// edited file. Registers and deregisters unless told otherwise.
    async fn change(&self, registry: &dyn Registry, service: &Service) {
        let present = match registry.get_service(&service.name).await {
            Ok(present) => present.instances,
            Err(RegistryError::NotFound(_)) => Vec::new(),
            Err(error) => panic!("looking at `{}`: {error}", service.name),
        };
        for old in present.iter().filter(|old| !service.instances.iter().any(|new| new.id == old.id)) {
            registry.deregister(&old.id).await.expect("an instance can be deregistered");
        }
        fill(registry, std::slice::from_ref(service)).await;
    }

    /// What can be asked of it.
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }
}

/// What can be asked of a registry. What cannot is skipped, and named in the [`Report`].
#[derive(Debug, Clone)]
pub struct Abilities {
    /// Instances can be registered. What cannot be written must say so.
    pub register: bool,
    /// What it holds can change.
    pub change: bool,
    /// It can hold a known service that has no instances from the start.
    pub empty: bool,
    /// A time to live that is short enough to wait for, if it knows such a thing.
    pub ttl: Option<Duration>,
    /// It keeps metadata and tags.
    pub metadata: bool,
}

impl Default for Abilities {
    fn default() -> Self {
        let ttl = Some(Duration::from_secs(1));
        Self { register: true, change: true, empty: false, ttl, metadata: true }
    }
}

/// Which promises were kept, and which could not be asked for.
#[derive(Debug, Default)]
#[must_use]
pub struct Report {
    /// Kept.
    pub kept: Vec<&'static str>,
    /// Not asked for.
    pub skipped: Vec<&'static str>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} promises kept", self.kept.len())?;
        for name in &self.skipped {
            write!(f, "\n  skipped: {name}")?;
        }
        Ok(())
    }
}

/// Registers everybody in these services.
///
/// # Panics
/// If the registry does not take one.
pub async fn fill(registry: &dyn Registry, services: &[Service]) {
    for service in services {
        for instance in &service.instances {
            let instance = instance.clone();
            let service = service.name.clone();
            let registration = Registration { service, instance, ttl: None };
            registry.register(registration).await.expect("an instance can be registered");
        }
    }
}

type Promise = for<'a> fn(&'a dyn Subject) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Every promise, and what a registry must be able to do for it.
macro_rules! promises {
    ($($promise:ident $(if $($needs:ident)+)?),* $(,)?) => {
        /// In the order of the list: the plain ones first.
        fn promises() -> Vec<(&'static str, fn(&Abilities) -> bool, Promise)> {
            vec![$((
                stringify!($promise),
                |_abilities| true $($(&& needs::$needs(_abilities))+)?,
                |subject| $promise(subject).boxed(),
            )),*]
        }
    };
}

mod needs {
    use super::Abilities;

    pub(super) fn register(abilities: &Abilities) -> bool {
        abilities.register
    }
    pub(super) fn read_only(abilities: &Abilities) -> bool {
        !abilities.register
    }
    pub(super) fn change(abilities: &Abilities) -> bool {
        abilities.change
    }
    pub(super) fn empty(abilities: &Abilities) -> bool {
        abilities.empty
    }
    pub(super) fn metadata(abilities: &Abilities) -> bool {
        abilities.metadata
    }
    pub(super) fn ttl(abilities: &Abilities) -> bool {
        abilities.ttl.is_some()
    }
}

promises! {
    what_it_holds_can_be_got_and_listed,
    an_unknown_service_is_not_found,
    a_known_service_may_be_empty if empty,
    a_watch_starts_with_the_current_state,
    a_watch_of_an_unknown_service_says_so_first,
    weights_and_addresses_come_back_as_they_were,
    metadata_and_tags_come_back_as_they_were if metadata,
    a_watch_sees_an_unknown_service_come if change,
    a_watch_sees_instances_come_and_go if change,
    two_watches_see_the_same if change,
    a_change_is_not_lost_on_an_impatient_watcher if change,
    what_is_given_up_half_way_does_no_harm,
    registering_again_replaces if register,
    many_register_at_once if register,
    deregistering_is_seen_and_can_be_repeated if register,
    an_expired_instance_leaves_a_known_service if register ttl,
    a_renewed_instance_stays if register ttl,
    a_read_only_registry_says_so if read_only,
}

/// Runs every promise that can be asked for.
///
/// # Panics
/// With the first promise that is not kept.
pub async fn run(subject: &dyn Subject) -> Report {
    let abilities = subject.abilities();
    let mut report = Report::default();
    for (name, applies, promise) in promises() {
        if !applies(&abilities) {
            report.skipped.push(name);
            continue;
        }
        let kept = timeout(PATIENCE, promise(subject)).await;
        kept.unwrap_or_else(|_| panic!("{name}: nothing happened for {PATIENCE:?}"));
        report.kept.push(name);
    }
    report
}

async fn what_it_holds_can_be_got_and_listed(subject: &dyn Subject) {
    let orders = service("conformance-held", &["10.0.0.1:80", "10.0.0.2:80"]);
    let registry = subject.holding(std::slice::from_ref(&orders)).await;
    expect(&orders, &registry.get_service(&orders.name).await);
    let listed = registry.list_services().await.expect("services can be listed");
    assert!(listed.contains(&orders.name), "the list lacks `{}`: {listed:?}", orders.name);
    assert!(listed.is_sorted(), "the list is not in order: {listed:?}");
}

async fn an_unknown_service_is_not_found(subject: &dyn Subject) {
    let registry = subject.holding(&[]).await;
    let name = name("conformance-unknown");
    let found = registry.get_service(&name).await;
    assert_eq!(found, Err(RegistryError::NotFound(name.clone())));
    assert!(!registry.list_services().await.expect("services can be listed").contains(&name));
}

async fn a_known_service_may_be_empty(subject: &dyn Subject) {
    let idle = service("conformance-idle", &[]);
    let registry = subject.holding(std::slice::from_ref(&idle)).await;
    expect(&idle, &registry.get_service(&idle.name).await);
    assert!(registry.list_services().await.expect("services can be listed").contains(&idle.name));
}

async fn a_watch_starts_with_the_current_state(subject: &dyn Subject) {
    let orders = service("conformance-first", &["10.0.0.1:80", "10.0.0.2:80"]);
    let registry = subject.holding(std::slice::from_ref(&orders)).await;
    let first = registry.watch(&orders.name).next().await.expect("a watch does not end");
    expect(&orders, &first);
}

async fn a_watch_of_an_unknown_service_says_so_first(subject: &dyn Subject) {
    let registry = subject.holding(&[]).await;
    let name = name("conformance-nobody");
    let first = registry.watch(&name).next().await.expect("a watch does not end");
    assert_eq!(first, Err(RegistryError::NotFound(name)));
}

async fn weights_and_addresses_come_back_as_they_were(subject: &dyn Subject) {
    let mut orders = service("conformance-weights", &["10.0.0.1:80", "[2001:db8::7]:8080", "orders.internal:65535"]);
    for (instance, weight) in orders.instances.iter_mut().zip([1, 7, 100]) {
        instance.weight = weight;
    }
    let registry = subject.holding(std::slice::from_ref(&orders)).await;
    expect(&orders, &registry.get_service(&orders.name).await);
}

async fn metadata_and_tags_come_back_as_they_were(subject: &dyn Subject) {
    let mut orders = service("conformance-metadata", &["10.0.0.1:80", "10.0.0.2:80"]);
    orders.instances[0].metadata = [("zone", "a"), ("version", "1.2")].map(owned).into();
    orders.instances[0].tags = ["canary".to_owned(), "eu".to_owned()].into();
    let registry = subject.holding(std::slice::from_ref(&orders)).await;
    expect(&orders, &registry.get_service(&orders.name).await);
}

async fn a_watch_sees_an_unknown_service_come(subject: &dyn Subject) {
    let registry = subject.holding(&[]).await;
    let orders = service("conformance-born", &["10.0.0.1:80"]);
    let mut watch = registry.watch(&orders.name);
    let first = watch.next().await.expect("a watch does not end");
    assert_eq!(first, Err(RegistryError::NotFound(orders.name.clone())));
    subject.change(&*registry, &orders).await;
    reaches(&mut watch, &orders).await;
}

async fn a_watch_sees_instances_come_and_go(subject: &dyn Subject) {
    let one = service("conformance-changing", &["10.0.0.1:80"]);
    let two = service("conformance-changing", &["10.0.0.1:80", "10.0.0.2:80"]);
    let other = service("conformance-changing", &["10.0.0.3:80"]);
    let registry = subject.holding(std::slice::from_ref(&one)).await;
    let mut watch = registry.watch(&one.name);
    reaches(&mut watch, &one).await;
    for state in [&two, &one, &other, &two] {
        subject.change(&*registry, state).await;
        reaches(&mut watch, state).await;
    }
}

async fn two_watches_see_the_same(subject: &dyn Subject) {
    let one = service("conformance-twice", &["10.0.0.1:80"]);
    let two = service("conformance-twice", &["10.0.0.1:80", "10.0.0.2:80"]);
    let registry = subject.holding(std::slice::from_ref(&one)).await;
    let (mut left, mut right) = (registry.watch(&one.name), registry.watch(&one.name));
    future::join(reaches(&mut left, &one), reaches(&mut right, &one)).await;
    subject.change(&*registry, &two).await;
    reaches(&mut left, &two).await;
    drop(left);
    reaches(&mut right, &two).await;
    subject.change(&*registry, &one).await;
    reaches(&mut right, &one).await;
}

/// A watch is awaited inside `select!`, so its `next` is dropped again and again.
async fn a_change_is_not_lost_on_an_impatient_watcher(subject: &dyn Subject) {
    let one = service("conformance-impatient", &["10.0.0.1:80"]);
    let two = service("conformance-impatient", &["10.0.0.1:80", "10.0.0.2:80"]);
    let registry = subject.holding(std::slice::from_ref(&one)).await;
    let mut watch = registry.watch(&one.name);
    reaches(&mut watch, &one).await;
    let mut last = None;
    for _ in 0..3 {
        last = watch.next().now_or_never().flatten().or(last);
        tokio::task::yield_now().await;
    }
    subject.change(&*registry, &two).await;
    if last.is_none_or(|last| !same(&two, &last)) {
        reaches(&mut watch, &two).await;
    }
}

async fn what_is_given_up_half_way_does_no_harm(subject: &dyn Subject) {
    let orders = service("conformance-given-up", &["10.0.0.1:80"]);
    let registry = subject.holding(std::slice::from_ref(&orders)).await;
    for _ in 0..8 {
        let _ = registry.get_service(&orders.name).now_or_never();
        let _ = registry.list_services().now_or_never();
        let _ = registry.watch(&orders.name).next().now_or_never();
        drop(registry.watch(&orders.name));
        tokio::task::yield_now().await;
    }
    expect(&orders, &registry.get_service(&orders.name).await);
    reaches(&mut registry.watch(&orders.name), &orders).await;
}

async fn registering_again_replaces(subject: &dyn Subject) {
    let mut orders = service("conformance-again", &["10.0.0.1:80"]);
    let registry = subject.holding(std::slice::from_ref(&orders)).await;
    let mut watch = registry.watch(&orders.name);
    reaches(&mut watch, &orders).await;
    orders.instances[0].weight = 3;
    orders.instances[0].address = "10.0.0.9:81".parse().expect("an address");
    fill(&*registry, std::slice::from_ref(&orders)).await;
    reaches(&mut watch, &orders).await;
}

async fn many_register_at_once(subject: &dyn Subject) {
    let addresses: Vec<String> = (1..=32).map(|n| format!("10.0.1.{n}:80")).collect();
    let orders = service("conformance-crowd", &addresses.iter().map(String::as_str).collect::<Vec<_>>());
    let registry = subject.holding(&[]).await;
    let mut watch = registry.watch(&orders.name);
    let each = orders.instances.iter().map(|instance| {
        registry.register(Registration { service: orders.name.clone(), instance: instance.clone(), ttl: None })
    });
    future::try_join_all(each).await.expect("many instances can be registered at once");
    reaches(&mut watch, &orders).await;
}

async fn deregistering_is_seen_and_can_be_repeated(subject: &dyn Subject) {
    let two = service("conformance-leaving", &["10.0.0.1:80", "10.0.0.2:80"]);
    let one = service("conformance-leaving", &["10.0.0.2:80"]);
    let registry = subject.holding(std::slice::from_ref(&two)).await;
    let mut watch = registry.watch(&two.name);
    reaches(&mut watch, &two).await;
    for _ in 0..2 {
        let gone = registry.deregister(&two.instances[0].id).await;
        assert_eq!(gone, Ok(()), "deregistering, also what is gone already");
    }
    reaches(&mut watch, &one).await;
}

async fn an_expired_instance_leaves_a_known_service(subject: &dyn Subject) {
    let ttl = subject.abilities().ttl;
    let orders = service("conformance-mortal", &["10.0.0.1:80"]);
    let registry = subject.holding(&[]).await;
    let mut watch = registry.watch(&orders.name);
    register(&*registry, &orders, ttl).await;
    reaches(&mut watch, &orders).await;
    let empty = service("conformance-mortal", &[]);
    reaches(&mut watch, &empty).await;
    expect(&empty, &registry.get_service(&orders.name).await);
    assert!(registry.list_services().await.expect("services can be listed").contains(&orders.name));
    // And it can come back.
    register(&*registry, &orders, None).await;
    reaches(&mut watch, &orders).await;
}

async fn a_renewed_instance_stays(subject: &dyn Subject) {
    let ttl = subject.abilities().ttl;
    let orders = service("conformance-renewed", &["10.0.0.1:80"]);
    let registry = subject.holding(&[]).await;
    for _ in 0..4 {
        register(&*registry, &orders, ttl).await;
        // Time itself is the subject here.
        tokio::time::sleep(ttl.unwrap_or_default() / 2).await;
        expect(&orders, &registry.get_service(&orders.name).await);
    }
    registry.deregister(&orders.instances[0].id).await.expect("an instance can be deregistered");
}

async fn a_read_only_registry_says_so(subject: &dyn Subject) {
    let orders = service("conformance-fixed", &["10.0.0.1:80"]);
    let registry = subject.holding(std::slice::from_ref(&orders)).await;
    let registration = Registration { service: orders.name.clone(), instance: orders.instances[0].clone(), ttl: None };
    assert_eq!(registry.register(registration).await, Err(RegistryError::ReadOnly));
    let gone = registry.deregister(&orders.instances[0].id).await;
    assert_eq!(gone, Err(RegistryError::ReadOnly));
    expect(&orders, &registry.get_service(&orders.name).await);
}

async fn register(registry: &dyn Registry, service: &Service, ttl: Option<Duration>) {
    for instance in &service.instances {
        let instance = instance.clone();
        let registration = Registration { service: service.name.clone(), instance, ttl };
        registry.register(registration).await.expect("an instance can be registered");
    }
}

fn name(text: &str) -> ServiceName {
    text.parse().expect("a name")
}

/// Instances whose ids belong to the service, because an id is in one service only.
fn service(called: &str, addresses: &[&str]) -> Service {
    let instances = addresses.iter().map(|address| {
        let bare: Instance = address.parse().expect("an address");
        let id = format!("{called}-{}", bare.id).parse().expect("an id");
        Instance { id, ..bare }
    });
    Service { name: name(called), instances: instances.collect() }
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

fn by_id(service: &Service) -> BTreeMap<&str, &Instance> {
    service.instances.iter().map(|instance| (instance.id.as_str(), instance)).collect()
}

fn same(wanted: &Service, got: &Result<Service, RegistryError>) -> bool {
    got.as_ref().is_ok_and(|got| got.name == wanted.name && by_id(got) == by_id(wanted))
}

#[track_caller]
fn expect(wanted: &Service, got: &Result<Service, RegistryError>) {
    assert!(same(wanted, got), "wanted {wanted:#?}\ngot {got:#?}");
}

/// Waits for a state. Others may come before it: whole states, and some may be passed over.
async fn reaches(watch: &mut BoxStream<'static, Result<Service, RegistryError>>, wanted: &Service) {
    let mut last = None;
    let arrival = async {
        while let Some(state) = watch.next().await {
            if same(wanted, &state) {
                return true;
            }
            last = Some(state);
        }
        false
    };
    match timeout(PATIENCE / 2, arrival).await {
        Ok(true) => {}
        Ok(false) => panic!("the watch ended before {wanted:#?}; last it said {last:#?}"),
        Err(_) => panic!("the watch never said {wanted:#?}; last it said {last:#?}"),
    }
}

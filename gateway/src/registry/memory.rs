//! The registry inside the gateway: `type = "memory"`.
//!
//! Instances register and deregister through the admin API. With a time to live an instance must
//! register again before it runs out, or it leaves. A service whose instances have all left stays
//! known, and has none. What is registered is gone when the gateway stops.
//!
//! ```toml
//! [registry.default]
//! type = "memory"
//! instances = 10000
//! ```

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{
    BuildError, Instance, InstanceId, Registration, Registry, RegistryContext, RegistryError, RegistryPlugin, Service,
    ServiceName,
};

/// Keeps instances in the gateway's memory.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// How many instances fit.
    instances: NonZeroUsize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { instances: NonZeroUsize::new(10_000).expect("not zero") }
    }
}

impl RegistryPlugin for Memory {
    const NAME: &'static str = "memory";
    const EXAMPLE: &'static str = "instances = 10000";

    fn build(self, _: &RegistryContext) -> Result<Arc<dyn Registry>, BuildError> {
        Ok(Arc::new(MemoryRegistry::new(self.instances.get())))
    }
}

/// A registry that lives in the gateway's memory.
#[derive(Debug, Clone)]
pub struct MemoryRegistry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Tells the watches to look again. What changed is not said: each compares with what it saw.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    limit: usize,
    services: BTreeMap<ServiceName, BTreeMap<InstanceId, Held>>,
    /// Which service an id is in.
    ids: HashMap<InstanceId, ServiceName>,
    /// Nobody's time is up before.
    quiet_until: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    instance: Instance,
    /// When it leaves unless it is renewed.
    until: Option<Instant>,
}

impl MemoryRegistry {
    /// A registry with room for so many instances.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let state = Mutex::new(State { limit, ..State::default() });
        Self { shared: Arc::new(Shared { state, changed: watch::Sender::new(()) }) }
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    async fn register(&self, registration: Registration) -> Result<(), RegistryError> {
        let now = Instant::now();
        if self.shared.look(now).put(registration, now)? {
            self.shared.changed.send_replace(());
        }
        Ok(())
    }

    async fn deregister(&self, instance: &InstanceId) -> Result<(), RegistryError> {
        if self.shared.look(Instant::now()).remove(instance).is_some() {
            self.shared.changed.send_replace(());
        }
        Ok(())
    }

    async fn get_service(&self, name: &ServiceName) -> Result<Service, RegistryError> {
        self.shared.look(Instant::now()).get(name)
    }

    async fn list_services(&self) -> Result<Vec<ServiceName>, RegistryError> {
        Ok(self.shared.look(Instant::now()).services.keys().cloned().collect())
    }

    fn watch(&self, name: &ServiceName) -> BoxStream<'static, Result<Service, RegistryError>> {
        let watch = Watch {
            name: name.clone(),
            changed: self.shared.changed.subscribe(),
            shared: Arc::clone(&self.shared),
            seen: None,
        };
        stream::unfold(watch, Watch::next).boxed()
    }
}

/// One watch. It is also what makes instances leave in time: no timer runs when nobody looks.
struct Watch {
    name: ServiceName,
    changed: watch::Receiver<()>,
    shared: Arc<Shared>,
    seen: Option<Result<Service, RegistryError>>,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<Service, RegistryError>, Self)> {
        loop {
            // Marked before looking: a change that comes in between wakes us once for nothing,
            // and one that comes after is not missed.
            self.changed.mark_unchanged();
            let (now, leaves) = {
                let state = self.shared.look(Instant::now());
                (state.get(&self.name), state.next_to_leave(&self.name))
            };
            if self.seen.as_ref() != Some(&now) {
                self.seen = Some(now.clone());
                return Some((now, self));
            }
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                () = sleep_until(leaves.unwrap_or_else(Instant::now)), if leaves.is_some() => {}
            }
        }
    }
}

impl Shared {
    /// The state without those whose time is up. Nobody sees it otherwise.
    fn look(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.expire(now) {
            self.changed.send_replace(());
        }
        state
    }
}

impl State {
    fn get(&self, name: &ServiceName) -> Result<Service, RegistryError> {
        let held = self.services.get(name).ok_or_else(|| RegistryError::NotFound(name.clone()))?;
        let instances = held.values().map(|held| held.instance.clone()).collect();
        Ok(Service { name: name.clone(), instances })
    }

    /// Whether anybody can see a difference.
    fn put(&mut self, new: Registration, now: Instant) -> Result<bool, RegistryError> {
        let Registration { service, instance, ttl } = new;
        let id = instance.id.clone();
        // A life longer than clocks count is for ever.
        let until = ttl.and_then(|ttl| now.checked_add(ttl));
        let known = self.ids.get(&id);
        if known.is_none() && self.ids.len() >= self.limit {
            return Err(RegistryError::Full(self.limit));
        }
        if known.is_some_and(|elsewhere| *elsewhere != service) {
            self.remove(&id);
        }
        self.make_room(&service);
        self.quiet_until = earliest(self.quiet_until, until);
        self.ids.insert(id.clone(), service.clone());
        let old = self.services.entry(service).or_default().insert(id, Held { instance: instance.clone(), until });
        // A renewal changes nothing for a watch, unless it brings the end nearer than the watch sleeps.
        Ok(old.is_none_or(|old| {
            let sooner = until.is_some_and(|until| old.until.is_none_or(|old| until < old));
            old.instance != instance || sooner
        }))
    }

    fn remove(&mut self, id: &InstanceId) -> Option<Held> {
        let service = self.ids.remove(id)?;
        self.services.get_mut(&service)?.remove(id)
    }

    /// Names stay when their instances have left, but not without limit.
    fn make_room(&mut self, name: &ServiceName) {
        if self.services.len() >= self.limit && !self.services.contains_key(name) {
            self.services.retain(|_, held| !held.is_empty());
        }
    }

    /// Whether anybody left.
    fn expire(&mut self, now: Instant) -> bool {
        if self.quiet_until.is_none_or(|until| now < until) {
            return false;
        }
        self.quiet_until = None;
        let before = self.ids.len();
        for held in self.services.values_mut() {
            held.retain(|id, held| {
                let stays = held.until.is_none_or(|until| now < until);
                if stays {
                    self.quiet_until = earliest(self.quiet_until, held.until);
                } else {
                    self.ids.remove(id);
                }
                stays
            });
        }
        self.ids.len() < before
    }

    fn next_to_leave(&self, name: &ServiceName) -> Option<Instant> {
        self.services.get(name)?.values().filter_map(|held| held.until).min()
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::registry::conformance;

    struct Subject;

    #[async_trait]
    impl conformance::Subject for Subject {
        async fn holding(&self, services: &[Service]) -> Arc<dyn Registry> {
            let registry = Arc::new(MemoryRegistry::new(100));
            conformance::fill(&*registry, services).await;
            registry
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_keeps_the_promises_of_a_registry() {
        let report = conformance::run(&Subject).await;
        assert_eq!(report.skipped, ["a_known_service_may_be_empty", "a_read_only_registry_says_so"]);
    }

    fn registration(service: &str, address: &str, ttl: Option<u64>) -> Registration {
        Registration {
            service: service.parse().unwrap(),
            instance: address.parse().unwrap(),
            ttl: ttl.map(Duration::from_secs),
        }
    }

    #[tokio::test]
    async fn a_full_registry_says_so_and_still_takes_renewals() {
        let registry = MemoryRegistry::new(2);
        for address in ["a:1", "b:1", "a:1"] {
            registry.register(registration("orders", address, None)).await.unwrap();
        }
        registry.register(registration("orders", "b:1", Some(u64::MAX))).await.unwrap();
        let full = registry.register(registration("orders", "c:1", None)).await;
        assert_eq!(full, Err(RegistryError::Full(2)));
        registry.deregister(&"a:1".parse().unwrap()).await.unwrap();
        registry.register(registration("orders", "c:1", None)).await.unwrap();
    }

    #[tokio::test]
    async fn empty_names_make_room_for_new_ones() {
        let registry = MemoryRegistry::new(3);
        for n in 0..10 {
            registry.register(registration(&format!("orders-{n}"), "a:1", None)).await.unwrap();
        }
        let names = registry.list_services().await.unwrap();
        assert!(names.len() <= 3, "{names:?}");
        assert!(names.contains(&"orders-9".parse().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_wakes_no_watch_and_a_shorter_life_is_kept() {
        let registry = MemoryRegistry::new(10);
        registry.register(registration("orders", "a:1", Some(60))).await.unwrap();
        let mut watch = registry.watch(&"orders".parse().unwrap());
        assert_eq!(watch.next().await.unwrap().unwrap().instances.len(), 1);

        registry.register(registration("orders", "a:1", Some(60))).await.unwrap();
        let quiet = tokio::time::timeout(Duration::from_secs(59), watch.next()).await;
        assert!(quiet.is_err(), "{quiet:?}");

        registry.register(registration("orders", "a:1", Some(5))).await.unwrap();
        let begun = Instant::now();
        assert_eq!(watch.next().await.unwrap().unwrap().instances, []);
        assert_eq!(begun.elapsed().as_secs(), 5);
    }
}

//! Stands between a registry and the request path: the last good answer, always at hand.
//!
//! [`Live`] follows one registry, a [`LiveService`] one service of it. [`LiveService::instances`]
//! is a pointer load: it never waits and never fails, whatever the registry does.
//!
//! * A registry that cannot be reached takes nothing away. The last good instances stay, and
//!   [`Stats::stale`] says since when nobody confirmed them. A gateway that starts without its
//!   registry starts; the service is [`Standing::Pending`] until the first answer.
//! * What the registry says itself is obeyed, also when it says that nobody is left: a service
//!   drained on purpose is drained.
//! * After every failure the watch is opened again and starts from a full state, with exponential
//!   backoff and full jitter. While anything fails, one cheap question every half second or so
//!   finds out whether the registry is back, and wakes all the watches at once: they do not sleep through its
//!   return, and a dead registry is not asked by each of them.
//! * The log gets one `warn` when the registry falls silent and one `info` when all is well again.
//!
//! Nothing starts before [`Live::start`], and dropping a [`LiveService`] ends its watch.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::{FutureExt, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::backoff::{Backoff, jitter};
use super::directory::Directory;
use super::{Instance, Missing, Registry, RegistryError, Service, ServiceName};

/// The first wait after a failure is up to this long, and doubles.
const BACKOFF: Duration = Duration::from_millis(100);
/// No wait is longer.
const BACKOFF_CAP: Duration = Duration::from_secs(10);
/// A watch that has not said anything for so long will not.
const FIRST_STATE: Duration = Duration::from_secs(10);
/// How often a registry that fails is asked whether it is back, and how long it may take to say so.
/// Together they stay below the two seconds within which a return must be noticed.
const PROBE: Duration = Duration::from_millis(700);
/// How far the watches spread when they come back together.
const REUNION: Duration = Duration::from_millis(200);

/// One registry, followed.
pub struct Live {
    name: Arc<str>,
    registry: Arc<dyn Registry>,
    contacts: Arc<Contacts>,
    runtime: OnceLock<Handle>,
    services: Mutex<HashMap<ServiceName, Weak<LiveService>>>,
    probe: OnceLock<AbortOnDropHandle<()>>,
    directory: Directory,
}

/// How a registry and what follows it are doing, for metrics and the admin API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Age of the oldest answer among the watches that fail now; zero if none does.
    pub stale: Duration,
    /// Watches that fail now.
    pub failing: usize,
    /// Services that are followed.
    pub services: usize,
    /// Those of them that came out of requests, and end when nobody asks for them.
    pub dynamic: usize,
    /// Requests that wanted one more of those when there were [too many](Missing::Full).
    pub dropped: u64,
}

impl Live {
    /// Takes a registry, under its name in the file. Starts nothing.
    #[must_use]
    pub fn new(name: &str, registry: Arc<dyn Registry>) -> Self {
        let name: Arc<str> = name.into();
        Self {
            contacts: Arc::new(Contacts::new(Arc::clone(&name))),
            name,
            registry,
            runtime: OnceLock::new(),
            services: Mutex::default(),
            probe: OnceLock::new(),
            directory: Directory::new(),
        }
    }

    /// Starts to follow, on a runtime beside the request path. Doing it again changes nothing.
    pub fn start(&self, runtime: &Handle) {
        // Under the lock, so that a service that is being made either sees the runtime or is seen.
        let services = self.services();
        if self.runtime.set(runtime.clone()).is_err() {
            return;
        }
        let probe = probe(Arc::clone(&self.registry), Arc::clone(&self.contacts));
        let _ = self.probe.set(AbortOnDropHandle::new(runtime.spawn(probe)));
        for service in services.values().filter_map(Weak::upgrade) {
            self.follow(&service, runtime);
        }
    }

    /// Follows a service; the same one for everybody who asks while anybody holds it.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Arc<LiveService> {
        let mut services = self.services();
        if let Some(service) = services.get(name).and_then(Weak::upgrade) {
            return service;
        }
        services.retain(|_, service| service.strong_count() > 0);
        let service = Arc::new(LiveService::new(name.clone(), Snapshot::pending()));
        services.insert(name.clone(), Arc::downgrade(&service));
        if let Some(runtime) = self.runtime.get() {
            self.follow(&service, runtime);
        }
        service
    }

    /// Follows a service whose name came with a request, if the registry lists it.
    ///
    /// Takes no longer than a second. What it finds is let go again after some minutes in which
    /// nobody asked.
    pub async fn find(&self, name: &str) -> Result<Arc<LiveService>, Missing> {
        self.directory.find(self, name).await
    }

    /// Its name in the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The registry itself, for whoever wants to register or to list: not for the request path.
    #[must_use]
    pub fn registry(&self) -> &Arc<dyn Registry> {
        &self.registry
    }

    /// How it is doing.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (failing, stale) = self.contacts.failing();
        let services = self.services().values().filter(|s| s.strong_count() > 0).count();
        let (dynamic, dropped) = self.directory.counts();
        Stats { stale, failing, services, dynamic, dropped }
    }

    pub(super) fn runtime(&self) -> Option<&Handle> {
        self.runtime.get()
    }

    pub(super) fn contact(&self) -> Contact {
        Contact::new(&self.contacts)
    }

    fn services(&self) -> MutexGuard<'_, HashMap<ServiceName, Weak<LiveService>>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, service: &LiveService, runtime: &Handle) {
        let name = service.name.clone();
        let state = Arc::clone(&service.state);
        let task = follow(Arc::clone(&self.registry), name, state, self.contact());
        let _ = service.watch.set(AbortOnDropHandle::new(runtime.spawn(task)));
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("name", &self.name).field("stats", &self.stats()).finish()
    }
}

/// One service of a registry, followed. Dropping the last of it ends the watch.
#[derive(Debug)]
pub struct LiveService {
    name: ServiceName,
    state: Arc<State>,
    watch: OnceLock<AbortOnDropHandle<()>>,
}

/// What is known about a service at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What the registry makes of the name.
    pub standing: Standing,
    /// Who is behind it.
    pub instances: Vec<Instance>,
    /// Grows with every change, so that whoever derives something from a snapshot knows its age.
    pub version: u64,
}

/// What a registry makes of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has not answered yet.
    Pending,
    /// It says that there is no such service.
    Unknown,
    /// It knows the service, which may still have no instances.
    Known,
}

impl LiveService {
    fn new(name: ServiceName, first: Snapshot) -> Self {
        Self { name, state: Arc::new(State::new(first)), watch: OnceLock::new() }
    }

    /// A service that never changes, as when its instances are in the file.
    #[must_use]
    pub fn fixed(service: Service) -> Self {
        let Service { name, instances } = service;
        Self::new(name, Snapshot { standing: Standing::Known, instances, version: 1 })
    }

    /// The registry's name for it.
    #[must_use]
    pub fn name(&self) -> &ServiceName {
        &self.name
    }

    /// Who is behind the service, as last heard. Never waits. Hold the guard briefly, or clone the
    /// [`Arc`] out of it.
    #[must_use]
    pub fn instances(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.state.snapshot.load()
    }

    /// Waits until the registry has said something about the service, but no longer than `limit`.
    /// Returns whether it has.
    pub async fn first_state(&self, limit: Duration) -> bool {
        let has_heard = || self.instances().standing != Standing::Pending;
        if has_heard() {
            return true;
        }
        let mut changes = self.changes();
        let heard = changes.wait_for(|_| has_heard());
        matches!(timeout(limit, heard).await, Ok(Ok(_)))
    }

    /// Wakes whenever there is a new [`Snapshot`], and carries its version.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.state.version.subscribe()
    }
}

impl Snapshot {
    fn pending() -> Self {
        Self { standing: Standing::Pending, instances: Vec::new(), version: 0 }
    }
}

#[derive(Debug)]
struct State {
    snapshot: ArcSwap<Snapshot>,
    version: watch::Sender<u64>,
}

impl State {
    fn new(first: Snapshot) -> Self {
        Self { version: watch::Sender::new(first.version), snapshot: ArcSwap::from_pointee(first) }
    }

    /// Only the one watch of the service calls this, so nobody comes in between.
    fn settle(&self, standing: Standing, instances: Vec<Instance>) {
        let old = self.snapshot.load();
        if old.standing == standing && old.instances == instances {
            return;
        }
        let version = old.version + 1;
        self.snapshot.store(Arc::new(Snapshot { standing, instances, version }));
        self.version.send_replace(version);
    }
}

/// Follows one service for as long as it is wanted.
async fn follow(registry: Arc<dyn Registry>, name: ServiceName, state: Arc<State>, mut contact: Contact) {
    let mut returned = contact.contacts.returned.subscribe();
    let mut backoff = Backoff::new(BACKOFF, BACKOFF_CAP);
    loop {
        returned.mark_unchanged();
        let begun = Instant::now();
        let watch = AssertUnwindSafe(follow_once(&*registry, &name, &state, &mut contact, &mut returned));
        // A registry may come from anybody. Its panic must not freeze the service for ever.
        let error = watch
            .catch_unwind()
            .await
            .unwrap_or_else(|_| RegistryError::Malformed(format!("the watch of `{name}` panicked")));
        contact.failed(&error);
        if begun.elapsed() > backoff.ceiling() {
            backoff.reset();
        }
        tokio::select! {
            () = sleep(backoff.next()) => {}
            _ = returned.changed() => {
                backoff.reset();
                sleep(jitter(REUNION)).await;
            }
        }
    }
}

/// One watch from its first state to its failure.
async fn follow_once(
    registry: &dyn Registry,
    name: &ServiceName,
    state: &State,
    contact: &mut Contact,
    returned: &mut watch::Receiver<u64>,
) -> RegistryError {
    let mut states = registry.watch(name);
    let mut next = loop {
        tokio::select! {
            first = timeout(FIRST_STATE, states.next()) => match first {
                Ok(first) => break first,
                Err(_) => return RegistryError::Unreachable(format!("no answer within {FIRST_STATE:?}")),
            },
            // What was asked while the registry was away may never have got there. It is asked again.
            _ = returned.changed() => {
                sleep(jitter(REUNION)).await;
                states = registry.watch(name);
            }
        }
    };
    loop {
        match next {
            Some(Ok(service)) => state.settle(Standing::Known, service.instances),
            Some(Err(RegistryError::NotFound(_))) => state.settle(Standing::Unknown, Vec::new()),
            Some(Err(error)) => return error,
            None => return RegistryError::Unreachable("the watch ended".to_owned()),
        }
        contact.confirmed();
        next = states.next().await;
    }
}

/// Asks a failing registry until it answers, and then wakes all who wait for it.
async fn probe(registry: Arc<dyn Registry>, contacts: Arc<Contacts>) {
    loop {
        contacts.trouble.notified().await;
        let mut missed = true;
        // If it goes on to answer, what fails is one watch, which has a backoff of its own.
        let mut calm = Backoff::new(PROBE, BACKOFF_CAP);
        while contacts.failing().0 > 0 {
            sleep(calm.next()).await;
            let asked = AssertUnwindSafe(timeout(PROBE, registry.list_services())).catch_unwind();
            let answers = matches!(asked.await, Ok(Ok(Ok(_))));
            if !answers {
                calm.reset();
            } else if missed {
                contacts.returned.send_modify(|times| *times += 1);
            }
            missed = !answers;
        }
    }
}

/// How all that follows one registry fares, taken together: it falls silent once, not once per watch.
struct Contacts {
    name: Arc<str>,
    failing: Mutex<BTreeMap<u64, Instant>>,
    /// Something began to fail.
    trouble: Notify,
    /// How often the registry came back.
    returned: watch::Sender<u64>,
}

impl Contacts {
    fn new(name: Arc<str>) -> Self {
        Self { name, failing: Mutex::default(), trouble: Notify::new(), returned: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many fail, and the age of the oldest confirmation among them.
    fn failing(&self) -> (usize, Duration) {
        let failing = self.lock();
        let oldest = failing.values().min().map_or(Duration::ZERO, Instant::elapsed);
        (failing.len(), oldest)
    }
}

/// One thing that talks to a registry: a watch, or the list of names.
pub(super) struct Contact {
    contacts: Arc<Contacts>,
    id: u64,
    last: Instant,
}

impl Contact {
    fn new(contacts: &Arc<Contacts>) -> Self {
        Self { contacts: Arc::clone(contacts), id: fastrand::u64(..), last: Instant::now() }
    }

    /// The registry answered.
    pub(super) fn confirmed(&mut self) {
        let since = std::mem::replace(&mut self.last, Instant::now());
        let mut failing = self.contacts.lock();
        if failing.remove(&self.id).is_some() && failing.is_empty() {
            let silent = since.elapsed().as_secs_f64();
            info!(registry = %self.contacts.name, silent_seconds = silent, "registry answers again");
        }
    }

    /// It did not.
    pub(super) fn failed(&self, error: &RegistryError) {
        let mut failing = self.contacts.lock();
        if failing.is_empty() {
            warn!(
                registry = %self.contacts.name, %error,
                "registry does not answer; the last good instances stay"
            );
            self.contacts.trouble.notify_one();
        }
        failing.entry(self.id).or_insert(self.last);
    }
}

impl Drop for Contact {
    fn drop(&mut self) {
        self.contacts.lock().remove(&self.id);
    }
}

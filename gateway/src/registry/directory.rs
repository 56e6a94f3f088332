//! Names that come with requests, as in `service = "{service}"`.
//!
//! A client can ask for any name, so a name costs nothing until the registry lists it: the list is
//! kept at hand, polled, and fetched again for an unlisted name at most once per second. A listed
//! name gets a watch on first use, of which there is a limited number, and loses it when nobody asked
//! for some minutes.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::backoff::jitter;
use super::live::Contact;
use super::{Live, LiveService, Registry, RegistryError, ServiceName, Standing};

/// How long a request waits for its name to be found.
const PATIENCE: Duration = Duration::from_secs(1);
/// A list this young is not fetched again for the sake of a request.
const FRESH: Duration = Duration::from_secs(1);
/// How often the list is fetched for no request's sake.
const POLL: Duration = Duration::from_secs(10);
/// How long a registry may take to list its services.
const LIST: Duration = Duration::from_secs(5);
/// How many services may be followed because requests named them.
const LIMIT: usize = 1024;
/// How long one of them is followed without being asked for.
const IDLE: Duration = Duration::from_secs(300);

/// Why a request's service was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The registry does not list it.
    #[error("the registry does not list the service")]
    Unknown,
    /// The registry does not answer, and did not list it when it did.
    #[error("the registry does not answer, and did not list the service when it last did")]
    Unreachable,
    /// Too many services are followed for the sake of requests.
    #[error("{LIMIT} services are followed for requests already, the limit")]
    Full,
}

pub(super) struct Directory {
    names: Arc<Names>,
    poll: OnceLock<AbortOnDropHandle<()>>,
    opening: Mutex<()>,
    dropped: AtomicU64,
}

struct Names {
    list: watch::Sender<List>,
    /// A request wants a fresh list.
    wanted: Notify,
    followed: ArcSwap<HashMap<ServiceName, Arc<Followed>>>,
    since: Instant,
}

#[derive(Default)]
struct List {
    /// When it was last asked for, answered or not.
    asked: Option<Instant>,
    answered: bool,
    names: BTreeSet<ServiceName>,
}

struct Followed {
    service: Arc<LiveService>,
    /// Seconds since the directory was made.
    used: AtomicU64,
}

impl Directory {
    pub(super) fn new() -> Self {
        let names = Names {
            list: watch::Sender::new(List::default()),
            wanted: Notify::new(),
            followed: ArcSwap::default(),
            since: Instant::now(),
        };
        Self { names: Arc::new(names), poll: OnceLock::new(), opening: Mutex::default(), dropped: AtomicU64::new(0) }
    }

    /// How many services are followed, and how many more were wanted.
    pub(super) fn counts(&self) -> (usize, u64) {
        (self.names.followed.load().len(), self.dropped.load(Relaxed))
    }

    pub(super) async fn find(&self, live: &Live, name: &str) -> Result<Arc<LiveService>, Missing> {
        let deadline = Instant::now() + PATIENCE;
        let service = match self.names.get(name) {
            Some(service) => service,
            None => {
                let name: ServiceName = name.parse().map_err(|_| Missing::Unknown)?;
                self.poll(live)?;
                self.names.lists(&name, deadline).await?;
                self.open(live, &name)?
            }
        };
        service.first_state(deadline.duration_since(Instant::now())).await;
        match service.instances().standing {
            Standing::Unknown => Err(Missing::Unknown),
            Standing::Pending | Standing::Known => Ok(service),
        }
    }

    /// Begins to keep the list at hand, with the first request that wants it.
    fn poll(&self, live: &Live) -> Result<(), Missing> {
        let runtime = live.runtime().ok_or(Missing::Unreachable)?;
        self.poll.get_or_init(|| {
            let names = Arc::clone(&self.names);
            let task = names.keep(Arc::clone(live.registry()), live.contact());
            AbortOnDropHandle::new(runtime.spawn(task))
        });
        Ok(())
    }

    fn open(&self, live: &Live, name: &ServiceName) -> Result<Arc<LiveService>, Missing> {
        let _one_at_a_time = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(service) = self.names.get(name.as_str()) {
            return Ok(service);
        }
        if self.names.followed.load().len() >= LIMIT {
            self.dropped.fetch_add(1, Relaxed);
            return Err(Missing::Full);
        }
        let service = live.service(name);
        let used = AtomicU64::new(self.names.now());
        let followed = Arc::new(Followed { service: Arc::clone(&service), used });
        self.names.followed.rcu(|all| {
            let mut all = HashMap::clone(all);
            all.insert(name.clone(), Arc::clone(&followed));
            all
        });
        Ok(service)
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (followed, dropped) = self.counts();
        f.debug_struct("Directory").field("followed", &followed).field("dropped", &dropped).finish()
    }
}

impl Names {
    fn now(&self) -> u64 {
        self.since.elapsed().as_secs()
    }

    fn get(&self, name: &str) -> Option<Arc<LiveService>> {
        let followed = self.followed.load();
        let found = followed.get(name)?;
        found.used.store(self.now(), Relaxed);
        Some(Arc::clone(&found.service))
    }

    /// Whether the registry lists the name, by a list that is no older than a second.
    async fn lists(&self, name: &ServiceName, deadline: Instant) -> Result<(), Missing> {
        let mut list = self.list.subscribe();
        let now = Instant::now();
        {
            let list = list.borrow();
            if list.names.contains(name) {
                return Ok(());
            }
            if list.is_fresh(now) {
                return Err(list.missing());
            }
        }
        self.wanted.notify_one();
        match timeout_at(deadline, list.wait_for(|list| list.is_fresh(now))).await {
            Ok(Ok(list)) if list.names.contains(name) => Ok(()),
            Ok(Ok(list)) => Err(list.missing()),
            Ok(Err(_)) | Err(_) => Err(Missing::Unreachable),
        }
    }

    /// Keeps the list fresh, and lets services go that nobody wants.
    async fn keep(self: Arc<Self>, registry: Arc<dyn Registry>, mut contact: Contact) {
        loop {
            let asked = Instant::now();
            let list = AssertUnwindSafe(timeout(LIST, registry.list_services())).catch_unwind();
            let names = match list.await {
                Ok(Ok(list)) => list,
                Ok(Err(_)) => Err(RegistryError::Unreachable(format!("no list within {LIST:?}"))),
                Err(_) => Err(RegistryError::Malformed("listing the services panicked".to_owned())),
            };
            match &names {
                Ok(_) => contact.confirmed(),
                Err(error) => contact.failed(error),
            }
            self.list.send_modify(|list| {
                list.asked = Some(asked);
                list.answered = names.is_ok();
                if let Ok(names) = names {
                    list.names = names.into_iter().collect();
                }
            });
            self.release();
            sleep_until(asked + FRESH).await;
            tokio::select! {
                () = sleep(POLL - jitter(POLL / 4)) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// Ends the watches of services that are gone, or that nobody asked for in a while.
    fn release(&self) {
        let now = self.now();
        let useless = |followed: &Followed| {
            let idle = now.saturating_sub(followed.used.load(Relaxed));
            idle > IDLE.as_secs() || followed.service.instances().standing == Standing::Unknown
        };
        if !self.followed.load().values().any(|followed| useless(followed)) {
            return;
        }
        self.followed.rcu(|all| {
            let kept = all.iter().filter(|(_, followed)| !useless(followed));
            kept.map(|(name, followed)| (name.clone(), Arc::clone(followed))).collect::<HashMap<_, _>>()
        });
    }
}

impl List {
    fn is_fresh(&self, now: Instant) -> bool {
        self.asked.is_some_and(|asked| now < asked + FRESH)
    }

    fn missing(&self) -> Missing {
        if self.answered { Missing::Unknown } else { Missing::Unreachable }
    }
}

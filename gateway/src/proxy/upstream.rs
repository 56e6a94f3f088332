//! A service as requests see it: who is behind it now, whose turn it is, and how it wants to be talked to.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwap;
use http::HeaderValue;
use portcullis_middleware::{Cause, Rejection};

use super::policy::Policy;
use super::pool::{Endpoint, Pool, Pools};
use crate::balance::Rotation;
use crate::registry::{Address, Instance, LiveService, Snapshot, Standing};
use portcullis_middleware::worker::Sharded;

/// A service that requests can be sent to.
pub struct Upstream {
    name: Arc<str>,
    policy: Policy,
    service: Arc<LiveService>,
    pools: Arc<Pools>,
    roll: ArcSwap<Roll>,
    tables: Sharded<Mutex<Option<Arc<Table>>>>,
}

impl Upstream {
    /// A service of this name in the file, that a registry follows.
    pub fn new(name: impl Into<Arc<str>>, service: Arc<LiveService>, policy: Policy, pools: Arc<Pools>) -> Self {
        let name = name.into();
        let snapshot = service.instances().clone();
        let roll = ArcSwap::from_pointee(Roll::new(&name, snapshot, &policy, &pools));
        Self { name, policy, service, pools, roll, tables: Sharded::new() }
    }

    /// Its name in the file.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How it wants to be talked to.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What its registry says of it.
    pub fn service(&self) -> &Arc<LiveService> {
        &self.service
    }

    /// Everybody behind the service now, of whom one at least can take a request.
    pub(super) fn table(&self) -> Result<Arc<Table>, Rejection> {
        let table = self.current();
        match (table.targets.is_empty(), table.roll.snapshot.standing) {
            (true, Standing::Pending) => {
                Err(Rejection::new(Cause::NoService).detail("the registry has not answered yet"))
            }
            (true, Standing::Unknown) => Err(Rejection::new(Cause::NoService)),
            _ => Ok(table),
        }
    }

    /// This worker's table. Nobody else locks it but who finds that the instances have changed.
    fn current(&self) -> Arc<Table> {
        let snapshot = self.service.instances();
        if let Some(table) = &*lock(self.tables.mine())
            && Arc::ptr_eq(&table.roll.snapshot, &snapshot)
        {
            return table.clone();
        }
        let table = Arc::new(Table::new(self, self.roll(&snapshot)));
        *lock(self.tables.mine()) = Some(table.clone());
        table
    }

    fn roll(&self, snapshot: &Arc<Snapshot>) -> Arc<Roll> {
        let roll = self.roll.load_full();
        if Arc::ptr_eq(&roll.snapshot, snapshot) {
            return roll;
        }
        // Several workers may do this at once; their rolls are alike and the last one stays.
        let roll = Arc::new(Roll::new(&self.name, snapshot.clone(), &self.policy, &self.pools));
        self.roll.store(roll.clone());
        // A worker without requests would hold on to instances that are gone.
        self.tables.iter().for_each(|table| _ = lock(table).take());
        roll
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// Everybody behind a service at one moment. It keeps their pools, of whatever worker.
#[derive(Debug)]
struct Roll {
    snapshot: Arc<Snapshot>,
    endpoints: Vec<Arc<Endpoint>>,
}

impl Roll {
    fn new(service: &Arc<str>, snapshot: Arc<Snapshot>, policy: &Policy, pools: &Pools) -> Self {
        let endpoint = |instance: &Instance| pools.endpoint(service, &instance.address, policy);
        let endpoints = snapshot.instances.iter().map(endpoint).collect();
        Self { snapshot, endpoints }
    }
}

/// What one worker needs to know to send a request: all there is in one place, and none of it shared with other
/// workers, since even counting who refers to a thing is slow if everybody does it. A request keeps to one table, so
/// that its tries can be told apart.
///
/// Workers take turns each for themselves: the shares are the same, and nobody waits for anybody.
#[derive(Debug)]
pub(super) struct Table {
    name: Arc<str>,
    policy: Policy,
    roll: Arc<Roll>,
    targets: Vec<Target>,
    rotation: Rotation,
}

/// One instance, ready to be sent to.
#[derive(Debug)]
pub(super) struct Target {
    /// Its address as text.
    pub(super) address: Arc<str>,
    /// The address as the value of a `Host` header.
    pub(super) authority: HeaderValue,
    /// This worker's connections to it.
    pub(super) pool: Arc<Pool>,
}

impl Table {
    fn new(upstream: &Upstream, roll: Arc<Roll>) -> Self {
        let instances = &roll.snapshot.instances;
        let target = |(endpoint, address): (&Arc<Endpoint>, &Address)| Target {
            address: address.to_string().into(),
            authority: endpoint.connector().authority(),
            pool: endpoint.pool(),
        };
        let addresses = instances.iter().map(|instance| &instance.address);
        let targets = roll.endpoints.iter().zip(addresses).map(target).collect();
        let weights: Vec<u32> = instances.iter().map(|instance| instance.weight).collect();
        let rotation = Rotation::new(&weights, fastrand::usize(..));
        // A copy of the name, not another reference to it.
        Self { name: Arc::from(&*upstream.name), policy: upstream.policy.clone(), rotation, targets, roll }
    }

    /// The service's name in the file.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How the service wants to be talked to.
    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whose turn it is, but none of those `tried` unless all were.
    pub(super) fn pick(&self, tried: &[usize]) -> Result<usize, Rejection> {
        self.rotation.next(tried).ok_or_else(|| Rejection::new(Cause::NoInstance))
    }

    /// Whether anybody ever has a turn.
    pub(super) fn has_turns(&self) -> bool {
        !self.rotation.is_empty()
    }

    pub(super) fn target(&self, index: usize) -> &Target {
        &self.targets[index]
    }
}

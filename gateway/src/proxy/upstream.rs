//! A service as requests see it: who is behind it now, whose turn it is, and how it wants to be talked to.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;
use portcullis_middleware::{Cause, Rejection};

use super::policy::Policy;
use super::pool::{Pool, Pools};
use crate::balance::Rotation;
use crate::registry::{LiveService, Snapshot, Standing};

/// A service that requests can be sent to.
pub struct Upstream {
    name: Arc<str>,
    policy: Policy,
    service: Arc<LiveService>,
    pools: Arc<Pools>,
    table: ArcSwap<Table>,
}

impl Upstream {
    /// A service of this name in the file, that a registry follows.
    pub fn new(name: impl Into<Arc<str>>, service: Arc<LiveService>, policy: Policy, pools: Arc<Pools>) -> Self {
        let name = name.into();
        let snapshot = service.instances().clone();
        let table = ArcSwap::from_pointee(Table::new(&name, snapshot, &pools));
        Self { name, policy, service, pools, table }
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
        let snapshot = self.service.instances();
        let mut table = self.table.load_full();
        if !Arc::ptr_eq(&table.snapshot, &snapshot) {
            // Several requests may do this at once; their tables are alike and the last one stays.
            table = Arc::new(Table::new(&self.name, snapshot.clone(), &self.pools));
            self.table.store(table.clone());
        }
        match (table.targets.is_empty(), snapshot.standing) {
            (true, Standing::Pending) => {
                Err(Rejection::new(Cause::NoService).detail("the registry has not answered yet"))
            }
            (true, Standing::Unknown) => Err(Rejection::new(Cause::NoService)),
            _ => Ok(table),
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// Everybody behind a service at one moment. A request keeps to one table, so that its tries can be told apart.
#[derive(Debug)]
pub(super) struct Table {
    snapshot: Arc<Snapshot>,
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
    /// Its connections.
    pub(super) pool: Arc<Pool>,
}

impl Table {
    fn new(service: &Arc<str>, snapshot: Arc<Snapshot>, pools: &Pools) -> Self {
        let target = |address| {
            let pool = pools.get(service, address);
            Target { address: address.to_string().into(), authority: pool.connector().authority(), pool }
        };
        let targets = snapshot.instances.iter().map(|instance| target(&instance.address)).collect();
        let weights: Vec<u32> = snapshot.instances.iter().map(|instance| instance.weight).collect();
        Self { targets, rotation: Rotation::new(&weights, fastrand::usize(..)), snapshot }
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

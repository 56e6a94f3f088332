//! Where services are: names, the instances behind them, and how they change.
//!
//! A [`Registry`] maps a [`ServiceName`] to its [`Instance`]s. Nothing on the request path ever
//! asks one: [`Live`] follows a registry from beside and keeps the last good answer at hand.
//!
//! ```text
//! registry (Consul, a file, memory) --watch--> Live --snapshot--> balancing, one pointer load
//! ```
//!
//! To write a registry, copy [`memory`], and run [`conformance`]
//! against yours.

mod backoff;
pub mod conformance;
pub mod consul;
mod directory;
pub mod file;
mod http;
pub mod live;
#[cfg(test)]
mod live_tests;
pub mod memory;
mod plugin;
mod service;
pub mod static_;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

pub use portcullis_middleware::BuildError;

pub use directory::Missing;
pub use live::{Live, LiveService, Snapshot, Standing, Stats};
pub use plugin::{RegistryContext, RegistryPlugin, RegistryRow};
pub use portcullis_config::units::InstanceAddress as Address;
pub use service::{Instance, InstanceId, Invalid, Registration, Service, ServiceName};

/// What every registry can do.
///
/// Six operations: five here, and the name by which a file asks for it. An implementation keeps no
/// retries and no last good state of its own: it reports what it sees, at once and honestly, and
/// [`Live`] does the rest.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// Puts an instance behind a service, or renews it if its id is there already: the new
    /// registration replaces the old one whole, and its time to live starts again.
    async fn register(&self, registration: Registration) -> Result<(), RegistryError> {
        let _ = registration;
        Err(RegistryError::ReadOnly)
    }

    /// Takes an instance away. Taking away what is not there is no error, so that it can be retried.
    async fn deregister(&self, instance: &InstanceId) -> Result<(), RegistryError> {
        let _ = instance;
        Err(RegistryError::ReadOnly)
    }

    /// What is behind `name` now. A service that is not known is [`RegistryError::NotFound`]; one
    /// that is known and has nobody behind it is `Ok` without instances.
    async fn get_service(&self, name: &ServiceName) -> Result<Service, RegistryError>;

    /// All the names that are known now, in order.
    async fn list_services(&self) -> Result<Vec<ServiceName>, RegistryError>;

    /// Follows `name`: the current state first, then the whole state after each change, never a
    /// difference. A state may repeat, which says that contact still holds.
    ///
    /// [`RegistryError::NotFound`] is such a state too. Any other error is the last item: the
    /// follower comes back with a new watch, and starts from a full state again. Dropping the
    /// stream ends the watch. The stream is polled inside a tokio runtime.
    fn watch(&self, name: &ServiceName) -> BoxStream<'static, Result<Service, RegistryError>>;
}

/// Why a registry could not do what was asked: one variant per thing a caller might do differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// There is no such service: an answer, not a failure.
    #[error("there is no service `{0}`")]
    NotFound(ServiceName),
    /// The registry cannot be written to through the gateway.
    #[error("the registry is read-only")]
    ReadOnly,
    /// No more instances fit.
    #[error("the registry is full: it holds {0} instances, its limit")]
    Full(usize),
    /// It did not answer, or answered that it cannot answer now. Worth another try.
    #[error("the registry cannot be reached: {0}")]
    Unreachable(String),
    /// It answered, and the answer makes no sense.
    #[error("the registry's answer cannot be read: {0}")]
    Malformed(String),
    /// It understood and said no: a wrong token, a value it does not take.
    #[error("the registry refused: {0}")]
    Refused(String),
}

impl RegistryError {
    /// Whether this is what the registry has to say about a service, not a failure to say it.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }
}

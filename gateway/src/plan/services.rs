//! Names that routes send to, and what is behind them.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis_config::{self as config, DEFAULT_REGISTRY, Faults, File, Named, Spanned};
use portcullis_middleware::plugin::{Services, Task};
use portcullis_middleware::{Cause, MatchedRoute, Next, Rejection, Request};

use super::registries::Registries;
use crate::proxy::{Forward, Overrides, Policy, Pools, Resolve, Resolved, Service, Stage, Upstream};
use crate::registry::{self, Live, LiveService, Missing, ServiceName};
use crate::tls;

/// How many services that requests named are kept ready. The registry's own limit is the same.
const DYNAMIC: usize = 1024;
/// How often those are let go that the registry does not follow any more.
const TIDY: Duration = Duration::from_secs(60);

/// Every service of a plan: those the file declares, and those that only a registry knows.
#[derive(Default)]
pub(super) struct ServiceBook {
    registries: Registries,
    pools: Arc<Pools>,
    /// Declared first; names that only routes mention are added while the chains are built.
    names: Mutex<Names>,
    /// The same once all chains are built: requests look names up without a lock.
    settled: OnceLock<Names>,
    by_request: ArcSwap<Names>,
}

type Names = HashMap<String, Arc<Upstream>>;

/// What the registry's directory let go, because nobody asked for it, is held by nothing but this map.
fn still_followed(all: &Names) -> Names {
    let kept = all.iter().filter(|(_, upstream)| Arc::strong_count(upstream.service()) > 1);
    kept.map(|(name, upstream)| (name.clone(), upstream.clone())).collect()
}

impl ServiceBook {
    pub(super) fn build(
        file: &File,
        registries: Registries,
        pools: &Arc<Pools>,
        mut tls: tls::Builder<'_>,
        faults: &mut Faults,
    ) -> Self {
        let book = Self { registries, pools: pools.clone(), ..Self::default() };
        for named in &file.services {
            if let Some(upstream) = book.declared(file, named, &mut tls, faults) {
                book.names().insert(named.name.value.clone(), upstream);
            }
        }
        book
    }

    fn declared(
        &self,
        file: &File,
        named: &Named<config::Service>,
        tls: &mut tls::Builder<'_>,
        faults: &mut Faults,
    ) -> Option<Arc<Upstream>> {
        let (key, service) = (&named.name, &named.value);
        let mut policy = Policy::from(service);
        if let Some(written) = &service.tls {
            policy.tls = Some(tls.build(written, policy.protocol, &file.document, faults)?);
        }
        let live = match &service.instances {
            Some(instances) => fixed(file, key, instances, faults)?,
            None => {
                let name = service_name(file, service.name.as_ref().unwrap_or(key), faults)?;
                self.registry_of(service)?.service(&name)
            }
        };
        Some(Arc::new(Upstream::new(key.value.as_str(), live, policy, self.pools.clone())))
    }

    fn registry_of(&self, service: &config::Service) -> Option<&Arc<Live>> {
        // That there is one was checked with the file; if it could not be built, that was reported.
        self.registries.find(service.registry.as_ref().map_or(DEFAULT_REGISTRY, |name| name.value.as_str()))
    }

    /// The service of this name: declared, or one that the default registry may know.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Upstream>> {
        if let Some(upstream) = self.known(name) {
            return Some(upstream);
        }
        let live = self.registries.find(DEFAULT_REGISTRY)?.service(&name.parse().ok()?);
        let upstream = Arc::new(Upstream::new(name, live, Policy::default(), self.pools.clone()));
        self.names().insert(name.to_owned(), upstream.clone());
        Some(upstream)
    }

    /// Says that all chains are built, so that no name is added any more.
    pub(super) fn settle(&self) {
        self.settled.get_or_init(|| std::mem::take(&mut *self.names()));
    }

    /// The service of this name, if the file declares it or a chain sends to it.
    pub(super) fn known(&self, name: &str) -> Option<Arc<Upstream>> {
        match self.settled.get() {
            Some(names) => names.get(name).cloned(),
            None => self.names().get(name).cloned(),
        }
    }

    /// Every service that has a name, ordered by it.
    pub(super) fn all(&self) -> Vec<Arc<Upstream>> {
        let mut all: Vec<_> = self.settled.get().into_iter().flat_map(HashMap::values).cloned().collect();
        all.extend(self.by_request.load().values().cloned());
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }

    pub(super) fn registries(&self) -> &[Arc<Live>] {
        self.registries.all()
    }

    /// The service that a request named: one that is declared, or one that the default registry lists.
    async fn requested(&self, name: String) -> Result<Arc<Upstream>, Rejection> {
        if let Some(upstream) = self.known(&name) {
            return Ok(upstream);
        }
        let unknown = || Rejection::new(Cause::NoRoute).detail("there is no service of that name");
        let Some(live) = self.registries.find(DEFAULT_REGISTRY) else { return Err(unknown()) };
        match live.find(&name).await {
            Ok(service) => Ok(self.ready(name, &service)),
            Err(Missing::Unknown) => Err(unknown()),
            Err(missing @ (Missing::Unreachable | Missing::Full)) => {
                Err(Rejection::new(Cause::NoService).note(missing.to_string()))
            }
        }
    }

    /// The service that a request named, if nobody may be asked: any name can be one.
    fn unasked(&self, name: &str) -> Result<Arc<Upstream>, Rejection> {
        let unknown = || Rejection::new(Cause::NoRoute).detail("there is no service of that name");
        if let Some(upstream) = self.known(name) {
            return Ok(upstream);
        }
        let registered = name.parse().map_err(|_| unknown())?;
        let live = self.registries.find(DEFAULT_REGISTRY).ok_or_else(unknown)?.service(&registered);
        Ok(Arc::new(Upstream::new(name, live, Policy::default(), self.pools.clone())))
    }

    /// The upstream for a service that a request named, kept for the next request.
    fn ready(&self, name: String, service: &Arc<LiveService>) -> Arc<Upstream> {
        if let Some(upstream) = self.by_request.load().get(&name).filter(|known| Arc::ptr_eq(known.service(), service))
        {
            return upstream.clone();
        }
        let upstream = Arc::new(Upstream::new(name.as_str(), service.clone(), Policy::default(), self.pools.clone()));
        self.by_request.rcu(|all| {
            let mut all = still_followed(all);
            if all.len() < DYNAMIC {
                all.insert(name.clone(), upstream.clone());
            }
            all
        });
        upstream
    }

    /// Lets go, now and then, of the services that requests named and that the registry's directory let go.
    pub(super) fn tidy(self: &Arc<Self>) -> Task {
        let book = self.clone();
        Box::new(move |stop| {
            Box::pin(async move {
                while stop.run_until_cancelled(tokio::time::sleep(TIDY)).await.is_some() {
                    book.by_request.rcu(|all| still_followed(all));
                }
            })
        })
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Services for ServiceBook {
    fn service(&self, name: &str) -> Option<Next> {
        let upstream = self.find(name)?;
        Some(Next::new(Forward::new(Service::Fixed(upstream), Overrides::default())))
    }
}

/// `service = "{capture}"`: the name comes with the request.
pub(super) struct ByRequest {
    pub(super) capture: String,
    pub(super) services: Arc<ServiceBook>,
}

impl Resolve for ByRequest {
    fn resolve(&self, request: &Request) -> Resolved {
        let captured = request.extensions().get::<MatchedRoute>().and_then(|matched| matched.capture(&self.capture));
        let Some(name) = captured.map(|name| percent_encoding::percent_decode_str(name).decode_utf8()) else {
            return Resolved::Now(Err(Rejection::new(Cause::NoRoute)));
        };
        let Ok(name) = name.map(|name| name.into_owned()) else {
            return Resolved::Now(Err(Rejection::new(Cause::NoRoute)));
        };
        if Stage::of(request).is_some_and(Stage::is_offline) {
            return Resolved::Now(self.services.unasked(&name));
        }
        let services = self.services.clone();
        let found: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move { services.requested(name).await });
        Resolved::Later(found)
    }
}

fn fixed(
    file: &File,
    key: &Spanned<String>,
    instances: &[Spanned<config::Instance>],
    faults: &mut Faults,
) -> Option<Arc<LiveService>> {
    let name = service_name(file, key, faults)?;
    let instances = instances.iter().map(|instance| instance.value.clone().into()).collect();
    Some(Arc::new(LiveService::fixed(registry::Service { name, instances })))
}

/// A name out of the file; one that no service can have is a fault.
pub(super) fn service_name(file: &File, name: &Spanned<String>, faults: &mut Faults) -> Option<ServiceName> {
    match name.parse::<ServiceName>() {
        Ok(name) => Some(name),
        Err(invalid) => {
            faults.error(&file.document, name.span.clone(), invalid.to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Gateway;
    use crate::registry::Registration;

    const FILE: &str = r#"
        access_log = { output = "off" }
        [listener.web]
        address = "127.0.0.1:0"
        [registry.default]
        type = "memory"
        [[route]]
        match = { path = "/{service}/{*rest}" }
        service = "{service}"
    "#;

    #[tokio::test(start_paused = true)]
    async fn a_service_that_nobody_asks_for_any_more_is_followed_no_longer() {
        let gateway = Gateway::new(crate::plugins());
        let plan = gateway.plan_text("gateway.toml", FILE).0.expect("a good file");
        let plan = gateway.go_live(plan, &tokio::runtime::Handle::current()).expect("it needs nothing");
        let live = plan.registry("default").expect("the file has it");
        let instance = "127.0.0.1:9".parse().expect("an address");
        let registration = Registration { service: "orders".parse().expect("a name"), instance, ttl: None };
        live.registry().register(registration).await.expect("there is room");

        plan.services.requested("orders".to_owned()).await.expect("it is listed");
        assert_eq!((live.stats().services, plan.services().len()), (1, 1));
        // It was followed until another request named another service.
        tokio::time::sleep(std::time::Duration::from_secs(600)).await;
        assert_eq!((live.stats().services, plan.services().len()), (0, 0));
    }
}

//! The services of HashiCorp Consul: `type = "consul"`.
//!
//! ```toml
//! [registry.default]
//! type = "consul"
//! address = "http://127.0.0.1:8500"
//! token = { env = "CONSUL_TOKEN" }
//! datacenter = "dc1"
//! tags = ["http"]        # only instances that carry them all
//! passing_only = true    # only instances whose checks all pass
//! wait = "60s"           # how long Consul may hold a question until something changes
//! ```
//!
//! Changes are followed with blocking queries on the health endpoint. A service that is not in the
//! catalog is unknown; one that is, with no instance that passes, is known and empty.
//!
//! What Consul says is believed. An agent that comes back calls instances with a time to live
//! critical until they renew, so they are out until then; instances without checks stay.
//!
//! Registering goes to the agent at `address`, with a check of the instance's time to live if it has
//! one, and an agent only takes away what was registered with it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use portcullis_config::units::{self, Secret};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::http::{Http, Reply};
use super::{
    Address, BuildError, Instance, InstanceId, Registration, Registry, RegistryContext, RegistryError, RegistryPlugin,
    Service, ServiceName,
};

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
const INDEX: &str = "x-consul-index";

/// How long Consul may take for what it need not wait for.
const ANSWER: Duration = Duration::from_secs(5);
/// One watch asks no more often than this, however fast things change or a broken Consul answers.
const PACE: Duration = Duration::from_millis(100);
/// How long a watch waits for one of the connections that may be held, before it asks without being held.
const TURN: Duration = Duration::from_secs(2);
/// Connections for questions that are not held.
const BRIEF: usize = 32;

/// Follows the services of a Consul agent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Consul {
    /// Where the agent answers, for example `http://127.0.0.1:8500`.
    address: String,
    /// The ACL token to ask with.
    token: Option<Secret>,
    /// The datacenter to ask about; the agent's own unless given.
    datacenter: Option<String>,
    /// Only instances that carry all of these.
    tags: BTreeSet<String>,
    /// Only instances whose checks all pass.
    passing_only: bool,
    /// How long Consul may hold a question until something changes.
    wait: units::Duration,
    /// How many services are followed by questions that Consul holds, each on a connection of its own;
    /// further ones are asked for every two seconds. Consul takes 200 connections of one client unless
    /// told otherwise.
    connections: NonZeroUsize,
}

impl Default for Consul {
    fn default() -> Self {
        Self {
            address: "http://127.0.0.1:8500".to_owned(),
            token: None,
            datacenter: None,
            tags: BTreeSet::new(),
            passing_only: true,
            wait: units::Duration::from_secs(60),
            connections: NonZeroUsize::new(128).expect("not zero"),
        }
    }
}

impl RegistryPlugin for Consul {
    const NAME: &'static str = "consul";
    const EXAMPLE: &'static str = r#"address = "http://127.0.0.1:8500"
datacenter = "dc1"
tags = ["http"]"#;

    fn build(self, _: &RegistryContext) -> Result<Arc<dyn Registry>, BuildError> {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static("portcullis"));
        if let Some(token) = &self.token {
            let mut token = HeaderValue::from_str(token.expose())
                .map_err(|_| BuildError::at("token", "has characters that a header cannot carry"))?;
            token.set_sensitive(true);
            headers.insert(TOKEN, token);
        }
        let wait = self.wait.get();
        // Consul itself cuts off at ten minutes.
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&wait) {
            return Err(BuildError::at("wait", "must be between \"1s\" and \"10m\""));
        }
        let http = Http::new(&self.address, headers).map_err(|why| BuildError::at("address", why))?;
        Ok(Arc::new(ConsulRegistry(Arc::new(Agent {
            http,
            datacenter: self.datacenter.map(|name| format!("&dc={}", escape(&name))).unwrap_or_default(),
            passing_only: self.passing_only,
            tags: self.tags,
            wait,
            held: Semaphore::new(self.connections.get()),
            brief: Semaphore::new(BRIEF),
        }))))
    }
}

/// A Consul agent as a registry.
#[derive(Debug)]
struct ConsulRegistry(Arc<Agent>);

#[async_trait]
impl Registry for ConsulRegistry {
    async fn register(&self, registration: Registration) -> Result<(), RegistryError> {
        let id = registration.instance.id.clone();
        if id.as_str().contains('/') {
            return Err(RegistryError::Refused(format!(
                "Consul cannot take away what is called `{id}`: it has a slash in it"
            )));
        }
        let mortal = registration.ttl.is_some();
        let new = NewService::try_from(registration)?;
        let body = serde_json::to_vec(&new).map_err(|error| RegistryError::Refused(error.to_string()))?;
        accept(self.0.put("/v1/agent/service/register?replace-existing-checks=true", body).await?)?;
        if mortal {
            let check = escape(&format!("service:{id}"));
            accept(self.0.put(&format!("/v1/agent/check/pass/{check}"), Bytes::new()).await?)?;
        }
        Ok(())
    }

    async fn deregister(&self, instance: &InstanceId) -> Result<(), RegistryError> {
        let path = format!("/v1/agent/service/deregister/{}", escape(instance.as_str()));
        let reply = self.0.put(&path, Bytes::new()).await?;
        // Later versions say that it is not there, which is what was asked for.
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        accept(reply).map(drop)
    }

    async fn get_service(&self, name: &ServiceName) -> Result<Service, RegistryError> {
        self.0.health(name, None).await?.0
    }

    async fn list_services(&self) -> Result<Vec<ServiceName>, RegistryError> {
        let path = format!("/v1/catalog/services?{}", self.0.datacenter);
        let (services, _) = self.0.get::<BTreeMap<String, Option<BTreeSet<String>>>>(&path).await?;
        let offered =
            services.into_iter().filter(|(_, tags)| self.0.tags.is_subset(tags.as_ref().unwrap_or(&BTreeSet::new())));
        // Consul takes names that nobody could ask for here. They are left out.
        Ok(offered.filter_map(|(name, _)| name.parse().ok()).collect())
    }

    fn watch(&self, name: &ServiceName) -> BoxStream<'static, Result<Service, RegistryError>> {
        stream::unfold(Some(Watch::new(&self.0, name)), async |watch| Some(watch?.next().await)).boxed()
    }
}

/// What a question needs.
#[derive(Debug)]
struct Agent {
    http: Http,
    datacenter: String,
    tags: BTreeSet<String>,
    passing_only: bool,
    wait: Duration,
    held: Semaphore,
    brief: Semaphore,
}

/// What Consul says of a service: that it is there, or that it is [not](RegistryError::NotFound).
type State = Result<Service, RegistryError>;

impl Agent {
    /// The state of a service and its index; with an index to wait on, as soon as it differs.
    async fn health(&self, name: &ServiceName, index: Option<u64>) -> Result<(State, u64), RegistryError> {
        let mut path = format!("/v1/health/service/{}?{}", escape(name.as_str()), self.datacenter);
        if self.passing_only {
            path += "&passing=1";
        }
        for tag in &self.tags {
            path += &format!("&tag={}", escape(tag));
        }
        let held = match index {
            Some(index) => timeout(TURN, self.held.acquire()).await.ok().map(|turn| (turn, index)),
            None => None,
        };
        let (entries, index): (Vec<Entry>, _) = match held {
            Some((_turn, index)) => {
                path += &format!("&index={index}&wait={}s", self.wait.as_secs());
                // Consul spreads its answers over another sixteenth of the wait.
                self.read(&path, self.wait + self.wait / 16 + ANSWER).await?
            }
            None => self.get(&path).await?,
        };
        let index = index.ok_or_else(|| RegistryError::Malformed(format!("there is no {INDEX} in it")))?;
        if entries.is_empty() && !self.knows(name).await? {
            return Ok((Err(RegistryError::NotFound(name.clone())), index));
        }
        let service = Service { name: name.clone(), instances: instances(name, entries) };
        Ok((Ok(service), index))
    }

    /// Whether the catalog has the service at all, healthy or not.
    async fn knows(&self, name: &ServiceName) -> Result<bool, RegistryError> {
        let path = format!("/v1/catalog/service/{}?{}", escape(name.as_str()), self.datacenter);
        let (entries, _) = self.get::<Vec<serde::de::IgnoredAny>>(&path).await?;
        Ok(!entries.is_empty())
    }

    /// Asks for what Consul knows now.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<(T, Option<u64>), RegistryError> {
        let _turn = self.brief.acquire().await;
        self.read(path, ANSWER).await
    }

    async fn read<T: DeserializeOwned>(&self, path: &str, limit: Duration) -> Result<(T, Option<u64>), RegistryError> {
        let reply = accept(self.http.send(Method::GET, path, Bytes::new(), limit).await?)?;
        let index = reply.headers.get(INDEX).and_then(|index| index.to_str().ok()?.parse().ok());
        let answer =
            serde_json::from_slice(&reply.body).map_err(|error| RegistryError::Malformed(error.to_string()))?;
        Ok((answer, index))
    }

    async fn put(&self, path: &str, body: impl Into<Bytes>) -> Result<Reply, RegistryError> {
        let _turn = self.brief.acquire().await;
        self.http.send(Method::PUT, path, body.into(), ANSWER).await
    }
}

/// One service, followed by Consul's rules for blocking queries.
struct Watch {
    agent: Arc<Agent>,
    name: ServiceName,
    /// The index of the last state; none asks for the current one at once.
    index: Option<u64>,
    next: Instant,
}

impl Watch {
    fn new(agent: &Arc<Agent>, name: &ServiceName) -> Self {
        Self { agent: Arc::clone(agent), name: name.clone(), index: None, next: Instant::now() }
    }

    /// The next state, also when nothing changed for the whole wait: it says that contact holds. An
    /// error is the last item.
    async fn next(mut self) -> (State, Option<Self>) {
        sleep_until(self.next).await;
        self.next = Instant::now() + PACE;
        match self.agent.health(&self.name, self.index).await {
            Ok((state, index)) => {
                // It went backwards: Consul was restored from a backup, say, and the old index
                // means nothing. And an index of 0 would not block at all.
                let reset = self.index.is_some_and(|old| index < old);
                self.index = (!reset).then_some(index.max(1));
                (state, Some(self))
            }
            Err(error) => (Err(error), None),
        }
    }
}

/// Tells answers from refusals and from failures.
fn accept(reply: Reply) -> Result<Reply, RegistryError> {
    let status = reply.status;
    if status.is_success() {
        return Ok(reply);
    }
    let text: String = String::from_utf8_lossy(&reply.body).trim().chars().take(200).collect();
    let why = format!("{status}: {text}");
    Err(match status {
        StatusCode::TOO_MANY_REQUESTS => RegistryError::Unreachable(why),
        _ if status.is_client_error() => RegistryError::Refused(why),
        _ if status.is_server_error() => RegistryError::Unreachable(why),
        _ => RegistryError::Malformed(why),
    })
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: EntryNode,
    service: EntryService,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EntryNode {
    node: String,
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EntryService {
    #[serde(rename = "ID")]
    id: String,
    address: String,
    port: u32,
    tags: Option<BTreeSet<String>>,
    meta: Option<BTreeMap<String, String>>,
    weights: Option<Weights>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u32,
    warning: u32,
}

/// The instances in an answer, in the order of their ids, without those that cannot be connected to.
fn instances(name: &ServiceName, entries: Vec<Entry>) -> Vec<Instance> {
    let mut ids = HashSet::new();
    let mut instances = Vec::with_capacity(entries.len());
    for Entry { node, service } in entries {
        // An id is the node's own: two nodes may use the same.
        let id = if ids.insert(service.id.clone()) { service.id } else { format!("{}@{}", service.id, node.node) };
        let host = if service.address.is_empty() { node.address } else { service.address };
        match (id.parse(), address(&host, service.port)) {
            (Ok(id), Ok(address)) => instances.push(Instance {
                id,
                address,
                weight: service.weights.map_or(1, |weights| weights.passing),
                metadata: service.meta.unwrap_or_default(),
                tags: service.tags.unwrap_or_default(),
            }),
            (id, address) => {
                let error = id.err().map(|error| error.to_string()).or(address.err());
                debug!(service = %name, error, "instance left out: nobody could connect to it");
            }
        }
    }
    instances.sort_by(|one, other| one.id.cmp(&other.id));
    instances
}

fn address(host: &str, port: u32) -> Result<Address, String> {
    let bracketed = host.contains(':');
    if bracketed { format!("[{host}]:{port}") } else { format!("{host}:{port}") }.parse()
}

/// A registration in Consul's words.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NewService {
    #[serde(rename = "ID")]
    id: InstanceId,
    name: ServiceName,
    address: String,
    port: u16,
    tags: BTreeSet<String>,
    meta: BTreeMap<String, String>,
    weights: Weights,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<NewCheck>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NewCheck {
    #[serde(rename = "TTL")]
    ttl: String,
    status: &'static str,
    /// When an instance that did not renew is not even listed any more. Consul takes no less than a minute.
    deregister_critical_service_after: String,
}

impl TryFrom<Registration> for NewService {
    type Error = RegistryError;

    fn try_from(Registration { service, instance, ttl }: Registration) -> Result<Self, RegistryError> {
        let (address, port) = match instance.address {
            Address::Ip(address) => (address.ip().to_string(), address.port()),
            Address::Name { host, port } => (host, port),
            Address::Unix(_) => return Err(RegistryError::Refused("Consul takes no unix sockets".to_owned())),
        };
        let milliseconds = |time: Duration| format!("{}ms", time.as_millis().max(1));
        Ok(Self {
            id: instance.id,
            name: service,
            address,
            port,
            tags: instance.tags,
            meta: instance.metadata,
            weights: Weights { passing: instance.weight, warning: 1 },
            check: ttl.map(|ttl| NewCheck {
                ttl: milliseconds(ttl),
                status: "passing",
                deregister_critical_service_after: milliseconds(ttl.saturating_mul(10).max(Duration::from_secs(60))),
            }),
        })
    }
}

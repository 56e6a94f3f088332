//! A checked configuration, built: names resolved, plugins made, chains folded, routes compiled.
//!
//! `File --build--> Plan`. The file is what was written and may be wrong; a plan cannot be. Building touches no network
//! and binds nothing, so `portcullis check` does exactly what a start or a reload does, short of going live.

mod chains;
mod doors;
mod overlaps;
mod registries;
mod rewrites;
mod services;
mod survey;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use portcullis_config::units::ListenAddress;
use portcullis_config::{self as config, AccessLog, Document, Faults, File, Place, Route, RouteTimeouts};
use portcullis_middleware::plugin::{Shared, Task};
use portcullis_middleware::{Next, RouteInfo, RouteLayer};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::edge::Door;
use crate::plugins::Plugins;
use crate::proxy::{Pools, Upstream};
use crate::registry::Live;
use crate::{proxy_protocol, tls};
use chains::Middlewares;
use registries::Registries;
use services::ServiceBook;

/// How long a plugin's task may go on after its plan is gone.
const TASKS_END: Duration = Duration::from_secs(2);

/// What outlives a plan: the next one takes over whatever is still the same.
#[derive(Default)]
pub struct Carry {
    /// Plugins' shared state.
    pub shared: Shared,
    /// Registries by name and settings. They live as long as a plan holds them.
    pub registries: Mutex<HashMap<(String, String), std::sync::Weak<Live>>>,
    /// Connections to instances.
    pub pools: Arc<Pools>,
    /// TLS' keys and sessions.
    pub tls: tls::Shared,
    /// What became of PROXY protocol headers.
    pub headers: Arc<proxy_protocol::Counts>,
}

/// A configuration that was checked and built; the server only ever sees a plan.
pub struct Plan {
    file: Option<File>,
    doors: Vec<Arc<Door>>,
    routes: Vec<Arc<PlannedRoute>>,
    services: Arc<ServiceBook>,
    tasks: Mutex<Vec<Task>>,
    retired: CancellationToken,
}

/// A middleware in its place in a chain.
#[derive(Debug, Clone)]
pub struct Link {
    /// Its name in the file, or its type if it has none.
    pub name: String,
    /// Its type.
    pub type_name: String,
    /// Where its settings are written.
    pub place: Place,
    /// Whether it decides who may pass.
    pub decides_access: bool,
    /// The middleware.
    pub layer: RouteLayer,
}

/// Routes as they are written and as they were built, in file order.
type Routes<'a> = [(&'a Route, Arc<PlannedRoute>)];

/// A route as it was built.
#[derive(Debug)]
pub struct PlannedRoute {
    /// Its name and place.
    pub info: Arc<RouteInfo>,
    /// The listeners that serve it.
    pub listeners: Vec<String>,
    /// Its middlewares, in order.
    pub chain: Vec<Link>,
    /// What answers it.
    pub answer: PlannedAnswer,
    /// The clocks of the whole route.
    pub timeouts: RouteTimeouts,
    /// The route as one chain.
    pub next: Next,
}

/// What answers a route.
#[derive(Debug)]
pub enum PlannedAnswer {
    /// Services, one of them for each request.
    Services(Vec<Branch>),
    /// The gateway itself, with this status.
    Respond(u16),
    /// The gateway itself, by sending the client elsewhere.
    Redirect(u16),
}

/// One of the services a route can send to.
#[derive(Debug)]
pub struct Branch {
    /// The service's name in the file, or `{capture}`.
    pub service: String,
    /// Its share; 1 where there is only one.
    pub weight: u32,
    /// The branch's own middlewares.
    pub chain: Vec<Link>,
}

/// Reads and builds a file, for `check`: nothing of it goes live.
pub fn check(path: &Path, plugins: &Plugins) -> (Option<Plan>, Faults) {
    read(path, plugins, &Carry::default())
}

/// Reads a file and builds its plan. Whatever is wrong with it is in the faults.
pub fn read(path: &Path, plugins: &Plugins, carry: &Carry) -> (Option<Plan>, Faults) {
    let mut faults = Faults::default();
    let document = Document::read(path, &mut faults);
    let plan = document.and_then(|document| of(&document, path.parent(), plugins, carry, &mut faults));
    (plan, faults)
}

/// Builds the plan of a document. If that is no file, its plugins' tables are looked at all the same.
pub fn of(
    document: &Document,
    directory: Option<&Path>,
    plugins: &Plugins,
    carry: &Carry,
    faults: &mut Faults,
) -> Option<Plan> {
    if let Err(conflict) = plugins.unambiguous() {
        faults.error_without_place(conflict);
        return None;
    }
    let directory = directory.filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(file) = File::of(document, faults) else {
        survey::survey(document, directory, plugins, faults);
        return None;
    };
    build(file, directory, plugins, carry, faults)
}

/// Builds a plan. Every fault that can be found is found in one run; with any error there is no plan.
fn build(file: File, directory: &Path, plugins: &Plugins, carry: &Carry, faults: &mut Faults) -> Option<Plan> {
    let registries = Registries::build(&file, directory, plugins, carry, faults);
    let mut files = tls::Files::default();
    let secure = carry.tls.upstreams.builder(directory, &mut files);
    let services = Arc::new(ServiceBook::build(&file, registries, &carry.pools, secure, faults));
    let mut middlewares = Middlewares::build(&file, directory, plugins, &carry.shared, services.clone(), faults);
    let routes = middlewares.routes(faults);
    overlaps::report(&file, &routes, faults);
    let mut doors = doors::build(&file, &routes, &mut middlewares, &carry.headers, faults);
    doors::secure(&mut doors, &file, directory, &carry.tls, &mut files, faults);
    let mut tasks = middlewares.into_tasks();
    tasks.push(services.tidy());
    tasks.extend(files.follow());
    services.settle();
    if faults.has_errors() {
        return None;
    }
    let routes = routes.into_iter().map(|(_, planned)| planned).collect();
    let doors = doors.into_iter().map(Arc::new).collect();
    let tasks = Mutex::new(tasks);
    Some(Plan { doors, routes, services, tasks, retired: CancellationToken::new(), file: Some(file) })
}

impl Plan {
    /// A plan that serves nothing: what there is before the first one.
    pub fn empty() -> Self {
        Self {
            file: None,
            doors: Vec::new(),
            routes: Vec::new(),
            services: Arc::default(),
            tasks: Mutex::default(),
            retired: CancellationToken::new(),
        }
    }

    /// The addresses to bind.
    pub fn doors(&self) -> impl Iterator<Item = &Arc<Door>> {
        self.doors.iter()
    }

    /// What happens at one address.
    pub fn door(&self, address: &ListenAddress) -> Option<Arc<Door>> {
        self.doors.iter().find(|door| door.address == *address).cloned()
    }

    /// What happens at the address of a listener.
    pub fn door_of(&self, listener: &str) -> Option<Arc<Door>> {
        self.doors.iter().find(|door| door.names.iter().any(|name| &**name == listener)).cloned()
    }

    /// Where the admin API listens, if it does.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.file.as_ref()?.admin.as_ref().map(|admin| admin.address.tcp())
    }

    /// How many threads serve.
    pub fn workers(&self) -> usize {
        let written = self.file.as_ref().and_then(|file| file.workers);
        written.or_else(|| std::thread::available_parallelism().ok()).map_or(1, std::num::NonZeroUsize::get)
    }

    /// Where the access log goes.
    pub fn access_log(&self) -> AccessLog {
        self.file.as_ref().map(|file| file.access_log.clone()).unwrap_or_default()
    }

    /// The routes, in file order.
    pub fn routes(&self) -> &[Arc<PlannedRoute>] {
        &self.routes
    }

    /// The route that a request's exchange names.
    pub fn route(&self, info: &RouteInfo) -> Option<&Arc<PlannedRoute>> {
        self.routes.iter().find(|route| *route.info == *info)
    }

    /// Every service that the plan knows by name, ordered by name.
    pub fn services(&self) -> Vec<Arc<Upstream>> {
        self.services.all()
    }

    /// The service of this name, if the plan knows it.
    pub fn service(&self, name: &str) -> Option<Arc<Upstream>> {
        self.services.known(name)
    }

    /// The registries, in file order.
    pub fn registries(&self) -> &[Arc<Live>] {
        self.services.registries()
    }

    /// The registry of this name.
    pub fn registry(&self, name: &str) -> Option<&Arc<Live>> {
        self.registries().iter().find(|live| live.name() == name)
    }

    /// The registries' names, for a sentence.
    pub fn registry_names(&self) -> String {
        let names: Vec<_> = self.registries().iter().map(|live| format!("`{}`", live.name())).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    /// What there is, in a few words.
    pub fn summary(&self) -> String {
        let listeners: usize = self.doors.iter().map(|door| door.names.len()).sum();
        let count = |number: usize, one: &str| format!("{number} {one}{}", if number == 1 { "" } else { "s" });
        format!(
            "{}, {}, {}",
            count(listeners, "listener"),
            count(self.routes.len(), "route"),
            count(self.services().len(), "service")
        )
    }

    /// The file it was built from; the empty plan has none.
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// A place of the file as one writes it: `gateway.toml:31`.
    pub fn at(&self, place: Place) -> String {
        format!("{}:{}", self.file_name(), place.line)
    }

    /// The registry that knows a service's instances; `None` if the file lists them.
    pub fn registry_of(&self, service: &str) -> Option<String> {
        let declared = self.file.iter().flat_map(|file| &file.services).find(|named| named.name.value == service);
        match declared.map(|named| &named.value) {
            Some(service) if service.instances.is_some() => None,
            Some(config::Service { registry: Some(registry), .. }) => Some(registry.value.clone()),
            _ => self.registry(config::DEFAULT_REGISTRY).map(|live| live.name().to_owned()),
        }
    }

    /// Starts what runs beside the requests: registries and plugins' tasks. The tracker knows the tasks that still run.
    pub fn go_live(&self, runtime: &Handle, running: &TaskTracker) {
        for live in self.registries() {
            live.start(runtime);
        }
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        for task in tasks {
            let stop = self.retired.clone();
            let task = task(stop.clone());
            let bounded = async move {
                tokio::pin!(task);
                tokio::select! {
                    () = &mut task => {}
                    () = stop.cancelled() => drop(tokio::time::timeout(TASKS_END, task).await),
                }
            };
            running.spawn_on(bounded, runtime);
        }
    }

    /// Ends what [`go_live`](Plan::go_live) started. Requests in flight may still use the plan.
    pub fn retire(&self) {
        self.retired.cancel();
    }

    /// Waits until every service has heard from its registry once, but no longer than `limit`. Returns whether all have.
    pub async fn first_states(&self, limit: Duration) -> bool {
        let services = self.services();
        let heard = join_all(services.iter().map(|service| service.service().first_state(limit))).await;
        heard.into_iter().all(|heard| heard)
    }

    /// What the file is called in reports.
    pub fn file_name(&self) -> &str {
        self.file.as_ref().map_or("no file", |file| &file.document.name)
    }

    /// The file's text. It may hold secrets.
    pub fn text(&self) -> &str {
        self.file.as_ref().map_or("", |file| &file.document.text)
    }

    /// What the file consists of. Titles only: contents may hold secrets.
    pub fn sections(&self) -> Vec<String> {
        let sections = self.file.as_ref().map(|file| file.document.sections()).unwrap_or_default();
        sections.into_iter().map(|section| section.title).collect()
    }

    /// A number that changes with the file's text, to see at a glance whether two gateways serve the same.
    pub fn file_hash(&self) -> String {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.file.as_ref().map(|file| &file.document.text).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    /// How this plan differs from another, in one line for the log.
    pub fn difference(&self, old: &Plan) -> String {
        let sections = |plan: &Plan| -> HashMap<String, String> {
            let document = plan.file.as_ref().map(|file| &file.document);
            let sections = document.map(portcullis_config::Document::sections).unwrap_or_default();
            sections.into_iter().map(|section| (section.title, section.content)).collect()
        };
        let (before, after) = (sections(old), sections(self));
        let names: HashSet<_> = before.keys().chain(after.keys()).collect();
        let (mut kept, mut changed, mut added, mut removed) = (0, Vec::new(), Vec::new(), Vec::new());
        for name in names {
            match (before.get(name), after.get(name)) {
                (Some(before), Some(after)) if before == after => kept += 1,
                (Some(_), Some(_)) => changed.push(name.as_str()),
                (None, _) => added.push(name.as_str()),
                (_, None) => removed.push(name.as_str()),
            }
        }
        let mut line = format!("{kept} sections kept");
        for (what, mut names) in [("changed", changed), ("added", added), ("removed", removed)] {
            if !names.is_empty() {
                names.sort_unstable();
                line.push_str(&format!("; {what}: {}", names.join(", ")));
            }
        }
        line
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        self.retire();
    }
}

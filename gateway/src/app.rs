//! The life of a gateway: start, serve, reload, drain.
//!
//! One [`App`] owns the sockets and the plan behind them. A reload builds a whole new plan beside the old one; only when
//! nothing is wrong with it, and every new address is bound, does it take over. Requests in flight finish on the plan
//! they began with.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use portcullis_config::units::ListenAddress;
use portcullis_config::{Document, Faults};
use portcullis_middleware::follow::{self, Follow};
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::admin;
use crate::cli::{self, SOFTWARE, UNAVAILABLE, USAGE};
use crate::edge::{Door, Edge};
use crate::gateway::Gateway;
use crate::observe::Observer;
use crate::plan::Plan;
use crate::plugins::Plugins;
use crate::server::{self, Socket};
use crate::unavailable::Unavailable;
use crate::workers::{Fallen, Workers};

/// How long requests in flight may take to finish once the gateway was told to stop.
const DRAIN: Duration = Duration::from_secs(30);
/// The same if a worker has died: the others' requests are worth a moment, but the gateway must come back soon.
const DRAIN_WITHOUT_A_WORKER: Duration = Duration::from_secs(5);
/// How long connections may take to be gone that were cut.
const CUT: Duration = Duration::from_secs(1);
/// How long the start waits for the registries' first answers. Without them it starts all the same.
const FIRST_STATES: Duration = Duration::from_secs(2);
/// A registry that is well answers sooner than this. Longer, and the log says what is waited for.
const PROMPT: Duration = Duration::from_millis(200);

/// `portcullis run`: from the command line to the exit code.
pub fn run(run: cli::Run, plugins: Plugins) -> ExitCode {
    if let Err(sentence) = run.log.start() {
        return cli::fail(USAGE, &sentence);
    }
    let gateway = Gateway::new(plugins);
    let (plan, faults) = gateway.plan_file(&run.file);
    cli::report(&faults);
    let Some(plan) = plan else { return ExitCode::from(USAGE) };

    let runtime = match control() {
        Ok(runtime) => runtime,
        Err(error) => return cli::fail(UNAVAILABLE, &format!("cannot start: {error}")),
    };
    let code = runtime.block_on(async {
        match App::start(gateway, plan, Some(run.file)).await {
            Ok(app) => match app.until_stopped().await {
                Ok(()) => ExitCode::SUCCESS,
                Err(fallen) => cli::fail(SOFTWARE, &fallen.to_string()),
            },
            Err(error) => cli::fail(UNAVAILABLE, &error.to_string()),
        }
    });
    // What is still running was told to stop and had its time.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// The runtime of everything that is no request: one thread, this one. What serves is on the [`Workers`].
pub(crate) fn control() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// A running gateway with its sockets.
pub struct App {
    gateway: Arc<Gateway>,
    file: Option<PathBuf>,
    workers: Workers,
    /// The text that was read last, whether or not it could be used.
    read: Arc<str>,
    signals: Signals,
    doors: HashMap<ListenAddress, Open>,
    /// Addresses that a reload gave up, while their last requests finish.
    leaving: Vec<server::Handle>,
    admin: Option<server::Handle>,
    orders: mpsc::Receiver<Order>,
    // Kept so that the channel stays open without an admin listener.
    _give_orders: mpsc::Sender<Order>,
}

/// The signals that are waited for.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// One bound address, and what serves there.
struct Open {
    /// One per worker.
    edges: Vec<Arc<Edge>>,
    server: server::Handle,
}

/// What others may ask of the running gateway.
pub enum Order {
    /// Read the file again; the answer says how it went.
    Reload(oneshot::Sender<Reloaded>),
}

/// How a reload went.
pub enum Reloaded {
    /// The new plan serves; what changed, in one line, and the warnings.
    Live(String, Faults),
    /// The file is wrong; the old plan keeps serving.
    Refused(Faults),
    /// The file is right, but something it wants cannot be had; the old plan keeps serving.
    Unavailable(String),
}

impl App {
    /// Starts as many workers as the plan says, binds every address, then serves. Nothing is served if anything it needs
    /// cannot be had. The current runtime is the control runtime from now on; no request runs on it.
    pub async fn start(gateway: Gateway, plan: Plan, file: Option<PathBuf>) -> Result<Self, Unavailable> {
        let count = plan.workers();
        let workers = Workers::start(count).map_err(|error| Unavailable::Workers { count, error })?;
        Self::start_on(workers, gateway, plan, file).await
    }

    /// The same on workers that were started already. With [`Workers::here`] everything runs on the current runtime.
    pub async fn start_on(
        workers: Workers,
        gateway: Gateway,
        plan: Plan,
        file: Option<PathBuf>,
    ) -> Result<Self, Unavailable> {
        // First of all: a signal that comes while the gateway starts is heard once it has.
        let signals = Signals::listen();
        let gateway = Arc::new(gateway);
        gateway.observer().tell_of(workers.crew());
        let control = Workers::here();
        let sockets = bind(&workers, plan.doors())?;
        let admin_socket = match plan.admin() {
            Some(address) => Some(control.bind(address, &["admin"])?),
            None => None,
        };

        let plan = gateway.prepare(plan, &Handle::current())?;
        if !plan.first_states(PROMPT).await {
            info!(seconds = FIRST_STATES.as_secs(), "waiting for a registry; who connects waits too, but no longer");
            plan.first_states(FIRST_STATES - PROMPT).await;
        }

        let read = plan.text().into();
        gateway.take_over(plan);
        let mut doors = HashMap::new();
        for (door, socket) in sockets {
            doors.insert(door.address.clone(), Open::new(&workers, &door, socket, &gateway.observer()));
        }
        let (give_orders, orders) = mpsc::channel(16);
        let admin = admin_socket.map(|socket| admin::start(&control, socket, gateway.clone(), give_orders.clone()));
        if let Some(address) = admin.as_ref().map(server::Handle::address) {
            info!(%address, "the admin API listens");
        }
        let leaving = Vec::new();
        gateway.set_ready(true);
        Ok(Self { gateway, file, workers, read, signals, doors, leaving, admin, orders, _give_orders: give_orders })
    }

    /// The address that a listener was really bound to; differs from the file's for port 0.
    pub fn bound(&self, address: SocketAddr) -> Option<SocketAddr> {
        self.doors.get(&address.into())?.server.address().tcp()
    }

    /// The address of the admin listener.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.address().tcp()
    }

    /// Serves until SIGTERM or SIGINT, reloading on SIGHUP, on a change of the file and when asked; then drains.
    ///
    /// A worker that dies ends it too: who runs the gateway can start it anew, and would not notice half a gateway.
    pub async fn until_stopped(mut self) -> Result<(), Fallen> {
        let mut follow = self.file.as_deref().map(|file| Follow::since(file, self.gateway.plan().text().as_bytes()));
        let ended = loop {
            let why = tokio::select! {
                _ = self.signals.terminate.recv() => break Ok(()),
                _ = self.signals.interrupt.recv() => break Ok(()),
                fallen = self.workers.fallen() => break Err(fallen),
                _ = self.signals.hang_up.recv() => {
                    self.gateway.reopen_log();
                    "SIGHUP"
                }
                content = changed(&mut follow) => {
                    // Somebody may have asked for the reload before the change was noticed.
                    if content == self.read.as_bytes() {
                        continue;
                    }
                    "the file changed"
                }
                Some(Order::Reload(answer)) = self.orders.recv() => {
                    let reloaded = self.reload("asked by the admin API").await;
                    let _ = answer.send(reloaded);
                    continue;
                }
            };
            self.reload(why).await;
        };
        if let Err(fallen) = &ended {
            error!("{fallen}");
        }
        self.drain(if ended.is_ok() { DRAIN } else { DRAIN_WITHOUT_A_WORKER }).await;
        ended
    }

    /// All or nothing: a new plan, or the old one and the reasons.
    async fn reload(&mut self, why: &'static str) -> Reloaded {
        let Some(file) = self.file.clone() else {
            return Reloaded::Unavailable("this gateway was not started from a file".to_owned());
        };
        let reloaded = self.try_reload(&file).await;
        let reloaded = reloaded.unwrap_or_else(|unavailable| Reloaded::Unavailable(unavailable.to_string()));
        self.gateway.note_reload(&reloaded);
        match &reloaded {
            Reloaded::Live(changes, faults) => {
                if !faults.is_empty() {
                    warn!(file = %file.display(), "the new configuration has warnings:\n{}", faults.render(false));
                }
                info!(file = %file.display(), why, changes, "reloaded");
            }
            Reloaded::Refused(faults) => error!(
                file = %file.display(),
                why,
                "the new configuration is refused, the old one keeps serving:\n{}",
                faults.render(false)
            ),
            Reloaded::Unavailable(reason) => {
                error!(file = %file.display(), why, reason, "the new configuration is refused, the old one keeps serving");
            }
        }
        reloaded
    }

    async fn try_reload(&mut self, file: &Path) -> Result<Reloaded, Unavailable> {
        let mut faults = Faults::new();
        // The start may wait for what is written into a pipe; whoever serves may not.
        if let Err(error) = follow::open(file) {
            faults.error_without_place(format!("cannot read `{}`: {error}", file.display()));
            return Ok(Reloaded::Refused(faults));
        }
        let Some(document) = Document::read(file, &mut faults) else { return Ok(Reloaded::Refused(faults)) };
        self.read = document.text.clone();
        let Some(plan) = self.gateway.plan_of(&document, file.parent(), &mut faults) else {
            return Ok(Reloaded::Refused(faults));
        };
        let old = self.gateway.plan();
        if plan.workers() != self.workers.count() {
            let said = format!("`workers` changes only with a restart; there are still {}", self.workers.count());
            faults.warning_without_place(said);
        }
        if plan.admin() != old.admin() {
            let sentence = "the admin listener's address changes only with a restart";
            return Ok(Reloaded::Unavailable(sentence.to_owned()));
        }

        let changes = plan.difference(&old);
        let sockets = bind(&self.workers, plan.doors().filter(|door| !self.doors.contains_key(&door.address)))?;
        let plan = self.gateway.prepare(plan, &Handle::current())?;
        // Registries that are new get the same chance as at the start; meanwhile the old plan serves.
        plan.first_states(FIRST_STATES).await;

        // From here on nothing can fail.
        for (address, open) in std::mem::take(&mut self.doors) {
            match plan.door(&address) {
                Some(door) => {
                    open.edges.iter().for_each(|edge| edge.swap(door.clone()));
                    open.server.manners_changed();
                    self.doors.insert(address, open);
                }
                None => {
                    open.server.drain();
                    self.leaving.push(open.server);
                }
            }
        }
        for (door, socket) in sockets {
            self.doors.insert(door.address.clone(), Open::new(&self.workers, &door, socket, &self.gateway.observer()));
        }
        self.leaving.retain(|server| server.open() > 0);
        self.gateway.take_over(plan);
        Ok(Reloaded::Live(changes, faults))
    }

    /// Not ready, no new connections, requests in flight finish; a second signal cuts that short.
    async fn drain(mut self, limit: Duration) {
        // Who asks for a reload now is told that it is too late.
        drop(self.orders);
        self.gateway.set_ready(false);
        let servers: Vec<_> = self.doors.into_values().map(|open| open.server).chain(self.leaving).collect();
        let connections: usize = servers.iter().map(server::Handle::open).sum();
        servers.iter().for_each(server::Handle::drain);
        info!(connections, "draining");
        tokio::select! {
            _ = join_all(servers.iter().map(server::Handle::closed)) => info!("every connection is closed"),
            () = tokio::time::sleep(limit) => warn!(seconds = limit.as_secs(), "connections were still open; they are cut"),
            _ = self.signals.terminate.recv() => warn!("told to stop again; open connections are cut"),
            _ = self.signals.interrupt.recv() => warn!("told to stop again; open connections are cut"),
        }
        servers.iter().for_each(server::Handle::cut);
        // What was cut is remembered before the log is closed.
        let _ = timeout(CUT, join_all(servers.iter().map(server::Handle::closed))).await;
        self.gateway.shut_down().await;
        self.workers.end().await;
        info!("stopped");
    }
}

impl Signals {
    fn listen() -> Self {
        let listen = |kind| signal(kind).expect("the runtime handles signals");
        Self {
            terminate: listen(SignalKind::terminate()),
            interrupt: listen(SignalKind::interrupt()),
            hang_up: listen(SignalKind::hangup()),
        }
    }
}

/// Binds the addresses of these doors, all or none.
fn bind<'a>(
    workers: &Workers,
    doors: impl Iterator<Item = &'a Arc<Door>>,
) -> Result<Vec<(Arc<Door>, Socket)>, Unavailable> {
    doors.map(|door| Ok((door.clone(), workers.bind(door.address.clone(), &door.listener_names())?))).collect()
}

impl Open {
    /// Begins to serve at a door, on every worker.
    fn new(workers: &Workers, door: &Arc<Door>, socket: Socket, observer: &Arc<Observer>) -> Self {
        info!(address = %socket.address(), listeners = door.listener_names().join(","), "listening");
        let edge = |_| Arc::new(Edge::new(door.clone(), observer.clone()));
        let edges: Vec<_> = (0..workers.count()).map(edge).collect();
        Self { server: workers.open(socket, edges.clone()), edges }
    }
}

/// Waits for a change of the file; for ever without one.
async fn changed(follow: &mut Option<Follow>) -> Vec<u8> {
    match follow {
        Some(follow) => follow.changed().await,
        None => std::future::pending().await,
    }
}

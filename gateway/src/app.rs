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

use portcullis_config::Faults;
use portcullis_middleware::follow::Follow;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::admin;
use crate::cli::{self, UNAVAILABLE, USAGE};
use crate::edge::Edge;
use crate::gateway::Gateway;
use crate::plan::Plan;
use crate::plugins::Plugins;
use crate::server;
use crate::unavailable::Unavailable;

/// How long requests in flight may take to finish once the gateway was told to stop.
const DRAIN: Duration = Duration::from_secs(30);
/// How long the start waits for the registries' first answers. Without them it starts all the same.
const FIRST_STATES: Duration = Duration::from_secs(2);

/// `portcullis run`: from the command line to the exit code.
pub fn run(run: cli::Run, plugins: Plugins) -> ExitCode {
    if let Err(sentence) = run.log.start() {
        return cli::fail(USAGE, &sentence);
    }
    let gateway = Gateway::new(plugins);
    let (plan, faults) = gateway.plan_file(&run.file);
    if !faults.is_empty() {
        cli::eprint(&faults.render(std::io::IsTerminal::is_terminal(&std::io::stderr())));
    }
    let Some(plan) = plan else { return ExitCode::from(USAGE) };

    let runtime = match runtime(plan.workers()) {
        Ok(runtime) => runtime,
        Err(error) => return cli::fail(UNAVAILABLE, &format!("cannot start the workers: {error}")),
    };
    let code = runtime.block_on(async {
        match App::start(gateway, plan, Some(run.file)).await {
            Ok(app) => {
                app.until_stopped().await;
                ExitCode::SUCCESS
            }
            Err(error) => cli::fail(UNAVAILABLE, &error.to_string()),
        }
    });
    // What is still running was told to stop and had its time.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// The threads that serve.
pub(crate) fn runtime(workers: usize) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).thread_name("worker").enable_all().build()
}

/// A running gateway with its sockets.
pub struct App {
    gateway: Arc<Gateway>,
    file: Option<PathBuf>,
    /// How many threads it was started with.
    workers: usize,
    doors: HashMap<SocketAddr, Door>,
    admin: Option<admin::Running>,
    orders: mpsc::Receiver<Order>,
    // Kept so that the channel stays open without an admin listener.
    give_orders: mpsc::Sender<Order>,
}

/// One bound address.
struct Door {
    edge: Arc<Edge>,
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
    /// Binds every address of the plan, then serves. Nothing is served if anything it needs cannot be had.
    pub async fn start(gateway: Gateway, plan: Plan, file: Option<PathBuf>) -> Result<Self, Unavailable> {
        let gateway = Arc::new(gateway);
        let mut sockets = Vec::new();
        for door in plan.doors() {
            sockets.push((door.address, server::bind(door.address, &door.listener_names())?));
        }
        let admin_socket = match plan.admin() {
            Some(address) => Some(server::bind(address, &["admin"])?),
            None => None,
        };

        let plan = gateway.go_live(plan, &Handle::current())?;
        plan.first_states(FIRST_STATES).await;

        let mut doors = HashMap::new();
        for (address, socket) in sockets {
            let door = plan.door(address).expect("the sockets come from this plan's doors");
            info!(
                address = %socket.local_addr().map_or_else(|_| address.to_string(), |bound| bound.to_string()),
                listeners = door.listener_names().join(","),
                "listening"
            );
            let edge = Arc::new(Edge::new(door, gateway.observer()));
            let server = server::start(socket, edge.clone());
            doors.insert(address, Door { edge, server });
        }
        let (give_orders, orders) = mpsc::channel(16);
        let admin = admin_socket.map(|socket| admin::start(socket, gateway.clone(), give_orders.clone()));
        gateway.set_ready(true);
        let workers = plan.workers();
        Ok(Self { gateway, file, workers, doors, admin, orders, give_orders })
    }

    /// The address that a listener was really bound to; differs from the file's for port 0.
    pub fn bound(&self, address: SocketAddr) -> Option<SocketAddr> {
        self.doors.get(&address)?.server.address()
    }

    /// The address of the admin listener.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.address()
    }

    /// Serves until SIGTERM or SIGINT, reloading on SIGHUP, on a change of the file and when asked; then drains.
    pub async fn until_stopped(mut self) {
        let mut terminate = signal(SignalKind::terminate()).expect("the runtime handles signals");
        let mut interrupt = signal(SignalKind::interrupt()).expect("the runtime handles signals");
        let mut hang_up = signal(SignalKind::hangup()).expect("the runtime handles signals");
        let mut follow = self.file.as_deref().map(|file| Follow::since(file, self.gateway.plan().text().as_bytes()));
        loop {
            let why = tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hang_up.recv() => {
                    self.gateway.reopen_log();
                    "SIGHUP"
                }
                content = changed(&mut follow) => {
                    // Somebody may have asked for the reload before the change was noticed.
                    if content == self.gateway.plan().text().as_bytes() {
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
        }
        self.drain(&mut terminate, &mut interrupt).await;
    }

    /// All or nothing: a new plan, or the old one and the reasons.
    async fn reload(&mut self, why: &'static str) -> Reloaded {
        let Some(file) = self.file.clone() else {
            return Reloaded::Unavailable("this gateway was not started from a file".to_owned());
        };
        let reloaded = self.try_reload(&file).await;
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

    async fn try_reload(&mut self, file: &Path) -> Reloaded {
        let (plan, mut faults) = self.gateway.plan_file(file);
        let Some(plan) = plan else { return Reloaded::Refused(faults) };
        if plan.workers() != self.workers {
            let said = format!("`workers` changes only with a restart; there are still {}", self.workers);
            faults.warning_without_place(said);
        }

        let mut sockets = Vec::new();
        for door in plan.doors().filter(|door| !self.doors.contains_key(&door.address)) {
            match server::bind(door.address, &door.listener_names()) {
                Ok(socket) => sockets.push((door.address, socket)),
                Err(error) => return Reloaded::Unavailable(error.to_string()),
            }
        }
        if plan.admin() != self.gateway.plan().admin() {
            return Reloaded::Unavailable("the admin listener's address changes only with a restart".to_owned());
        }

        let changes = plan.difference(&self.gateway.plan());
        let plan = match self.gateway.go_live(plan, &Handle::current()) {
            Ok(plan) => plan,
            Err(unavailable) => return Reloaded::Unavailable(unavailable.to_string()),
        };
        // The registries that are new get the same chance as at the start before requests depend on them.
        plan.first_states(FIRST_STATES).await;
        for (address, socket) in sockets {
            let edge =
                Arc::new(Edge::new(plan.door(address).expect("it was asked for its doors"), self.gateway.observer()));
            let server = server::start(socket, edge.clone());
            self.doors.insert(address, Door { edge, server });
        }
        self.doors.retain(|address, open| match plan.door(*address) {
            Some(door) => {
                open.edge.swap(door);
                true
            }
            None => {
                open.server.drain();
                false
            }
        });
        Reloaded::Live(changes, faults)
    }

    /// Not ready, no new connections, requests in flight finish; a second signal cuts that short.
    async fn drain(self, terminate: &mut tokio::signal::unix::Signal, interrupt: &mut tokio::signal::unix::Signal) {
        self.gateway.set_ready(false);
        let open: usize = self.doors.values().map(|door| door.server.open()).sum();
        for door in self.doors.values() {
            door.server.drain();
        }
        info!(connections = open, "draining");
        let closed = async {
            for door in self.doors.values() {
                door.server.closed().await;
            }
        };
        tokio::select! {
            () = closed => info!("every connection is closed"),
            () = tokio::time::sleep(DRAIN) => warn!(seconds = DRAIN.as_secs(), "connections were still open; they are cut"),
            _ = terminate.recv() => warn!("told to stop again; open connections are cut"),
            _ = interrupt.recv() => warn!("told to stop again; open connections are cut"),
        }
        drop(self.give_orders);
        self.gateway.shut_down().await;
        info!("stopped");
    }
}

/// Waits for a change of the file; for ever without one.
async fn changed(follow: &mut Option<Follow>) -> Vec<u8> {
    match follow {
        Some(follow) => follow.changed().await,
        None => std::future::pending().await,
    }
}

//! A gateway without sockets: the plan that serves, what outlives plans, and what is known about both.
//!
//! [`App`](crate::app::App) puts sockets before it. To put it into an axum application instead, see [`Gateway::router`].

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use portcullis_config::{Faults, File};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::app::Reloaded;
use crate::observe::Observer;
use crate::plan::{self, Carry, Plan};
use crate::plugins::Plugins;

/// A gateway without sockets.
pub struct Gateway {
    plugins: Plugins,
    carry: Carry,
    observer: Arc<Observer>,
    plan: ArcSwap<Plan>,
    tasks: TaskTracker,
    ready: AtomicBool,
    history: Mutex<History>,
}

/// What is told about the configuration.
#[derive(Default)]
struct History {
    loaded: Option<SystemTime>,
    reloads: u64,
    refused: u64,
    last_refusal: Option<Value>,
}

impl Gateway {
    /// A gateway with these plugins. It serves nothing until a plan [goes live](Gateway::go_live).
    pub fn new(plugins: Plugins) -> Self {
        let carry = Carry::default();
        Self {
            observer: Arc::new(Observer::new(carry.pools.clone())),
            plugins,
            carry,
            plan: ArcSwap::from_pointee(Plan::empty()),
            tasks: TaskTracker::new(),
            ready: AtomicBool::new(false),
            history: Mutex::default(),
        }
    }

    /// Reads and builds a file. Whatever is wrong with it is in the faults, and then there is no plan.
    pub fn plan_file(&self, path: &Path) -> (Option<Plan>, Faults) {
        let (file, faults) = plan::read(path);
        self.build(file, path.parent(), faults)
    }

    /// Builds a plan from text that is called `name` in reports.
    pub fn plan_text(&self, name: &str, text: &str) -> (Option<Plan>, Faults) {
        let (file, faults) = File::parse(name, text);
        self.build(file, None, faults)
    }

    fn build(&self, file: Option<File>, directory: Option<&Path>, mut faults: Faults) -> (Option<Plan>, Faults) {
        let plan = file.and_then(|file| plan::build(file, directory, &self.plugins, &self.carry, &mut faults));
        (plan, faults)
    }

    /// Lets a plan take over. Requests in flight finish on the plan they began with.
    pub fn go_live(&self, plan: Plan, runtime: &Handle) -> Arc<Plan> {
        let plan = Arc::new(plan);
        self.observer.follow(&plan);
        plan.go_live(runtime, &self.tasks);
        let old = self.plan.swap(plan.clone());
        old.retire();
        self.history().loaded = Some(SystemTime::now());
        plan
    }

    /// The plan that serves.
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.load_full()
    }

    /// What remembers requests.
    pub fn observer(&self) -> Arc<Observer> {
        self.observer.clone()
    }

    /// Whether it serves and is not about to stop.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Says whether it serves and is not about to stop.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Remembers how a reload went.
    pub fn note_reload(&self, reloaded: &Reloaded) {
        self.observer.note_reload(matches!(reloaded, Reloaded::Live(..)));
        let mut history = self.history();
        match reloaded {
            Reloaded::Live(..) => {
                history.reloads += 1;
                history.last_refusal = None;
            }
            Reloaded::Refused(faults) => {
                history.refused += 1;
                history.last_refusal = Some(json!({ "time": timestamp(SystemTime::now()), "faults": faults }));
            }
            Reloaded::Unavailable(reason) => {
                history.refused += 1;
                history.last_refusal = Some(json!({ "time": timestamp(SystemTime::now()), "error": reason }));
            }
        }
    }

    /// What was loaded, when, and what was wrong with the last try.
    pub fn configuration(&self) -> Value {
        let plan = self.plan();
        let history = self.history();
        json!({
            "file": plan.file_name(),
            "hash": plan.file_hash(),
            "loaded": history.loaded.map(timestamp),
            "reloads": history.reloads,
            "refused": history.refused,
            "last_refusal": history.last_refusal,
            "sections": plan.sections(),
        })
    }

    /// The numbers, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        self.observer.render(&self.plan())
    }

    /// Opens the access log's file again, after it was moved away.
    pub fn reopen_log(&self) {
        self.observer.reopen();
    }

    /// Ends what runs beside the requests, and writes out what is still to be written.
    pub async fn shut_down(&self) {
        let old = self.plan.swap(Arc::new(Plan::empty()));
        old.retire();
        drop(old);
        // Plugins that have something to send yet (a trace's last segments) take their time, which is bounded.
        self.tasks.close();
        self.tasks.wait().await;
        self.observer.flush().await;
    }

    fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn timestamp(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

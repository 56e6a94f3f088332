//! A gateway without sockets: the plan that serves, what outlives plans, and what is known about both.
//!
//! [`App`](crate::app::App) puts sockets before it. To put it into an axum application instead, see [`Gateway::router`].

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse;
use http::StatusCode;
use portcullis_config::{Document, Faults};
use portcullis_middleware::{Cause, Exchange, Rejection, Request, Response, rejection};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::app::Reloaded;
use crate::edge;
use crate::observe::Observer;
use crate::plan::{self, Carry, Plan};
use crate::plugins::Plugins;
use crate::server::{Peer, upgraded};
use crate::unavailable::Unavailable;

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
            observer: Arc::new(Observer::new(carry.pools.clone(), carry.tls.counts.clone(), carry.headers.clone())),
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
        plan::read(path, &self.plugins, &self.carry)
    }

    /// Builds a plan from text that is called `name` in reports.
    pub fn plan_text(&self, name: &str, text: &str) -> (Option<Plan>, Faults) {
        let mut faults = Faults::default();
        let document = Document::parse(name, text, &mut faults);
        let plan = self.plan_of(&document, None, &mut faults);
        (plan, faults)
    }

    /// Builds the plan of a document. Relative paths in it start from `directory`.
    pub fn plan_of(&self, document: &Document, directory: Option<&Path>, faults: &mut Faults) -> Option<Plan> {
        plan::of(document, directory, &self.plugins, &self.carry, faults)
    }

    /// Starts what a plan needs beside the requests. It serves none before it [takes over](Gateway::take_over).
    ///
    /// If something it needs cannot be had, nothing changes.
    pub fn prepare(&self, plan: Plan, runtime: &Handle) -> Result<Arc<Plan>, Unavailable> {
        self.observer.follow(&plan)?;
        self.carry.pools.tend(runtime);
        plan.go_live(runtime, &self.tasks);
        Ok(Arc::new(plan))
    }

    /// Lets a plan that was [prepared](Gateway::prepare) serve. Requests in flight finish on the plan they began with.
    pub fn take_over(&self, plan: Arc<Plan>) {
        self.plan.swap(plan).retire();
        self.history().loaded = Some(SystemTime::now());
    }

    /// Lets a plan [take over](Gateway::take_over) at once.
    pub fn go_live(&self, plan: Plan, runtime: &Handle) -> Result<Arc<Plan>, Unavailable> {
        let plan = self.prepare(plan, runtime)?;
        self.take_over(plan.clone());
        Ok(plan)
    }

    /// A gateway from TOML, live on the current tokio runtime, to be put into an axum application:
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use std::net::SocketAddr;
    ///
    /// let routes = r#"
    ///     [listener.web]
    ///     address = "127.0.0.1:8080"
    ///
    ///     [[route]]
    ///     match = { path = "/healthz" }
    ///     respond = { body = "ok\n" }
    /// "#;
    /// let gateway = portcullis::Gateway::from_toml("gateway.toml", routes, portcullis::plugins()).unwrap();
    /// let app = axum::Router::new()
    ///     .route("/own", axum::routing::get(|| async { "not the gateway's" }))
    ///     .fallback_service(gateway.router("web").expect("the file has a listener `web`"));
    /// let service = app.into_make_service_with_connect_info::<SocketAddr>();
    /// # drop(service);
    /// # });
    /// ```
    pub fn from_toml(name: &str, text: &str, plugins: Plugins) -> Result<Arc<Self>, Faults> {
        let gateway = Self::new(plugins);
        let (plan, faults) = gateway.plan_text(name, text);
        let Some(plan) = plan else { return Err(faults) };
        if let Err(unavailable) = gateway.go_live(plan, &Handle::current()) {
            let mut faults = Faults::new();
            faults.error_without_place(unavailable.to_string());
            return Err(faults);
        }
        gateway.set_ready(true);
        Ok(Arc::new(gateway))
    }

    /// The listener of this name as an axum application; `None` if the plan has no such listener.
    ///
    /// It binds nothing: whoever serves the application does. Clients are known by [`ConnectInfo`]; without it whatever
    /// decides by the client's address refuses. So does a listener that has `tls`: it cannot know who shook hands. Requests follow the plan of the moment, also after a reload.
    pub fn router(self: &Arc<Self>, listener: &str) -> Option<Router> {
        self.plan().door_of(listener)?;
        let (gateway, listener) = (self.clone(), listener.to_owned());
        Some(Router::new().fallback(move |request: Request| {
            let door = gateway.plan().door_of(&listener);
            let observer = gateway.observer();
            async move {
                // The listener is gone since the last reload.
                let Some(door) = door else {
                    let gone = Rejection::new(Cause::NoRoute).into_response();
                    return rejection::finish(&Exchange::of(&request), gone);
                };
                let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
                let peer = address.map(Peer::at);
                spawn_upgraded(edge::serve(&door, &observer, request, peer.as_ref()).await.into_response())
            }
        }))
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

/// What an application serves that knows nothing of [`upgraded`] connections: the body of a `101` is read by a task.
fn spawn_upgraded(response: Response) -> Response {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    let (head, mut body) = response.into_parts();
    tokio::spawn(async move { upgraded::until_over(Pin::new(&mut body)).await });
    Response::from_parts(head, Body::empty())
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::proxy::Upstream;
    use crate::registry::Live;

    /// A file whose services and middlewares are the same whatever its one route says.
    fn file(body: &str) -> String {
        format!(
            r#"
            access_log = {{ output = "off" }}
            [listener.web]
            address = "127.0.0.1:0"
            chain = ["office", "router"]
            [registry.default]
            type = "memory"
            [service.fixed]
            instances = ["127.0.0.1:9"]
            [middleware.office]
            type = "ip_whitelist"
            allow = ["127.0.0.0/8"]
            [[route]]
            match = {{ path = "/hello" }}
            respond = {{ body = "{body}" }}
            [[route]]
            match = {{ path = "/fixed" }}
            service = "fixed"
            [[route]]
            match = {{ path = "/orders" }}
            service = "orders"
            [[route]]
            match = {{ path = "/{{service}}/{{*rest}}" }}
            chain = [{{ type = "mirror", service = "orders" }}]
            service = "{{service}}"
            "#
        )
    }

    fn go_live(gateway: &Gateway, text: &str) -> Arc<Plan> {
        let (plan, faults) = gateway.plan_text("gateway.toml", text);
        let plan = plan.unwrap_or_else(|| panic!("{}", faults.render(false)));
        gateway.go_live(plan, &Handle::current()).expect("it needs nothing")
    }

    fn live(plan: &Plan) -> (Arc<Live>, Arc<Upstream>) {
        (plan.registry("default").unwrap().clone(), plan.service("orders").unwrap())
    }

    #[tokio::test]
    async fn a_plan_that_was_replaced_is_gone_and_what_did_not_change_goes_on() {
        let gateway = Gateway::new(crate::plugins());
        let plan = go_live(&gateway, &file("hello"));
        let (registry, orders) = live(&plan);
        let (old, door) = (Arc::downgrade(&plan), Arc::downgrade(&plan.door_of("web").unwrap()));
        let routes: Vec<_> = plan.routes().iter().map(Arc::downgrade).collect();
        drop(plan);

        // One that is refused leaves no trace either.
        assert!(gateway.plan_text("gateway.toml", "[[route]]\nservice = \"nobody\"").0.is_none());
        let plan = go_live(&gateway, &file("adieu"));
        let (same_registry, same_orders) = live(&plan);
        assert!(Arc::ptr_eq(&registry, &same_registry), "the registry is asked on");
        assert!(Arc::ptr_eq(orders.service(), same_orders.service()), "and so is what it knows");
        assert_eq!((old.strong_count(), door.strong_count()), (0, 0), "nobody holds the old plan");
        assert_eq!(routes.iter().map(Weak::strong_count).sum::<usize>(), 0, "nor any route of it");
    }
}
